"""Multi-scale residual quantization: a map as maps of codes from coarse to fine, all from one codebook."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.ema import ema_codebook, ema_update, revive
from jaxae.quantizers.estimators import straight_through
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.vector import lookup, nearest_code

Scales = Sequence[int | tuple[int, int]]
METHODS = ("linear", "cubic")


def scale_sizes(scales: Scales) -> tuple[tuple[int, int], ...]:
    """Height and width of each scale, coarse to fine; a number stands for a square.

    Raises:
      ValueError: for no scales, sizes under 1, or a scale that is larger than the last.
    """
    sizes = tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in scales)
    if not sizes or min(map(min, sizes)) < 1 or any(h > sizes[-1][0] or w > sizes[-1][1] for h, w in sizes):
        raise ValueError(f"scales={tuple(scales)} must be sizes of at least 1 of which the last, the whole map, is the "
                         f"largest, such as (1, 2, 4, 7)")
    return sizes


def split_scales(flat: Array, scales: Scales) -> list[Array]:
    """Maps `[n h w ...]` of each scale from the sequence `[n L ...]`, L = sum of h w, coarse to fine, row by row.

    A sequence may stop at the end of any scale.

    Raises:
      ValueError: if it stops elsewhere.
    """
    maps, begin = [], 0
    for h, w in scale_sizes(scales):
        if begin == flat.shape[1]:
            break
        maps.append(flat[:, begin:begin + h * w])
        begin += h * w
    if begin != flat.shape[1]:
        raise ValueError(f"a sequence of {flat.shape[1]} codes does not fill whole scales of {tuple(scales)}")
    return [part.reshape(part.shape[0], *size, *part.shape[2:])
            for part, size in zip(maps, scale_sizes(scales), strict=False)]


def downsample(x: Float[Array, "n h w d"], size: tuple[int, int]) -> Float[Array, "n a b d"]:
    """Area downsampling: cell i of a along an axis of h is the mean of the pixels from floor(i h / a) to
    ceil((i + 1) h / a), which overlap by one where a does not divide h (PyTorch's adaptive average pooling)."""
    rows, columns = (_area(old, new) for old, new in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("ah,nhwd,bw->nabd", rows, x, columns, precision=lax.Precision.HIGHEST)


def upsample(x: Float[Array, "n a b d"], size: tuple[int, int], method: str = "cubic") -> Float[Array, "n h w d"]:
    """Interpolation to `size` by 'linear' or 'cubic' (Keys' kernel with a = -1/2; PyTorch's has -3/4); the last
    scale, which has the size already, passes through unchanged."""
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), method, precision=lax.Precision.HIGHEST)


class MultiScale(NamedTuple):
    """What `multi_scale_quantize` returns for `z [n h w d]`."""

    partial: Float[Array, "k n h w d"]  # sums of the upsampled codes up to each scale; the last is the result
    indices: Int[Array, "n l"]  # all scales, coarse to fine, row by row
    residuals: Float[Array, "n l d"]  # the vectors that were looked up, in the same order; no gradient


def multi_scale_quantize(z: Float[Array, "n h w d"], codebook: Float[Array, "k d"], scales: Scales = (1, 2, 4, 7),
                         method: str = "cubic") -> MultiScale:
    """Quantizes a map scale by scale, each the residual that the scales before leave.

        i_k = nearest(down_k(z - f_{k-1})),   f_k = f_{k-1} + up(e[i_k]),   f_0 = 0

    The paper's convolution after each upsampling is left out, so that the result is linear in the codes.

    Args:
      z: maps of the last scale's size.
      codebook: `[k d]`; gradients of `partial` reach it, none reaches z.
      scales: sides (or (h, w)) from coarse to fine.
      method: of upsampling, 'cubic' (the paper's) or 'linear'.

    Raises:
      ValueError: for scales or a method that do not exist, or maps of another size.

    Reference: Tian et al., 'Visual autoregressive modeling', 2024, arXiv 2404.02905, algorithm 1; residual
    quantization: Lee et al., 2022, arXiv 2203.01941.

    >>> quantize = jax.jit(multi_scale_quantize, static_argnames="scales")
    >>> found = quantize(jnp.ones((1, 2, 2, 1)), jnp.array([[0.0], [1.0]]), scales=(1, 2))
    >>> found.indices.tolist(), float(found.partial[-1].min())
    ([[1, 0, 0, 0, 0]], 1.0)
    """
    sizes = scale_sizes(scales)
    _check_method(method)
    if z.shape[1:3] != sizes[-1]:
        raise ValueError(f"maps of {z.shape[1]} x {z.shape[2]} do not have the size of the last scale, "
                         f"{sizes[-1][0]} x {sizes[-1][1]}: change the scales or the encoder")
    left, total, partial, indices, residuals = lax.stop_gradient(z).astype(jnp.float32), 0.0, [], [], []
    for size in sizes:
        small = downsample(left, size)
        index = nearest_code(small, codebook)
        whole = upsample(lookup(index, codebook).astype(jnp.float32), sizes[-1], method)
        left, total = left - lax.stop_gradient(whole), total + whole
        partial.append(total)
        indices.append(index.reshape(z.shape[0], -1))
        residuals.append(small.reshape(z.shape[0], -1, z.shape[-1]))
    return MultiScale(jnp.stack(partial), jnp.concatenate(indices, 1), jnp.concatenate(residuals, 1))


def multi_scale_lookup(indices: Int[Array, "n l"], codebook: Float[Array, "k d"], scales: Scales = (1, 2, 4, 7),
                       method: str = "cubic") -> Float[Array, "n h w d"]:
    """The sum of the upsampled codes, `[n l]` -> `[n h w d]`. Of the first scales alone, if the sequence stops there.

    Raises:
      ValueError: for a sequence that does not fill whole scales.
    """
    _check_method(method)
    size, maps = scale_sizes(scales)[-1], split_scales(indices, scales)
    if not maps:
        return jnp.zeros((indices.shape[0], *size, codebook.shape[1]))
    return sum(upsample(lookup(part, codebook).astype(jnp.float32), size, method) for part in maps)


def multi_scale(width: int, codes: int, scales: Scales = (1, 2, 4, 7), moving: bool = True, beta: float = 0.25,
                method: str = "cubic", decay: float = 0.99, epsilon: float = 1e-5, threshold: float = 0.0,
                axis_name: str | None = None) -> Quantizer:
    """Multi-scale residual quantization as a `Quantizer` of maps `[n h w d]` of the last scale's size.

    Its indices are one sequence `[n L]`, L = sum of h w over the scales, and `lookup` takes sequences to maps: places
    is 1, but positions of codes are not positions of the map. The loss, with f_k the sum up to scale k of K, is

        1/K sum_k (beta |z - sg f_k|^2 + |sg z - f_k|^2),

    means over positions and channels, the second term only where gradients move the codebook. The decoder's gradient
    passes straight through. `z_q` and `lookup` agree to rounding.

    Args:
      width: d.
      codes: K of the one codebook.
      scales: sides (or (h, w)) from coarse to fine.
      moving: codes are moving averages of the residuals assigned to them, at all scales alike; else gradients.
      beta: of the commitment.
      method: of upsampling, 'cubic' or 'linear'.
      decay, epsilon: of the averages.
      threshold: assignments per batch under which a moving code restarts at a residual of the batch; 0 for never.
      axis_name: the mapped axis, or None under `jit`.

    Raises:
      ValueError: for scales or a method that do not exist.

    Reference: Tian et al., 2024, arXiv 2404.02905.
    """
    sizes = scale_sizes(scales)
    _check_method(method)
    if threshold and not moving:
        raise ValueError("threshold restarts moving codes: set it to 0 where gradients move the codebook")

    def state_of(table: Array) -> Codes:
        return Codes(moving=ema_codebook(table)) if moving else Codes(learned=table)

    def codebook(state: Codes) -> Array:
        return state.moving.codes if moving else state.learned

    def init(key: Array) -> Codes:
        return state_of(jax.random.uniform(key, (codes, width), minval=-1.0 / codes, maxval=1.0 / codes))

    def start(vectors: Float[Array, "m d"], state: Codes, key: Array) -> Codes:
        return state_of(kmeans(vectors, codes, key))

    def quantize(z: Float[Array, "n h w d"], state: Codes, key: Array, train: bool) -> Quantized:
        found = multi_scale_quantize(z, codebook(state), sizes, method)
        z32 = z.astype(jnp.float32)

        def error(a, b):
            return jnp.mean(jnp.square(a - b), axis=(0, 2, 3, 4))

        metrics = {"commitment": error(z32, lax.stop_gradient(found.partial))}
        loss = beta * metrics["commitment"]
        if not moving:
            metrics["codebook"] = error(lax.stop_gradient(z32), found.partial)
            loss = loss + metrics["codebook"]
        if train and moving:
            averages = ema_update(state.moving, found.residuals, found.indices, decay, epsilon, axis_name)
            if threshold:
                averages = revive(averages, found.residuals, key, threshold, axis_name)
            state = state._replace(moving=averages)
        z_q = straight_through(z, found.partial[-1].astype(z.dtype))
        return Quantized(z_q, found.indices, loss, state, metrics)

    return Quantizer(width, codes, 1, init, quantize,
                     lambda indices, state: multi_scale_lookup(indices, codebook(state), sizes, method), start)


def _area(old: int, new: int) -> np.ndarray:
    """The matrix [new old] of area downsampling."""
    pixel, cell = np.arange(old), np.arange(new)[:, None]
    inside = (pixel >= cell * old // new) & (pixel < -(-(cell + 1) * old // new))
    return np.float32(inside / inside.sum(1, keepdims=True))


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {METHODS}")
