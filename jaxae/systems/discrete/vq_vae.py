"""VQ-VAE and its relatives: autoencoders whose latents are codes of a quantizer."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.distributions import bits_per_dim
from jaxae.metrics import code_counts, mse, perplexity, usage
from jaxae.quantizers import Codes, gradient_by_decoder
from jaxae.systems import figures as draw
from jaxae.systems import networks, waveform_error
from jaxae.systems.base import Latent, Objective, State, System, by_chunks, means, variables
from jaxae.systems.builders import one_loss
from jaxae.systems.discrete import bottlenecks


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `networks`, `bottlenecks` and `waveform_error`.

    `positions`: 0 makes a map of codes as large as the convolutions leave it; P > 0 makes P codes from a vector,
    which any network and any data can have. `width` is that of one code's vector.
    """
    return ConfigDict(networks.defaults() | bottlenecks.defaults() | waveform_error.defaults()
                      | dict(likelihood="mse", positions=0))


class Parts(NamedTuple):
    """What an autoencoder of codes consists of, whatever its reconstruction is measured by."""

    init: Callable[[Array, PyTree], tuple[PyTree, PyTree]]  # (key, batch) -> (params, extra)
    # (params, extra, batch, key, train, error_of=None), where `error_of(z_q) -> ([n], metrics)` is the reconstruction's
    # part of the loss; None is that of `model.likelihood`
    loss: Callable[..., Objective]
    image: Callable[[PyTree, Array], Array]  # (params of the decoder, z_q) -> x_hat, float32
    functions: dict[str, Any]  # fields of `System`, and `after` of `players`


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017,
    arXiv 1711.00937, with any quantizer of `jaxae.quantizers` in the place of its codebook.

    Loss per example: reconstruction + the quantizer's own losses, such as |sg[z] - e|^2 + beta |z - sg[e]|^2.
    Reconstruction is the mean squared error over the elements ('mse'), or minus the log-likelihood in nats per data
    dimension; the others are means over positions and channels. Latents are integers: maps [n h w] or rows
    [n positions], with a last axis of q where a vector has q codes (heads, stages).

    Waveforms may have `model.spectral`, the distance of their spectra, and `model.largest` beside the squares, as
    those of Jukebox (Dhariwal et al. 2020, arXiv 2005.00341).

    With a likelihood, `nll_bound` is -log p(x | z_q) + number of codes * log K in nats per example: the codes cost
    log K each under the uniform prior. `quantization_error` is the mean of (z - z_q)^2. `usage` and `perplexity`
    are of each codebook, averaged over codebooks.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    parts = parts_of(config, example, axis_name)
    error = waveform_error.waveform_error(config.model, example["x"].shape[1:])

    def loss(params, extra, batch, key, train: bool) -> Objective:
        error_of = error and (lambda z_q: error(batch["x"], parts.image(params["decoder"], z_q)))
        return parts.loss(params, extra, batch, key, train, error_of)

    return one_loss(parts.init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, **parts.functions)


def parts_of(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> Parts:
    """The parts of `build`'s system, for systems that measure reconstructions by something else.

    Raises:
      ValueError: as `build`.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    quantizer = bottlenecks.quantizer_of(model, axis_name)
    width, codes = quantizer.width, quantizer.codes
    if model.positions:
        places = (model.positions,)
        encoder = networks.vector_encoder(model, shape, model.positions * width, dtype)
        decoder = partial(networks.vector_decoder, model, shape, dtype=dtype)
    else:
        places = networks.map_shape(model, shape)
        encoder = networks.map_encoder(model, shape, width, dtype)
        decoder = partial(networks.map_decoder, model, dtype=dtype)
    observed = networks.observation(model, shape, decoder, dtype, axis_name)
    found = jax.eval_shape(lambda key: quantizer.quantize(jnp.zeros((1, *places, width)), quantizer.init(key), key,
                                                          False), jax.random.key(0))
    latent = found.indices.shape[1:]
    # The others bound or scale z first: the distance to what is left would say nothing.
    unscaled = model.quantizer in ("simvq", "gumbel", "latent", "multi_scale") or (
        model.quantizer == "vector" and model.distance == "euclidean")
    dims, cells, books = math.prod(shape), math.prod(latent), quantizer.places

    def embed(params, x):
        """[n *places width]"""
        z = encoder.apply({"params": params["encoder"]}, x)
        return z.reshape(x.shape[0], *places, width).astype(jnp.float32)

    def seen(z_q):
        """What the decoder takes."""
        return z_q.reshape(z_q.shape[0], -1) if model.positions else z_q

    def state_of(params, extra):
        return Codes(params.get("codes", ()), extra)

    def with_state(params, state):
        """The codes that gradients move are parameters, the rest is extra."""
        return (params | {"codes": state.learned} if jax.tree.leaves(state.learned) else params), state.moving

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("encoder", "decoder", "codes"))
        params = {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                  "decoder": observed.init(keys["decoder"], seen(jnp.zeros((1, *places, width))))}
        return with_state(params, quantizer.init(keys["codes"]))

    def prepare(state: State, data, key: Array) -> State:
        vectors = by_chunks(lambda x: embed(state.params, x), data["x"]).reshape(-1, width)
        params, extra = with_state(state.params, quantizer.start(
            vectors, state_of(state.params, state.extra), key))
        return state._replace(params=params, extra=extra)

    def error(params, x, z_q):
        """The mean square, or a likelihood in nats per dimension: both stand beside means."""
        log_px = observed.log_prob(params["decoder"], seen(z_q), x)
        if model.likelihood == "mse":
            reconstruction = -2.0 / dims * log_px
            return reconstruction, {"reconstruction": reconstruction}
        bound = -log_px + cells * math.log(codes)
        return -log_px / dims, {"reconstruction": -log_px / dims, "nll_bound": bound,
                                "bits_per_dim": bits_per_dim(bound, dims)}

    def loss(params, extra, batch, key, train: bool, error_of=None) -> Objective:
        x = batch["x"]
        z = embed(params, x)
        error_of = error_of or partial(error, params, x)
        quantized = quantizer.quantize(z, state_of(params, extra), key, train)
        z_q, path = quantized.z_q, 0.0
        if train and model.estimator in bottlenecks.BY_DECODER:
            z_q = jax.lax.stop_gradient(z_q)
            path = gradient_by_decoder(lambda at: error_of(at)[0], z, z_q, model.estimator)
        reconstruction, metrics = error_of(z_q)
        value = reconstruction + path + quantized.loss
        metrics = metrics | quantized.metrics
        if unscaled:
            metrics["quantization_error"] = jnp.square(z - quantized.z_q).mean(tuple(range(1, z.ndim)))
        if not train:
            if model.decoder == "factorised":
                metrics["mse"] = mse(x, observed.mean(params["decoder"], seen(quantized.z_q), key))
            # Per example, so that padded rows are left out of the sum over the data set.
            metrics["code_counts"] = jax.vmap(counts)(quantized.indices)
            return Objective(value, metrics, extra)
        total = collectives.total(counts(quantized.indices), axis_name)
        metrics["perplexity"] = perplexity(total).mean()
        return Objective(value, metrics, quantized.state.moving)

    def counts(indices):
        """Of each codebook, [books K]."""
        return jax.vmap(lambda column: code_counts(column, codes), 1)(indices.reshape(-1, books))

    def after(params, extra, key):
        return with_state(params, quantizer.after(state_of(params, extra), key))

    def summary(sums):
        of_codes = sums["code_counts"]
        averages = means({name: value for name, value in sums.items() if name != "code_counts"})
        return averages | {"perplexity": perplexity(of_codes).mean(), "usage": usage(of_codes).mean()}

    def encode(now, x):
        state = state_of(*now)
        return quantizer.quantize(embed(now.params, x), state, jax.random.key(0), False).indices

    def image(params, z_q):
        return observed.mean(params, seen(z_q), jax.random.key(0)).astype(jnp.float32)

    def decode(now, indices, key=None):
        """Of codes, or of vectors `[n *places width]` in their place."""
        vectors = jnp.issubdtype(indices.dtype, jnp.floating)
        if not vectors and indices.shape[1:] != latent and model.quantizer != "multi_scale":
            raise ValueError(f"this autoencoder has codes [n, {', '.join(map(str, latent))}], these are "
                             f"{indices.shape}: decode them by the one that they or their prior come from")
        z_q = indices if vectors else quantizer.lookup(indices, state_of(*now))
        return observed.mean(now.params["decoder"], seen(z_q), jax.random.key(0) if key is None else key)

    def reconstruct(now, x, key=None):
        return decode(now, encode(now, x), key)

    def sample(now, key, n: int):
        """Decoded codes of the uniform prior; a fitted prior (configs/prior.py) samples far better."""
        code_key, pixel_key = jax.random.split(key)
        return decode(now, jax.random.randint(code_key, (n, *latent), 0, codes), pixel_key)

    def codebook(now):
        return quantizer.lookup(jnp.arange(codes), state_of(*now))

    def figures(state: State, batch, key):
        now = variables(state)
        indices = encode(now, batch["x"])
        shown = draw.comparison(batch["x"], decode(now, indices, key)) | {
            "codes": as_map(indices[:16]), "code_use": jax.vmap(counts)(indices).sum((0, 1)).astype(jnp.float32)}
        if model.positions and model.decoder == "factorised":
            shown |= draw.code_lines(lambda lines: decode(now, lines), indices[0], jnp.arange(codes))
        return shown

    def as_map(indices):
        """[n rows columns] of a map's first codes, or one row."""
        return indices.reshape(-1, *places, books)[..., 0] if len(places) == 2 and cells == math.prod(places) * books \
            else indices.reshape(-1, 1, cells)

    return Parts(init, loss, image, dict(
        after=after if quantizer.after else None, summary=summary, prepare=prepare if quantizer.start else None,
        encode=encode, decode=decode, reconstruct=reconstruct, sample=sample, figures=figures,
        codebook=codebook if books == 1 and latent == places else None,
        latent=Latent(latent, codes, codebook_axis=len(latent) - 1 if books > 1 else None)))


__all__ = ["Parts", "build", "defaults", "parts_of"]
