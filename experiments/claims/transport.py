"""Claims of the papers on autoencoders by optimal transport."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from claims import Outcome, claim
from claims.training import config_of, over, trained
from jaxae import data, losses, metrics, priors
from jaxae.nn import MLP
from jaxae.systems.gaussian import info, vae
from jaxae.systems.transport import coupled, wae


def _points(x, test_fraction: float = 0.2):
    return data.from_arrays(np.asarray(x, np.float32), test_fraction=test_fraction)


def _exact(x, y, order: int = 2) -> float:
    """W_1 or W_2 of two equal samples, by assignment."""
    cost = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(y)[None], axis=-1) ** order
    return float(cost[linear_sum_assignment(cost)].mean() ** (1.0 / order))


def _codes(run, member, split, dataset, key=None):
    return over(lambda batch: run.system.encode(member, batch["x"], key), split, dataset)


@claim(
    paper="P150",
    budget=240,
    threshold={"mmd_ratio": 5.0},
    sentence="test error AE <= WAE-MMD < VAE, the WAE's MMD to the prior is under a fifth of the AE's, and its prior "
    "samples have a lower Frechet distance than the AE's and no higher than the VAE's",
)
def wae_against_ae_and_vae(threshold):
    """28x28 digits, 8 latents, the same convolutional networks and steps."""
    dataset, found = data.load(dict(source="digits")), {}
    features = metrics.digit_features()
    real = over(lambda b: features(b["x"]), dataset.test, dataset)
    prior = jax.random.normal(jax.random.key(7), (1000, 8))
    for name, module, keys in (("ae", wae, dict(divergence="none")), ("wae", wae, {}), ("vae", vae, {})):
        keys = keys | (dict(likelihood="mse") if module is wae else {})
        run = trained(config_of(module, 1500, latent=8, network="conv", channels=(16, 32), blocks=0, **keys), dataset)
        member, system = run.members[0], run.system
        z = _codes(run, member, dataset.test, dataset, jax.random.key(3) if name == "vae" else None)
        images = jax.jit(lambda key, m=member, s=system: features(s.sample(m, key, 1000)))(jax.random.key(1))
        found |= {
            f"{name}_mse": float(run.test["mse"][0]),
            f"{name}_mmd": float(losses.mmd(jnp.asarray(z), prior, losses.inverse_multiquadric())),
            f"{name}_frechet": float(metrics.frechet_distance(np.asarray(images), real)),
        }
    holds = (
        found["ae_mse"] <= found["wae_mse"] < found["vae_mse"]
        and found["wae_mmd"] < found["ae_mmd"] / threshold["mmd_ratio"]
        and found["wae_frechet"] < found["ae_frechet"]
        and found["wae_frechet"] <= found["vae_frechet"]
    )
    return Outcome(holds, found)


@claim(
    paper="P150",
    budget=120,
    threshold={"accuracy": [0.45, 0.6], "sliced_w2": 0.1},
    sentence="WAE-GAN on a swiss roll in the plane ends with a discriminator near chance and codes that follow N(0, I)",
)
def wae_gan_matches_the_prior(threshold):
    """2 latents; accuracy and sliced W_2 on the test codes."""
    rng = np.random.default_rng(0)
    t = 1.5 * np.pi * (1 + 2 * rng.uniform(size=10_000))
    roll = np.stack([t * np.cos(t), t * np.sin(t)], 1) / 8.0 + 0.02 * rng.normal(size=(10_000, 2))
    dataset = _points(roll)
    config = config_of(
        wae,
        6000,
        batch_size=200,
        features=(128, 128),
        latent=2,
        likelihood="mse",
        cost_scale=1.0,
        divergence="gan",
        weight=1.0,
        critic=(128, 128, 128),
        critic_rate=1e-3,
    )
    config.optim.b1 = 0.5
    run = trained(config, dataset)
    z = jnp.asarray(_codes(run, run.members[0], dataset.test, dataset))
    prior = jax.random.normal(jax.random.key(1), z.shape)
    distance = float(jnp.sqrt(losses.sliced_wasserstein(z, prior, jax.random.key(2), 200)))
    accuracy = float(run.test["adversary/accuracy"][0])
    low, high = threshold["accuracy"]
    return Outcome(
        low <= accuracy <= high and distance < threshold["sliced_w2"],
        {"accuracy": accuracy, "sliced_w2": distance, "squared_error": float(run.test["cost"][0])},
    )


@claim(
    paper="P042",
    budget=200,
    threshold={"ratio": 10.0, "mse_ratio": 1.3, "inside": 0.95},
    sentence="with a ring as prior the sliced distance of the codes falls tenfold against a plain autoencoder at no "
    "more than 1.3 times its error, and 95% of the codes lie in the ring",
)
def sliced_wasserstein_shapes_the_codes(threshold):
    """28x28 digits, 2 latents, ring of radii 0.5 to 1; a VAE is the control."""
    dataset, found = data.load(dict(source="digits")), {}
    ring = priors.ring(0.5)
    models = (
        ("ae", wae, dict(divergence="none")),
        ("swae", wae, dict(divergence="sliced", weight=60.0)),
        ("vae", vae, {}),
    )
    for name, module, keys in models:
        if module is wae:
            keys = keys | dict(likelihood="bernoulli", prior="ring", cost="mean", cost_scale=1.0)
        run = trained(config_of(module, 4000, batch_size=250, latent=2, features=(512, 256), **keys), dataset)
        z = jnp.asarray(_codes(run, run.members[0], dataset.test, dataset))
        draws = ring.sample((), jax.random.key(1), z.shape[0])
        radius = np.linalg.norm(np.asarray(z), axis=1)
        found |= {
            f"{name}_mse": float(run.test["mse"][0]),
            f"{name}_sw2": float(losses.sliced_wasserstein(z, draws, jax.random.key(2), 200)),
            f"{name}_inside": float(((radius > 0.4) & (radius < 1.1)).mean()),
        }
    holds = (
        found["ae_sw2"] >= threshold["ratio"] * found["swae_sw2"]
        and found["swae_mse"] <= threshold["mse_ratio"] * found["ae_mse"]
        and found["swae_inside"] >= threshold["inside"]
        and found["vae_inside"] < threshold["inside"]
    )
    return Outcome(holds, found)


@claim(
    paper="P001",
    budget=290,
    threshold={},
    sentence="on a ring of 8 Gaussians the coupled VAE's latents are nearer to the prior (sliced W_2) and its samples "
    "nearer to the data (W_2) than those of a VAE, a WAE-MMD and an InfoVAE",
)
def coupling_leaves_no_prior_holes(threshold):
    """The plane, 2 latents, the same decoder; W_2 by exact assignment of 1,000 samples."""
    dataset = data.load(dict(source="gaussians", num_train=4000, num_test=1000))
    truth = np.asarray(dataset.test.arrays()["x"])
    common = dict(latent=2, features=(128, 128), likelihood="gaussian", scale=0.2)
    found, scores = {}, {}
    for name, module, keys in (
        ("vae", vae, {}),
        ("wae", wae, dict(likelihood="mse", cost_scale=1.0)),
        ("info", info, dict(lam=1000.0)),
        ("coupled", coupled, {}),
    ):
        run = trained(config_of(module, 4000, batch_size=200, **(common | keys)), dataset, prepare_every=50)
        member, system = run.members[0], run.system
        key = None if name == "wae" else jax.random.key(3)
        z = jnp.asarray(_codes(run, member, dataset.test, dataset, key))
        prior = jax.random.normal(jax.random.key(4), z.shape)
        samples = np.asarray(jax.jit(lambda key, m=member, s=system: s.sample(m, key, 1000))(jax.random.key(5)))
        scores[name] = (
            float(jnp.sqrt(losses.sliced_wasserstein(z, prior, jax.random.key(6), 200))),
            _exact(samples, truth),
        )
        found |= {f"{name}_latent_sw2": scores[name][0], f"{name}_sample_w2": scores[name][1]}
    others = [scores[n] for n in ("vae", "wae", "info")]
    holds = scores["coupled"][0] < min(s[0] for s in others) and scores["coupled"][1] <= min(s[1] for s in others)
    return Outcome(holds, found)


def _manifold(n: int, intrinsic: int, ambient: int, seed: int):
    """Points of a smooth random map of the cube, [n ambient], and their coordinates."""
    net, coordinates = (
        MLP((64, ambient), activation=jnp.tanh),
        jax.random.uniform(jax.random.key(seed), (n, intrinsic), minval=-1.0),
    )
    params = net.init(jax.random.key(99), coordinates)
    return np.asarray(jax.jit(net.apply)(params, 4.0 * coordinates)), np.asarray(coordinates)


@claim(
    paper="P037",
    budget=30,
    threshold={"relative": 0.15},
    sentence="intrinsic dimension estimators find 2 and 6 in 64 dimensions, where a linear count finds more",
)
def intrinsic_dimension_is_found(threshold):
    """4,000 points of a random smooth map; the linear count is that of 95% of the variance."""
    found, holds = {}, True
    for d in (2, 6):
        x, _ = _manifold(4000, d, 64, d)
        mle = float(metrics.intrinsic_dimension_mle(x))
        variance = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
        linear = int(np.searchsorted(np.cumsum(variance) / variance.sum(), 0.95) + 1)
        found |= {f"mle_{d}": mle, f"two_nn_{d}": float(metrics.intrinsic_dimension_two_nn(x)), f"linear_{d}": linear}
        holds &= abs(mle / d - 1) < threshold["relative"] and linear > d
    return Outcome(bool(holds), found)


@claim(
    paper="P057",
    budget=60,
    threshold={"slope": 0.05},
    sentence="with the true encoder the root MMD of the codes to the prior falls as n^(-1/2)",
)
def latent_law_is_learned_at_the_root_rate(threshold):
    """Biased root MMD of n planted codes against 10,000 draws, n = 100 to 3,200, 10 repeats."""
    kernel, reference = losses.rbf(1.0), jax.random.normal(jax.random.key(0), (10_000, 2))
    sizes, roots = np.array([100, 200, 400, 800, 1600, 3200]), []
    # k(y, y') over the reference is the same in every row: computed once.
    within = float(kernel(reference, reference).mean())
    for n in sizes:

        def squared(key, n=n):
            z = jax.random.normal(key, (n, 2))
            return kernel(z, z).mean() - 2.0 * kernel(z, reference).mean() + within

        values = jax.lax.map(jax.jit(squared), jax.random.split(jax.random.key(n), 10))
        roots.append(float(jnp.sqrt(values.mean())))
    slope = float(np.polyfit(np.log(sizes), np.log(roots), 1)[0])
    return Outcome(abs(slope + 0.5) <= threshold["slope"], {"slope": slope, "root_mmd": roots}, tuple(range(10)))


@claim(
    paper="P057",
    budget=30,
    threshold={"slack": 0.0},
    sentence="contamination of a share eps moves the root MMD of a fixed encoder's codes by at most 2 eps sqrt(sup k)",
)
def contamination_moves_the_latent_law_linearly(threshold):
    """A fixed encoder, a far point mass as contamination, eps = 0, .05, .1, .2."""
    kernel, prior = losses.rbf(1.0), jax.random.normal(jax.random.key(0), (4000, 2))
    codes = np.asarray(jax.random.normal(jax.random.key(1), (4000, 2))) * 1.1 + 0.1

    def root(z):
        return float(jnp.sqrt(losses.mmd(jnp.asarray(z), prior, kernel, unbiased=False)))

    clean, found, holds = root(codes), {}, True
    for eps in (0.05, 0.1, 0.2):
        z = codes.copy()
        z[: int(eps * len(z))] = 20.0
        found[f"shift_{eps}"] = abs(root(z) - clean)
        holds &= found[f"shift_{eps}"] <= 2 * eps + threshold["slack"]
    return Outcome(bool(holds), found | {"clean": clean})


@claim(
    paper="P057",
    budget=200,
    threshold={},
    sentence="W_1 between generated and true law is at most Lip(D) W_1(E#P, P_Z) + E|x - D(E(x))|, for every n",
)
def generation_bound_holds(threshold):
    """WAE-MMD on planted data, 10 dimensions of 2; Lip(D) by the product of spectral norms; 1,000 samples."""
    x, _ = _manifold(5000, 2, 10, 0)
    fresh, _ = _manifold(2000, 2, 10, 1)
    found, holds = {}, True
    floor = _exact(fresh[:1000], fresh[1000:], 1)
    for n in (250, 1000, 4000):
        dataset = _points(x[: int(n / 0.8)])
        run = trained(
            config_of(wae, 2000, features=(64, 64), latent=2, likelihood="mse", prior="uniform", cost_scale=1.0),
            dataset,
        )
        member, system = run.members[0], run.system
        kernels = [layer["kernel"] for layer in member.params["decoder"]["mlp"].values()]
        lipschitz = float(np.prod([np.linalg.norm(np.asarray(k), 2) for k in kernels]))
        z = np.asarray(system.encode(member, jnp.asarray(fresh[:1000])))
        prior = np.asarray(priors.uniform(2).sample((), jax.random.key(1), 1000))
        generated = np.asarray(system.decode(member, jnp.asarray(prior)))
        left = _exact(generated, fresh[1000:], 1) - floor
        error = float(
            np.linalg.norm(
                fresh[:1000] - np.asarray(system.reconstruct(member, jnp.asarray(fresh[:1000]))), axis=1
            ).mean()
        )
        right = lipschitz * _exact(z, prior, 1) + error
        found |= {f"w1_{n}": left, f"bound_{n}": right, f"error_{n}": error}
        holds &= left <= right
    return Outcome(bool(holds), found | {"floor": floor})
