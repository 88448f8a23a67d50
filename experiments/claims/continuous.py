"""Claims of the papers on autoregressive models of continuous tokens."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from claims import Outcome, claim
from claims.training import digits
from jaxae import data, losses, metrics, nn, optim
from jaxae.distributions import normal_log_prob
from jaxae.losses.diffusion import guide
from jaxae.priors import Prior
from jaxae.priors.causal_continuous import causal_continuous
from jaxae.priors.masked_continuous import masked_continuous
from jaxae.priors.tokens import Head, diffusion_head
from jaxae.quantizers.kmeans import kmeans
from jaxae.systems.autoregressive.patches import from_patches, to_patches
from jaxae.systems.base import Objective, variables
from jaxae.systems.builders import one_loss
from jaxae.train import fit


def fitted(init, loss, dataset, steps: int, *, rate: float = 2e-3, batch_size: int = 64, average: float = 0.99,
           b2: float = 0.999, seed: int = 0):
    """Averaged parameters after `steps` updates of `loss(params, batch, key) -> [n]`."""
    settings = ConfigDict(optim.defaults() | dict(learning_rate=rate, schedule="cosine", warmup_steps=50, clip=3.0,
                                                  b2=b2))
    system = one_loss(lambda key, batch: (init(key, batch), ()),
                      lambda params, extra, batch, key, train: Objective(loss(params, batch, key)),
                      optim.optimizer(settings, steps), average=average)
    state, _ = fit(system, dataset, steps, jax.random.key(seed), batch_size=batch_size)
    return variables(state).params


def fitted_prior(prior: Prior, x, steps: int, label=None, **options):
    """The same for a prior on tokens x [n t d]."""
    flat, test_label = x.reshape(len(x), -1), None if label is None else label[:64]

    def tokens(batch):
        return batch["x"].reshape(-1, *x.shape[1:])

    return fitted(lambda key, batch: prior.init(key, tokens(batch), batch.get("label")),
                  lambda params, batch, key: prior.loss(params, tokens(batch), batch.get("label"), key),
                  data.from_arrays(flat, label, test_x=flat[:64], test_label=test_label), steps, **options)


def gaussian_head(d: int, width: int, depth: int) -> Head:
    """A baseline: one Gaussian of its own mean and variance for each channel of a token."""
    net = nn.MLP((width,) * depth + (2 * d,), jax.nn.silu)

    def moments(params, z):
        return jnp.split(net.apply({"params": params}, z), 2, axis=-1)

    def sample(params, key, z, null=None, weight=1.0, temperature=1.0, steps=0):
        mean, log_std = moments(params, z)
        return mean + temperature * jnp.exp(log_std) * jax.random.normal(key, mean.shape)

    return Head(lambda key, x, z: net.init(key, z)["params"],
                lambda params, x, z, key, axis_name=None: -normal_log_prob(x, *moments(params, z)).sum(-1), sample)


def categorical_head(codebook) -> Head:
    """A baseline: cross-entropy on the nearest vector of a codebook [K d], which is also what is drawn."""
    net = nn.MLP((len(codebook),))

    def loss(params, x, z, key, axis_name=None):
        distance = losses.squared_distances(x.reshape(-1, x.shape[-1]), codebook).reshape(*x.shape[:-1], -1)
        nearest = distance == distance.min(-1, keepdims=True)  # an argmin is several times slower
        log_p = jax.nn.log_softmax(net.apply({"params": params}, z))
        return -(log_p * nearest).sum(-1) / nearest.sum(-1)

    def sample(params, key, z, null=None, weight=1.0, temperature=1.0, steps=0):
        logits = net.apply({"params": params}, z)
        logits = logits if null is None else guide(logits, net.apply({"params": params}, null), weight)
        return codebook[jax.random.categorical(key, logits / temperature)]

    return Head(lambda key, x, z: net.init(key, z)["params"], loss, sample)


@claim(paper="P153", budget=180,
       threshold={"energy_ratio_below": 1.5, "gaussian_energy_ratio_above": 1.5, "cold_std_ratio_below": 0.9},
       sentence="a diffusion head draws p(x | z), a mixture in the plane whose weights and means turn with z, to an "
                "energy distance under 1.5 times that of two true samples, where a Gaussian head does not; temperature "
                "0.5 shrinks the standard deviation within the modes")
def head_draws_the_conditional_mixture(threshold):
    """Three Gaussians of deviation .15 around a circle that z in [-1, 1]^2 turns and stretches, weights softmax(B z).

    Energy distances with their diagonal, of 500 draws from 500 others, mean over 16 z; the deviation within a mode is
    of draws around their nearest true mean.
    """
    rng, spread, modes = np.random.default_rng(0), 0.15, 3
    weights_of = 1.5 * rng.normal(size=(2, modes))

    def means(z):
        angle = 2 * np.pi * np.arange(modes) / modes + 1.5 * z[:, :1]
        return (1.0 + 0.4 * z[:, 1:, None]) * np.stack([np.cos(angle), np.sin(angle)], -1)  # [n modes 2]

    def truth(z, rng):
        logits = z @ weights_of
        which = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        return (means(z)[np.arange(len(z)), which] + spread * rng.normal(size=(len(z), 2))).astype(np.float32)

    z = rng.uniform(-1, 1, (100_000, 2)).astype(np.float32)
    dataset = data.from_arrays(truth(z, rng), extra={"z": z}, test_x=truth(z[:64], rng), test_extra={"z": z[:64]})
    places, count = rng.uniform(-1, 1, (16, 2)).astype(np.float32), 500
    rows = np.repeat(places, count, 0)
    first, second = (truth(rows, rng).reshape(16, count, 2) for _ in range(2))
    distance = jax.jit(lambda a, b: jax.lax.map(lambda ab: losses.energy_distance(*ab, unbiased=False), (a, b)).mean())
    floor = float(distance(first, second))

    def within(drawn):
        """Root mean square of the distance to the nearest mean, per axis."""
        gaps = np.square(drawn[:, :, None] - means(places)[:, None]).sum(-1).min(-1)
        return float(np.sqrt(gaps.mean() / 2))

    found = {"true_energy": floor, "true_std": within(first)}
    for name, head in (("diffusion", diffusion_head(2, 64, 3, draws=1)), ("gaussian", gaussian_head(2, 64, 3))):
        params = fitted(
            lambda key, batch, head=head: head.init(key, batch["x"][:, None], batch["z"][:, None]),
            lambda params, batch, key, head=head: head.loss(params, batch["x"][:, None], batch["z"][:, None], key),
            dataset, 2000, batch_size=300)
        draw = jax.jit(lambda key, temperature, head=head, params=params: head.sample(
            params, key, jnp.asarray(rows), None, 1.0, temperature, 100))
        warm, cold = (np.asarray(draw(jax.random.key(i), t)).reshape(16, count, 2) for i, t in enumerate((1.0, 0.5)))
        found |= {f"{name}_energy_ratio": float(distance(warm, second)) / floor, f"{name}_std": within(warm),
                  f"{name}_cold_std_ratio": within(cold) / within(warm)}
    return Outcome(found["diffusion_energy_ratio"] < threshold["energy_ratio_below"]
                   and found["gaussian_energy_ratio"] > threshold["gaussian_energy_ratio_above"]
                   and found["diffusion_cold_std_ratio"] < threshold["cold_std_ratio_below"], found)


@claim(paper="P153", budget=240, threshold={"relative_error": 0.1},
       sentence="of four tokens of a linear-Gaussian process, samples of causal models (raster and random order) and "
                "of the masked one with an iteration for each token have the analytic covariance within 10%")
def linear_gaussian_tokens_have_their_covariance(threshold):
    """Two-dimensional states x_t = A x_(t-1) + noise, A .8 times a turn by 40 degrees, stationary with covariance I.

    The relative error is |C^ - C| / |C| in Frobenius norm, of 4,000 samples; that of 4,000 true ones stands beside it.
    """
    length, angle = 4, np.deg2rad(40)
    turn = 0.8 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    powers = [np.linalg.matrix_power(turn, k) for k in range(length)]
    exact = np.block([[powers[i - j] if i >= j else powers[j - i].T for j in range(length)] for i in range(length)])
    root = np.linalg.cholesky(exact)

    def true(n, seed):
        return (np.random.default_rng(seed).normal(size=(n, 2 * length)) @ root.T).reshape(n, length, 2)

    def error(x):
        return float(np.linalg.norm(np.cov(np.asarray(x).reshape(len(x), -1).T) - exact) / np.linalg.norm(exact))

    x, head = true(50_000, 0).astype(np.float32), diffusion_head(2, 48, 2, draws=2)
    net = dict(head=head, width=32, heads=2, buffer=1)
    found = {"true_error": error(true(4000, 1))}
    for name, prior in (
            ("causal_raster", causal_continuous((length, 2), order="raster", depth=2, **net)),
            ("causal_random", causal_continuous((length, 2), order="random", depth=2, **net)),
            ("masked", masked_continuous((length, 2), depth=1, least_masked=0.0, mask_std=1.0, **net))):
        params = fitted_prior(prior, x, 1500, batch_size=128, rate=4e-3)
        options = {"iterations": length} if name == "masked" else {}
        found[f"{name}_error"] = error(prior.sample(params, jax.random.key(1), 4000, steps=50, **options))
    worst = max(found[f"{name}_error"] for name in ("causal_raster", "causal_random", "masked"))
    return Outcome(worst < threshold["relative_error"], found)


@claim(paper="P153", budget=600, threshold={"frechet_ratio_below": 1.0, "iterations": [4, 16, 49]},
       sentence="on digits as 49 patches of 4x4 pixels a masked model with the diffusion head is nearer to the test "
                "set (Frechet distance of a classifier's features) than the same transformer with cross-entropy on 256 "
                "vector-quantized patches, and gets nearer with 4, 16 and 49 iterations")
def diffusion_head_beats_vector_quantized_patches(threshold):
    """Classes given, no guidance, 500 samples against 1,000 test digits; both sampled in 49 iterations to compare.

    The distances of 500 training digits, as they are and with quantized patches, stand beside. The baseline sees and
    draws quantized patches alone. The head predicts x and has the variance of q, not a learned one: of its choices
    what did best on one half of the patches given the other half, where cross-entropy was behind it. Earlier runs: 322
    against 288 after 800 updates of 32 with embeddings of places that started small, 306 against 186 after 3,000
    updates of 8.
    """
    dataset, side, shape = digits(size=28), 4, (28, 28, 1)
    train, test = (dict(part.arrays()) for part in (dataset.train, dataset.test))
    x = np.asarray(to_patches(jnp.float32(train["x"]) / 255.0, side))
    mean, std = x.mean(), x.std()
    x, label = (x - mean) / std, train["label"].astype(np.int32)
    codebook = kmeans(jnp.asarray(x.reshape(-1, 16)[np.random.default_rng(0).permutation(49 * len(x))[:40_000]]), 256,
                      jax.random.key(0))
    features = jax.jit(metrics.digit_features())
    goal = features(jnp.float32(test["x"]) / 255.0)

    def frechet(images):
        return float(metrics.frechet_distance(features(jnp.clip(images, 0.0, 1.0)), goal))

    def as_images(rows):
        return from_patches(rows * std + mean, shape, side)

    grid, codes = (7, 7, side * side), jax.lax.map(
        lambda row: losses.squared_distances(row, codebook).argmin(-1), jnp.asarray(x))
    quantized = np.asarray(codebook[codes])
    found = {"true_frechet": frechet(as_images(jnp.asarray(x[:500]))),
             "quantized_frechet": frechet(as_images(jnp.asarray(quantized[:500])))}
    classes = jnp.arange(500) % 10
    heads = {"diffusion": (diffusion_head(16, 64, 2, predicts="x", learned_variance=False, draws=2), x),
             "cross_entropy": (categorical_head(codebook), quantized)}
    for name, (head, rows) in heads.items():
        prior = masked_continuous(grid, 10, head, width=64, depth=2, heads=4, buffer=4, least_masked=0.0, mask_std=1.0)
        started = time.perf_counter()
        params = fitted_prior(prior, rows.reshape(-1, *grid), 1500, label, batch_size=32, rate=2e-3, average=0.995)
        found[f"{name}_training_seconds"] = time.perf_counter() - started
        for iterations in threshold["iterations"] if name == "diffusion" else threshold["iterations"][-1:]:
            drawn = prior.sample(params, jax.random.key(1), 500, classes, iterations=iterations, steps=25)
            found[f"{name}_{iterations}_frechet"] = frechet(as_images(drawn))
    curve = [found[f"diffusion_{k}_frechet"] for k in threshold["iterations"]]
    last = threshold["iterations"][-1]
    found["frechet_ratio"] = curve[-1] / found[f"cross_entropy_{last}_frechet"]
    return Outcome(found["frechet_ratio"] < threshold["frechet_ratio_below"]
                   and bool(np.all(np.diff(curve) < 0)), found)
