"""Quantizers by config."""

from collections.abc import Callable
from typing import Any

from jaxae.quantizers import Quantizer
from jaxae.quantizers.codebook import vector
from jaxae.quantizers.combine import product, residual
from jaxae.quantizers.finite_scalar import finite_scalar, residual_finite_scalar
from jaxae.quantizers.gumbel import gumbel
from jaxae.quantizers.latent import latent_quantization
from jaxae.quantizers.lookup_free import binary_spherical, lookup_free
from jaxae.quantizers.multi_scale import multi_scale
from jaxae.quantizers.simvq import simvq


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose the quantizer.

    `quantizer`: 'vector' (a codebook of `codes` vectors of `width`, see below), 'simvq' (a frozen codebook times a
    learned matrix), 'gumbel' (a draw by Gumbel-softmax at `temperature`), 'finite_scalar' (`levels` of each channel),
    'lookup_free' and 'binary_spherical' (signs of `width` channels, with `entropy_weight`), 'latent' (`codes` values
    of its own for each of `width` channels), 'multi_scale' (one codebook at `scales`, the last of which is the map).

    A vector codebook: `codebook` 'ema' (moving averages with `decay`) or 'gradient'; `distance` 'euclidean' or
    'cosine'; `start` 'kmeans' or 'data' (random vectors) on the first `prepare_examples`, or 'uniform' in +-1/K or
    'normal'; `revive`: codes with fewer assignments per batch move to a random vector of it, 0 for never; `temperature`
    above 0 samples codes in training, or takes the mean of them all where `soft`. `beta` weighs the commitment loss.
    `estimator` of the gradient past the codes: 'straight_through', 'rotation', 'householder', or by the decoder:
    'exact' (its gradient at z), 'hessian' (that to first order).

    `depth` > 1 quantizes what is left over as often again, with `stage_dropout` of the later stages; `heads` > 1 cuts
    the channels into heads, each with a quantizer (of `depth`) of its own, or one for all where `shared`. 'latent' has
    one row of values for all channels where `shared`, and keeps it where it starts unless `learned`.
    """
    return dict(quantizer="vector", codes=512, width=64, codebook="ema", distance="euclidean",
                estimator="straight_through", decay=0.99, epsilon=1e-5, beta=0.25, start="kmeans", revive=0.01,
                temperature=0.0, soft=False, levels=(8, 5, 5, 5), entropy_weight=0.1, scales=(1, 2, 4, 7), depth=1,
                stage_dropout=0.0, heads=1, shared=False, learned=True)


def _vector(model, width, axis_name):
    estimator = "straight_through" if model.estimator in BY_DECODER else model.estimator
    return vector(model.codes, width, codebook=model.codebook, distance=model.distance, estimator=estimator,
                  beta=model.beta, decay=model.decay, epsilon=model.epsilon, revive=model.revive, start=model.start,
                  temperature=model.temperature, soft=model.soft, axis_name=axis_name)


BY_DECODER = ("exact", "hessian")
# name -> (model, width of one head, axis_name) -> Quantizer
QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "vector": _vector,
    "simvq": lambda model, width, axis_name: simvq(
        model.codes, width, estimator=model.estimator, beta=model.beta),
    "gumbel": lambda model, width, axis_name: gumbel(
        model.codes, width, temperature=model.temperature or 1.0, axis_name=axis_name),
    "finite_scalar": lambda model, width, axis_name: finite_scalar(model.levels),
    "lookup_free": lambda model, width, axis_name: lookup_free(
        width, model.entropy_weight, beta=model.beta, axis_name=axis_name),
    "binary_spherical": lambda model, width, axis_name: binary_spherical(
        width, model.entropy_weight, axis_name=axis_name),
    "latent": lambda model, width, axis_name: latent_quantization(
        width, model.codes, model.beta, model.beta, model.shared and model.heads == 1, model.learned),
    "multi_scale": lambda model, width, axis_name: multi_scale(
        width, model.codes, model.scales, model.codebook == "ema", model.beta, decay=model.decay,
        epsilon=model.epsilon, threshold=model.revive if model.codebook == "ema" else 0.0, axis_name=axis_name),
}


def quantizer_of(model, axis_name: str | None = None) -> Quantizer:
    """The quantizer of `config.model`.

    Raises:
      ValueError: for options that do not exist or do not fit one another.
    """
    if model.quantizer not in QUANTIZERS:
        raise ValueError(f"model.quantizer={model.quantizer!r} must be one of {', '.join(QUANTIZERS)}")
    if model.heads < 1 or model.depth < 1:
        raise ValueError(f"model.heads={model.heads} and model.depth={model.depth} must be at least 1")
    if model.quantizer == "multi_scale" and (model.heads > 1 or model.depth > 1):
        raise ValueError("model.quantizer='multi_scale' sees whole maps: leave model.heads and model.depth at 1")
    if model.width % model.heads and model.quantizer != "finite_scalar":
        raise ValueError(f"model.width={model.width} must be a multiple of model.heads={model.heads}")
    if model.quantizer == "finite_scalar" and model.depth > 1:
        quantizer = residual_finite_scalar(model.levels, model.depth)
    else:
        quantizer = QUANTIZERS[model.quantizer](model, model.width // model.heads, axis_name)
        if model.depth > 1:
            # A stage's residual may be far shorter than its code: one rotation, of the sum.
            own = None if model.estimator in ("straight_through", *BY_DECODER) else model.estimator
            quantizer = residual(quantizer, model.depth, dropout=model.stage_dropout, estimator=own)
    return product(quantizer, model.heads, model.shared) if model.heads > 1 else quantizer


__all__ = ["BY_DECODER", "QUANTIZERS", "defaults", "quantizer_of"]
