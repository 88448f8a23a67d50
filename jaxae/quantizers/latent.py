"""Latent quantization: every latent dimension takes one of a few learned numbers of its own."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.quantizers.base import Codes, Quantized, Quantizer, check_indices
from jaxae.quantizers.estimators import straight_through


class LatentQuantized(NamedTuple):
    """What `latent_quantize` returns for `z [n ... d]`."""

    z_q: Float[Array, "n *positions d"]  # the nearest values, with the straight-through path to z
    indices: Int[Array, "n *positions d"]  # int32 in [0, k)
    quantization_loss: Float[Array, " n"]  # mean over positions and dimensions of (sg[z] - v)^2: moves the values only
    commitment_loss: Float[Array, " n"]  # mean over positions and dimensions of (z - sg[v])^2: moves the encoder only


def latent_values(width: int, codes: int, shared: bool = False) -> Float[Array, "*d k"]:
    """The values to start from, linspace(-1/2, 1/2, k): for each of `width` dimensions, or one row `[k]` for all."""
    values = jnp.linspace(-0.5, 0.5, codes, dtype=jnp.float32)
    return values if shared else jnp.broadcast_to(values, (width, codes))


def latent_quantize(z: Float[Array, "n *positions d"], values: Float[Array, "*e k"]) -> LatentQuantized:
    """Replaces each number by the nearest value of its dimension, argmin_k |z_j - v_jk|, ties to the lowest index.

    Unlike a vector quantizer's, the codebook is a grid: k numbers a dimension make k^d codes, and each dimension
    says the same thing whatever the others are. Gradients reach the values through the quantization loss only.

    Args:
      z: encoder outputs `[n ... d]`, batch axis first.
      values: `[d k]`, or `[k]` shared by all dimensions.

    Returns:
      `LatentQuantized`.

    Raises:
      ValueError: for values of another number of dimensions.

    >>> latent_quantize(jnp.array([[0.1, 0.1]]), jnp.array([[-0.5, 0.5], [0.2, -0.2]])).indices.tolist()
    [[1, 0]]

    Reference: Hsu, Dorrell, Whittington, Wu, Finn, 'Disentanglement via latent quantization', 2023, arXiv 2305.18378.
    """
    if values.ndim > 2 or values.ndim == 2 and values.shape[0] != z.shape[-1]:
        raise ValueError(f"the encoder gives {z.shape[-1]} dimensions, the values are {values.shape}: [d k], or [k] "
                         "for all of them")
    z32, values = z.astype(jnp.float32), values.astype(jnp.float32)
    distance = jnp.abs(lax.stop_gradient(z32)[..., None] - lax.stop_gradient(values))
    indices = jnp.argmin(distance, -1).astype(jnp.int32)
    found = latent_lookup(indices, values)
    axes = tuple(range(1, z.ndim))
    return LatentQuantized(
        z_q=straight_through(z32, lax.stop_gradient(found)).astype(z.dtype),
        indices=indices,
        quantization_loss=jnp.mean((lax.stop_gradient(z32) - found) ** 2, axes),
        commitment_loss=jnp.mean((z32 - lax.stop_gradient(found)) ** 2, axes),
    )


def latent_lookup(indices: Int[Array, "*n d"], values: Float[Array, "*e k"]) -> Float[Array, "*n d"]:
    """The values at the indices, v[j, index_j] or v[index_j]: `[... d]`; differentiable in the values.

    Raises ValueError for integers out of range, outside `jit`.
    """
    check_indices(indices, values.shape[-1])
    return values[indices] if values.ndim == 1 else values[jnp.arange(values.shape[0]), indices]


def latent_quantization(width: int, codes: int = 10, quantization_weight: float = 0.01,
                        commitment_weight: float = 0.01, shared: bool = False, learned: bool = True) -> Quantizer:
    """`latent_quantize` as a quantizer: `width` places of `codes` values each.

    loss = quantization_weight mean (sg[z] - v)^2 + commitment_weight mean (z - sg[v])^2. The paper's other losses are
    MEANS too, over pixels and channels; beside a sum over pixels these weights want the number of pixels as a factor.
    It decays the weights of encoder and decoder strongly (.1) and the values not at all: decay would pull them to 0.

    Args:
      width: latent dimensions, in the paper twice the number of sources.
      codes: values a dimension.
      quantization_weight: moves the values to the encoder's outputs.
      commitment_weight: moves the encoder's outputs to the values.
      shared: one row of values for all dimensions.
      learned: whether the values move; else they stay evenly spaced in `moving`.

    Returns:
      A `Quantizer` whose state is the values `[width codes]` (`[codes]` if shared); its metrics are quantization and
      commitment.

    Raises:
      ValueError: for no dimension, or fewer than 2 values.

    Reference: Hsu et al., 2023, arXiv 2305.18378.
    """
    if width < 1 or codes < 2:
        raise ValueError(f"latent quantization wants at least 1 dimension of at least 2 values; got {width} of {codes}")

    def init(key):
        values = latent_values(width, codes, shared)
        return Codes(learned=values) if learned else Codes(moving=values)

    def values_of(state):
        return state.learned if learned else lax.stop_gradient(state.moving)

    def quantize(z, state, key, train):
        if z.shape[-1] != width:
            raise ValueError(f"the encoder gives {z.shape[-1]} dimensions, the quantizer takes {width}: make them "
                             "equal")
        found = latent_quantize(z, values_of(state))
        metrics = {"quantization": found.quantization_loss, "commitment": found.commitment_loss}
        loss = quantization_weight * found.quantization_loss + commitment_weight * found.commitment_loss
        return Quantized(found.z_q, found.indices if width > 1 else found.indices[..., 0], loss, state, metrics)

    def lookup(indices, state):
        return latent_lookup(indices if width > 1 else indices[..., None], values_of(state))

    return Quantizer(width=width, codes=codes, places=width, init=init, quantize=quantize, lookup=lookup)
