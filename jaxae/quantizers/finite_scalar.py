"""Finite scalar quantization: a few bounded channels, each rounded to its own number of levels; no codebook."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.quantizers.base import Codes, Quantized, Quantizer, check_indices
from jaxae.quantizers.estimators import straight_through

FSQ_LEVELS = {2**8: (8, 6, 5), 2**10: (8, 5, 5, 5), 2**12: (7, 5, 5, 5, 5), 2**14: (8, 8, 8, 6, 5),
              2**16: (8, 8, 8, 5, 5, 5)}  # levels that the paper recommends, by the codebook size they stand in for

_EPSILON = 1e-3  # by how much the bound passes the outer levels, so that they are reached at finite z
_LARGEST = 2**31 - 1
_MANTISSA = 2**24  # float32 tells no finer grid than 1 / 2^24 of its range


class FiniteScalars(NamedTuple):
    """What `fsq` and `residual_fsq` return for `z [... d]`."""

    z_q: Float[Array, "*n d"]  # codes in [-1, 1], with the straight-through path to z
    indices: Int[Array, "..."]  # int32 [...] of `fsq`, [... depth] of `residual_fsq`


def fsq_bound(z: Float[Array, "*n d"], levels: Sequence[int]) -> Float[Array, "*n d"]:
    """Squashes channel i into the range of its L_i integers, with 0 at 0.

    half tanh(z + atanh(offset / half)) - offset,  half = (1 + 1e-3) (L - 1) / 2,  offset = 1/2 for even L and 0 for
    odd: integers -(L-1)/2 .. (L-1)/2 for odd L and -L/2 .. L/2 - 1 for even. (The published listing has 1 - 1e-3 and
    tan for atanh: of this pair the first makes L = 2 not a number, the second moves some .9% of Gaussian codes.)

    Args:
      z: any real vectors `[... d]`.
      levels: L_i of the d channels, each at least 2.

    Returns:
      float32 `[... d]`.

    Raises:
      ValueError: for levels below 2, a product beyond int32, or another number of channels.

    Reference: Mentzer, Minnen, Agustsson, Tschannen, 'Finite scalar quantization: VQ-VAE made simple', 2023,
    arXiv 2309.15505.
    """
    sizes = _sizes(levels, z.shape[-1])
    half = (1.0 + _EPSILON) * (sizes - 1) / 2.0
    offset = np.where(sizes % 2, 0.0, 0.5)
    shift = np.arctanh(offset / half)
    half, offset, shift = (a.astype(np.float32) for a in (half, offset, shift))
    return jnp.tanh(z.astype(jnp.float32) + shift) * half - offset


def fsq(z: Float[Array, "*n d"], levels: Sequence[int]) -> FiniteScalars:
    """Rounds the bounded channels, with the gradient of the bound: no parameters, no losses.

    z_q = (b + sg[round(b) - b]) / floor(L / 2),  b = fsq_bound(z, levels). Rounding is in float32 whatever z is.

    Args:
      z: encoder outputs `[... d]`.
      levels: L_i of the d channels, each at least 2; `FSQ_LEVELS` has good ones.

    Returns:
      A `FiniteScalars`: codes in [-1, 1] (for even L the top is 1 - 2 / L) and indices in [0, prod L).

    Raises:
      ValueError: as `fsq_bound`.

    >>> fsq(jnp.array([[-9.0, 0.0], [9.0, 9.0]]), (5, 4)).z_q.tolist()
    [[-1.0, 0.0], [1.0, 0.5]]

    Reference: Mentzer et al., 2023, arXiv 2309.15505.
    """
    bounded = fsq_bound(z, levels)
    sizes = _sizes(levels)
    # Beyond a thousand levels the bound's margin is more than half a level.
    rounded = jnp.clip(jnp.round(bounded), -(sizes // 2), (sizes - 1) // 2)
    z_q = straight_through(bounded, rounded) / _half_width(sizes)
    return FiniteScalars(z_q.astype(z.dtype), _join(rounded.astype(jnp.int32) + sizes // 2, sizes))


def fsq_codes_to_indices(codes: Float[Array, "*n d"], levels: Sequence[int]) -> Int[Array, "*n"]:
    """Index of codes in [-1, 1]: sum_i (code_i + 1) floor(L_i / 2) prod_{j<i} L_j, first channel least significant.

    Raises ValueError as `fsq_bound`.
    """
    sizes = _sizes(levels, codes.shape[-1])
    rounded = jnp.round(codes.astype(jnp.float32) * _half_width(sizes)).astype(jnp.int32)
    return _join(rounded + sizes // 2, sizes)


def fsq_indices_to_codes(indices: Int[Array, "*n"], levels: Sequence[int]) -> Float[Array, "*n d"]:
    """Codes `[... d]` in [-1, 1] of indices in [0, prod L): the inverse of `fsq_codes_to_indices`.

    Raises ValueError as `fsq_bound`, and for integers out of range, outside `jit`.

    >>> fsq_indices_to_codes(jnp.array([0, 1, 19]), (5, 4)).tolist()
    [[-1.0, -1.0], [-0.5, -1.0], [1.0, 0.5]]
    """
    sizes = _sizes(levels)
    check_indices(indices, math.prod(sizes.tolist()))
    return (_split(indices, sizes) - sizes // 2).astype(jnp.float32) / _half_width(sizes)


def finite_scalar(levels: Sequence[int]) -> Quantizer:
    """`fsq` as a quantizer of vectors of width len(levels): prod(levels) codes, no state, no loss.

    Raises ValueError for levels below 2 or a product beyond int32.

    Reference: Mentzer et al., 2023, arXiv 2309.15505.
    """
    levels = tuple(levels)
    sizes = _sizes(levels)

    def quantize(z, state, key, train):
        found = fsq(z, levels)
        return Quantized(found.z_q, found.indices, jnp.zeros(z.shape[0]), state)

    return Quantizer(width=len(levels), codes=math.prod(sizes.tolist()), places=1, init=lambda key: Codes(),
                     quantize=quantize, lookup=lambda indices, state: fsq_indices_to_codes(indices, levels))


def residual_fsq(z: Float[Array, "*n d"], levels: Sequence[int], depth: int) -> FiniteScalars:
    """Finite scalars in `depth` steps, each on the residual of the one before, on a grid finer by L.

    b = c tanh(z / c) with c = L / (L - 1);  q_i = L^-i G(L^i (b - q_0 - ... - q_{i-1})), with G the nearest of L values
    from -1 to 1, evenly spaced;  z_q = sum_i q_i, with the gradient of b. The bound comes ONCE and first: it ends where
    the outer cells of the first grid end, every cell is one L-th of the range, and the next grid divides it into L
    again. So no code of any step is out of reach, no point is reached twice, and z_q is the nearest to b of L^depth
    evenly spaced points: |b - z_q| <= L^(1-depth) / (L - 1). All steps together are one finite scalar of L^depth
    levels. A residual of quantizers that each bound their input has none of these properties.

    Args:
      z: encoder outputs `[... d]`.
      levels: L_i of the d channels, each at least 2.
      depth: number of steps.

    Returns:
      A `FiniteScalars`, with indices `[... depth]` in [0, prod L).

    Raises:
      ValueError: for levels below 2, a product beyond int32, another number of channels, or L^depth beyond what
        float32 tells apart.

    Reference: Mentzer et al., 2023, arXiv 2309.15505, for the scalars; Parker et al., 'Scaling transformers for
    low-bitrate high-quality speech coding', 2024, arXiv 2411.19842, for scalars of many levels as residuals of few.
    """
    sizes = _residual_sizes(levels, depth, z.shape[-1])
    steps = (sizes - 1).astype(np.float32)
    ceiling = sizes.astype(np.float32) / steps
    bounded = ceiling * jnp.tanh(z.astype(jnp.float32) / ceiling)
    residual, indices = bounded, []
    for i in range(depth):
        finer = sizes.astype(np.float32)**i
        digits = jnp.clip(jnp.round((residual * finer + 1.0) * steps / 2.0), 0, steps)
        residual = residual - (2.0 * digits / steps - 1.0) / finer
        indices.append(_join(digits.astype(jnp.int32), sizes))
    indices = jnp.stack(indices, -1)
    z_q = straight_through(bounded, residual_fsq_indices_to_codes(indices, levels))
    return FiniteScalars(z_q.astype(z.dtype), indices)


def residual_fsq_indices_to_codes(indices: Int[Array, "*n depth"], levels: Sequence[int]) -> Float[Array, "*n d"]:
    """Codes `[... d]` of the indices of all steps: sum_i L^-i times value i; a prefix gives a coarser code.

    Raises ValueError as `residual_fsq`, and for integers out of range, outside `jit`.
    """
    depth = indices.shape[-1]
    sizes = _residual_sizes(levels, depth)
    check_indices(indices, math.prod(sizes.tolist()))
    values = 2.0 * _split(indices, sizes).astype(jnp.float32) / (sizes - 1) - 1.0  # [... depth d]
    return jnp.sum(values * sizes.astype(np.float32) ** -np.arange(depth, dtype=np.float32)[:, None], -2)


def residual_finite_scalar(levels: Sequence[int], depth: int) -> Quantizer:
    """`residual_fsq` as a quantizer: `depth` places of prod(levels) codes each, no state, no loss.

    Raises ValueError as `residual_fsq`.
    """
    levels = tuple(levels)
    sizes = _residual_sizes(levels, depth)

    def quantize(z, state, key, train):
        found = residual_fsq(z, levels, depth)
        indices = found.indices if depth > 1 else found.indices[..., 0]
        return Quantized(found.z_q, indices, jnp.zeros(z.shape[0]), state)

    def lookup(indices, state):
        return residual_fsq_indices_to_codes(indices if depth > 1 else indices[..., None], levels)

    return Quantizer(width=len(levels), codes=math.prod(sizes.tolist()), places=depth, init=lambda key: Codes(),
                     quantize=quantize, lookup=lookup)


def _sizes(levels, width=None):
    levels = tuple(levels)
    if not levels or min(levels) < 2:
        raise ValueError(f"levels {levels}: each channel wants at least 2 levels")
    if math.prod(levels) > _LARGEST:
        raise ValueError(f"levels {levels} make {math.prod(levels)} codes, more than an int32 index tells apart: take "
                         "fewer channels or levels, or the residual form")
    if width is not None and width != len(levels):
        raise ValueError(f"the encoder gives vectors of width {width}, the levels {levels} want width {len(levels)}: "
                         "make them equal")
    return np.array(levels, np.int32)


def _residual_sizes(levels, depth, width=None):
    sizes = _sizes(levels, width)
    finest = int(sizes.max())**depth
    if depth < 1 or finest > _MANTISSA:
        raise ValueError(f"depth {depth} of levels {tuple(levels)}: the depth is at least 1, and L^depth at most "
                         "2^24, beyond which float32 tells no difference")
    return sizes


def _half_width(sizes):
    return (sizes // 2).astype(np.float32)


def _basis(sizes):
    return np.concatenate([[1], np.cumprod(sizes[:-1], dtype=np.int64)]).astype(np.int32)


def _join(digits, sizes):
    """Digits `[... d]` as one integer `[...]`, the first least significant."""
    return jnp.sum(digits * _basis(sizes), -1, dtype=jnp.int32)


def _split(indices, sizes):
    return indices.astype(jnp.int32)[..., None] // _basis(sizes) % sizes
