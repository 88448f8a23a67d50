"""Claims of the papers on discrete bottlenecks."""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from claims import Outcome, claim
from jaxae import data, metrics, quantizers, systems
from jaxae.systems.base import variables
from jaxae.systems.discrete import vq_vae
from jaxae.systems.gaussian import vae
from jaxae.train import fit
from jaxae.train.config import base
from jaxae.train.setup import example_of


@claim(paper="P170", budget=20, threshold={"relative_error": 1e-4},
       sentence="straight-through, codebook and commitment gradients are the closed forms, and unselected codes "
                "get none")
def exact_gradients(threshold):
    """Random z, codes and linear decoder; the worst relative error over five draws."""
    n, d, m, k, beta = 64, 8, 10, 32, 0.25

    def loss(z, codes, decoder, x):
        q = quantizers.vector_quantize(z, codes)
        error = jnp.sum((q.z_q @ decoder.T - x) ** 2, -1)
        return jnp.mean(error + d * (q.codebook_loss + beta * q.commitment_loss))

    gradient, worst, leaked = jax.jit(jax.grad(loss, (0, 1))), 0.0, 0.0
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), 4)
        shapes = ((n, d), (k, d), (m, d), (n, m))
        z, codes, decoder, x = (np.asarray(jax.random.normal(key, s)) for key, s in zip(keys, shapes, strict=True))
        by_z, by_codes = (np.asarray(g) for g in gradient(z, codes, decoder, x))
        index = ((z[:, None] - codes) ** 2).sum(-1).argmin(-1)
        e = codes[index]
        want_z = 2 / n * (e @ decoder.T - x) @ decoder + 2 * beta / n * (z - e)
        want_codes = np.zeros((k, d))
        np.add.at(want_codes, index, 2 / n * (e - z))
        for got, want in ((by_z, want_z), (by_codes, want_codes)):
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
        leaked = max(leaked, float(np.abs(by_codes[np.setdiff1d(np.arange(k), index)]).max(initial=0.0)))
    return Outcome(worst < threshold["relative_error"] and leaked == 0.0,
                   {"relative_error": worst, "gradient_of_unselected_codes": leaked}, tuple(range(5)))


@claim(paper="P170", budget=30, threshold={"standard_errors": 3.0, "inertia_ratio": 1.02},
       sentence="the moving-average codebook is online k-means: codes lie on planted means, inertia is that of "
                "scikit-learn's KMeans")
def ema_is_online_kmeans(threshold):
    """Ten separated Gaussians in the plane, 300 batches, codes started from data."""
    means = np.stack([[i % 5, i // 5] for i in range(10)]) * 4.0
    noise, batch, decay, rng = 0.3, 256, 0.99, np.random.default_rng(0)

    def draw(n):
        return (means[rng.integers(0, 10, n)] + noise * rng.normal(size=(n, 2))).astype(np.float32)

    state = quantizers.ema_codebook(quantizers.kmeans(jnp.asarray(draw(2000)), 10, jax.random.key(3), 5))
    step = jax.jit(lambda s, z: quantizers.ema_update(s, z, quantizers.nearest_code(z, s.codes), decay))
    for _ in range(300):
        state = step(state, draw(batch))
    codes = np.asarray(state.codes)
    nearest = ((codes[:, None] - means) ** 2).sum(-1).argmin(-1)
    sample = draw(10_000)
    inertia = ((sample[:, None] - codes) ** 2).sum(-1).min(-1).sum()
    reference = KMeans(10, n_init=10, random_state=0).fit(sample).inertia_
    error = noise / np.sqrt((1 + decay) / (1 - decay) * batch / 10)
    distance = float(np.sqrt(((codes - means[nearest]) ** 2).mean()) / error)
    matched = len(set(nearest.tolist()))
    return Outcome(matched == 10 and distance < threshold["standard_errors"]
                   and inertia / reference < threshold["inertia_ratio"],
                   {"matched_means": matched, "rms_standard_errors": distance,
                    "inertia_ratio": float(inertia / reference)})


@claim(paper="P170", budget=300,
       threshold={"vae_kl": 0.1, "vq_perplexity": 8.0, "vq_probe_at_least": 0.5, "vae_probe_at_most": 0.2},
       sentence="with a PixelCNN decoder a Gaussian VAE ignores its latent (KL under 0.1 nat, probe near chance), "
                "the VQ-VAE does not (perplexity over 8, probe well above chance)")
def no_posterior_collapse(threshold):
    """14x14 binary digits, the same gated PixelCNN decoder, as many updates for both."""
    dataset = data.load(dict(source="digits", size=14, binarize="static"))

    def config(module, name, **model):
        c = base()
        c.system, c.model, c.batch_size, c.steps = name, module.defaults(), 100, 500
        c.model.update(dict(network="mlp", features=(256,), likelihood="bernoulli", decoder="pixelcnn",
                            pixelcnn_hidden=32, pixelcnn_layers=4) | model)
        return c

    configs = {"vae": config(vae, "gaussian.vae", latent=16),
               "vq": config(vq_vae, "discrete.vq_vae", positions=4, codes=64, width=16)}
    found, labels = {}, [np.asarray(s[np.arange(len(s))]["label"]) for s in (dataset.train, dataset.test)]
    for name, c in configs.items():
        example = jax.eval_shape(dataset.test_transform, example_of(dataset, c.batch_size), jax.random.key(0))
        system = systems.build(c, example)
        state, history = fit(system, dataset, c.steps, jax.random.key(0))
        model = variables(state)
        encode = jax.jit(system.encode)

        def features(split, encode=encode, model=model, system=system):
            rows = []
            for start in range(0, len(split), 500):
                batch = dataset.test_transform(split[np.arange(start, min(start + 500, len(split)))],
                                               jax.random.key(0))
                z = encode(model, batch["x"])
                z = jax.nn.one_hot(z, system.latent.codes) if system.latent.codes else z
                rows.append(np.asarray(z).reshape(len(z), -1))
            return np.concatenate(rows)

        accuracy = metrics.linear_probe(jnp.asarray(features(dataset.train)), jnp.asarray(labels[0]),
                                        jnp.asarray(features(dataset.test)), jnp.asarray(labels[1]), 10)
        found |= {f"{name}_{key.removeprefix('test/')}": float(value) for key, value in history[-1].items()
                  if key in ("test/kl", "test/perplexity", "test/bits_per_dim")}
        found[f"{name}_probe"] = float(accuracy)
    holds = (found["vae_kl"] < threshold["vae_kl"] and found["vq_perplexity"] > threshold["vq_perplexity"]
             and found["vq_probe"] >= threshold["vq_probe_at_least"]
             and found["vae_probe"] <= threshold["vae_probe_at_most"])
    return Outcome(holds, found | {"vq_over_vae_bits": found["vq_bits_per_dim"] / found["vae_bits_per_dim"]})
