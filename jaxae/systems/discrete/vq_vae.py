"""VQ-VAE: an autoencoder whose latents are the nearest codes of a learned codebook."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim, quantizers
from jaxae.distributions import bits_per_dim
from jaxae.metrics import code_counts, mse, perplexity, usage
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, State, System, by_chunks, means, variables
from jaxae.systems.builders import one_loss


class CodeUse(NamedTuple):
    """What revives the codes of a codebook that gradients move."""

    counts: Array  # [k] moving average of assignments per batch
    fresh: Array  # [k d] random vectors of the last batch


def defaults() -> ConfigDict:
    """Keys of `config.model`.

    `codes` is K and `width` the codes' dimension. `positions`: 0 makes a map of codes as large as the
    convolutions leave it; P > 0 makes P codes from a vector, which any network and any data can have. `codebook`:
    'ema' (moving averages with `decay`) or 'gradient'. `start`: 'kmeans' or 'data' (random vectors) on the first
    `prepare_examples`, or 'uniform' in +-1/K. `revive`: codes with fewer assignments per batch move to a random
    vector of the batch, 0 for never. `beta` weighs the commitment loss.
    """
    return ConfigDict(networks.defaults() | dict(
        likelihood="mse", codes=512, width=64, positions=0, codebook="ema", decay=0.99, epsilon=1e-5, beta=0.25,
        start="kmeans", revive=0.01))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017,
    arXiv 1711.00937.

    Loss per example: reconstruction + |sg[z] - e|^2 + beta |z - sg[e]|^2, the codebook term only for gradient
    codebooks. Reconstruction is the mean squared error over the elements ('mse'), or minus the log-likelihood in
    nats per data dimension; the other two are means over positions and channels. Latents are integers, maps [n h w]
    or rows [n positions].

    With a likelihood, `nll_bound` is -log p(x | z_q) + positions * log K in nats per example: the codes cost
    log K each under the uniform prior.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    _check(model)
    if model.positions:
        places = (model.positions,)
        encoder = networks.vector_encoder(model, shape, model.positions * model.width, dtype)
        decoder = partial(networks.vector_decoder, model, shape, dtype=dtype)
    else:
        places = networks.map_shape(model, shape)
        encoder = networks.map_encoder(model, shape, model.width, dtype)
        decoder = partial(networks.map_decoder, model, dtype=dtype)
    observed = networks.observation(model, shape, decoder, dtype, axis_name)
    moving, dims, cells = model.codebook == "ema", math.prod(shape), math.prod(places)

    def embed(params, x):
        """[n *places width]"""
        z = encoder.apply({"params": params["encoder"]}, x)
        return z.reshape(x.shape[0], *places, model.width).astype(jnp.float32)

    def seen(z_q):
        """What the decoder takes."""
        return z_q.reshape(z_q.shape[0], -1) if model.positions else z_q

    def codebook(params, extra):
        return extra.codes if moving else params["codebook"]

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("encoder", "decoder", "codes"))
        params = {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                  "decoder": observed.init(keys["decoder"], seen(jnp.zeros((1, *places, model.width))))}
        bound = 1.0 / model.codes
        codes = jax.random.uniform(keys["codes"], (model.codes, model.width), minval=-bound, maxval=bound)
        if moving:
            return params, quantizers.ema_codebook(codes)
        return params | {"codebook": codes}, CodeUse(jnp.ones(model.codes), codes)

    def prepare(state: State, data, key: Array) -> State:
        vectors = by_chunks(lambda x: embed(state.params, x), data["x"]).reshape(-1, model.width)
        codes = quantizers.kmeans(vectors, model.codes, key, 20 if model.start == "kmeans" else 0)
        if moving:
            return state._replace(extra=quantizers.ema_codebook(codes))
        return state._replace(params=state.params | {"codebook": codes},
                              extra=CodeUse(jnp.ones(model.codes), codes))

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x = batch["x"]
        z = embed(params, x)
        quantized = quantizers.vector_quantize(z, codebook(params, extra))
        log_px = observed.log_prob(params["decoder"], seen(quantized.z_q), x)
        # -1/2 |.|^2 -> the mean square; a likelihood -> nats per dimension. Both stand beside means.
        reconstruction = -log_px * (2.0 if model.likelihood == "mse" else 1.0) / dims
        value = reconstruction + model.beta * quantized.commitment_loss
        if not moving:
            value = value + quantized.codebook_loss
        metrics = {"reconstruction": reconstruction, "commitment": quantized.commitment_loss}
        if model.likelihood != "mse":
            bound = -log_px + cells * math.log(model.codes)
            metrics |= {"nll_bound": bound, "bits_per_dim": bits_per_dim(bound, dims)}
        if not train:
            if model.decoder == "factorised":
                metrics["mse"] = mse(x, observed.mean(params["decoder"], seen(quantized.z_q), key))
            # Per example, so that padded rows are left out of the sum over the data set.
            metrics["code_counts"] = jax.nn.one_hot(quantized.indices.reshape(-1, cells), model.codes).sum(1)
            return Objective(value, metrics, extra)
        metrics["perplexity"] = perplexity(code_counts(quantized.indices, model.codes, axis_name))
        return Objective(value, metrics, update(extra, z, quantized.indices, key))

    def update(extra, z, indices, key):
        if moving:
            new = quantizers.ema_update(extra, z, indices, model.decay, model.epsilon, axis_name)
            return quantizers.revive(new, z, key, model.revive, axis_name) if model.revive else new
        counts = code_counts(indices, model.codes, axis_name)
        rows = jax.lax.stop_gradient(z).reshape(-1, model.width)
        fresh = quantizers.sample_rows(rows, key, model.codes, axis_name) if model.revive else extra.fresh
        return CodeUse(model.decay * extra.counts + (1 - model.decay) * counts, fresh)

    def revive(params, extra, key):
        dead = extra.counts < model.revive
        codes = jnp.where(dead[:, None], extra.fresh, params["codebook"])
        return params | {"codebook": codes}, extra._replace(
            counts=jnp.where(dead, 2.0 * model.revive, extra.counts))

    def summary(sums):
        counts = sums["code_counts"]
        averages = means({name: value for name, value in sums.items() if name != "code_counts"})
        return averages | {"perplexity": perplexity(counts), "usage": usage(counts)}

    def encode(model_variables, x):
        params, extra = model_variables
        return quantizers.nearest_code(embed(params, x), codebook(params, extra))

    def decode(model_variables, indices, key=None):
        params, extra = model_variables
        codes = quantizers.lookup(indices, codebook(params, extra))
        return observed.mean(params["decoder"], seen(codes), jax.random.key(0) if key is None else key)

    def reconstruct(model_variables, x, key=None):
        return decode(model_variables, encode(model_variables, x), key)

    def sample(model_variables, key, n: int):
        """Decoded codes of the uniform prior; a fitted prior (configs/prior.py) samples far better."""
        code_key, pixel_key = jax.random.split(key)
        codes = jax.random.randint(code_key, (n, *places), 0, model.codes)
        return decode(model_variables, codes, pixel_key)

    def figures(state: State, batch, key):
        now = variables(state)
        indices = encode(now, batch["x"])
        maps = indices[:16].reshape(-1, *(places if len(places) == 2 else (1, cells)))
        return draw.comparison(batch["x"], decode(now, indices, key)) | {"codes": maps, "code_use": now.extra.counts}

    tx = optim.optimizer(config.optim, config.steps)
    return one_loss(
        init, loss, tx, average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name,
        after=revive if model.revive and not moving else None,
        summary=summary, prepare=None if model.start == "uniform" else prepare, encode=encode, decode=decode,
        reconstruct=reconstruct, sample=sample, figures=figures, latent=Latent(places, model.codes))


def _check(model) -> None:
    if model.codebook not in ("ema", "gradient"):
        raise ValueError(f"model.codebook={model.codebook!r} must be 'ema' or 'gradient'")
    if model.start not in ("kmeans", "data", "uniform"):
        raise ValueError(f"model.start={model.start!r} must be 'kmeans', 'data' or 'uniform'")
    if model.codes < 2 or model.width < 1:
        raise ValueError(f"model.codes={model.codes} must be at least 2 and model.width={model.width} at least 1")


__all__ = ["CodeUse", "build", "defaults"]
