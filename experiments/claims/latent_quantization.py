"""Claims of the paper on disentangling by latent quantization."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from claims import Outcome, claim
from claims.training import Trained, config_of, mean_sd, over, trained
from jaxae import data, metrics
from jaxae.quantizers import Codes
from jaxae.quantizers.latent import latent_quantization
from jaxae.systems.discrete import vq_vae
from jaxae.systems.gaussian import info, vae

SEEDS = (0, 1)
UPDATES, RATE, DECAY = 5000, 1e-2, 0.3
NETWORKS = dict(network="style", channels=(4, 16, 32), features=(64, 64), blocks=0, likelihood="bernoulli")


@claim(paper="P121", budget=30, threshold={"relative_error": 1e-5},
       sentence="each number takes the nearest value of its dimension, as found by brute force; the gradient reaches "
                "the values by the quantization loss alone")
def latent_quantizer_is_exact(threshold):
    """2,000 vectors of 12 dimensions with 10 values in no order; a decoder that is a random linear map. Of the loss
    without its quantization term the values' gradient must be 0, of the whole loss that of the term in closed form."""
    rng = np.random.default_rng(0)
    z, values, w = rng.normal(size=(2000, 12)), rng.normal(size=(12, 10)), rng.normal(size=12)

    def gradient(weight):
        quantizer = latent_quantization(12, 10, weight, 0.01)

        def loss(values):
            found = quantizer.quantize(jnp.float32(z), Codes(values), jax.random.key(0), True)
            return jnp.mean(found.loss + jnp.sin(found.z_q @ jnp.float32(w))), found.indices

        return jax.jit(jax.grad(loss, has_aux=True))(jnp.float32(values))

    nearest = np.array([[min(range(10), key=lambda k: abs(z[i, j] - values[j, k])) for j in range(12)]
                        for i in range(2000)])
    pull = np.zeros_like(values)
    np.add.at(pull, (np.arange(12), nearest), -2 * 0.01 * (z - values[np.arange(12), nearest]) / z.size)
    (without, indices), (whole, _) = gradient(0.0), gradient(0.01)
    wrong, leak = int((np.asarray(indices) != nearest).sum()), float(np.abs(without).max())
    error = float(np.abs(whole - pull).max() / np.abs(pull).max())
    return Outcome(wrong == 0 and leak == 0.0 and error < threshold["relative_error"],
                   {"wrong": wrong, "leak": leak, "relative_error": error})


def scores(run: Trained, member) -> dict[str, float]:
    """InfoMEC of all images, PSNR in decibels of the test split."""
    splits = (sprites().train, sprites().test)
    z = np.concatenate([over(lambda b: run.system.encode(member, b["x"]), split, sprites()) for split in splits])
    factors = np.concatenate([split[np.arange(len(split))]["factors"] for split in splits])[:, [0, 1, 3, 4]]
    found = metrics.infomec(factors, z.reshape(len(z), -1), discrete=bool(run.system.latent.codes))
    psnr = over(lambda b: metrics.psnr(b["x"], run.system.reconstruct(member, b["x"])), sprites().test, sprites())
    return {"infom": found.infom, "infoe": found.infoe, "infoc": found.infoc, "psnr": float(psnr.mean())}


@functools.cache
def sprites() -> "data.Dataset":
    """576 sprites of 32x32: 3 shapes, 3 sizes, 8 x 8 places; a tenth of them is the test split."""
    return data.load(dict(source="sprites", size=32, factor_sizes=(3, 3, 1, 8, 8)))


def autoencoders(module, rate: float, decay: float = 0.0, **model) -> list[dict[str, float]]:
    """Scores of 2 seeds of a model in the style networks."""
    config = config_of(module, UPDATES, seeds=2, batch_size=16, rate=rate, **NETWORKS, **model)
    config.optim.update(dict(schedule="cosine", final_scale=0.1, warmup_steps=200))
    if decay:
        config.optim.update(dict(name="adamw", weight_decay=decay, decay_exclude=("codes", "bias"), clip_elements=1.0))
    run = trained(config, sprites())
    return [scores(run, member) for member in run.members]


@functools.cache
def quantized(decay: float = DECAY, **changes) -> list[dict[str, float]]:
    """Scores of 2 seeds of the quantized-latent autoencoder: 8 latents of 8 values."""
    return autoencoders(vq_vae, RATE, decay, **dict(quantizer="latent", positions=1, width=8, codes=8, beta=0.01)
                        | changes)


def compared(rows: dict[str, list[dict[str, float]]]) -> tuple[dict, dict]:
    """Means of the seeds, `[model][score]`, and what the table shows."""
    means = {name: {key: float(np.mean([row[key] for row in of])) for key in of[0]} for name, of in rows.items()}
    shown = {f"{name}_{key}": mean_sd([row[key] for row in of]) for name, of in rows.items() for key in of[0]}
    return means, shown
