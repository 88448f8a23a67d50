"""Axial attention, and the Axial Transformer: causal over maps and videos, with all rows above seen in parallel."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxae.nn.attention import SelfAttention, TransformerBlock, empty_cache
from jaxae.nn.transformer import Positions


def along_axis(function: Callable, x: Float[Array, "b *shape d"], axis: int, cache: PyTree = None, **options):
    """A function of sequences `[b t d]` along one axis of maps or videos, the other axes folded into the batch.

    Args:
      function: `(sequences, cache, **options) -> sequences`, or `(sequences, cache)` where it is given a cache.
      x: `[b n_1 .. n_d width]`, such as maps `[b h w width]`.
      axis: 1 to d; of maps, 1 is along columns and 2 along rows.
      cache: passed on.
      options: passed on.

    Returns:
      An array like x, and with a cache the new cache.

    Raises:
      ValueError: for an axis that is not there, or that counts the batch or the width.
    """
    if not 1 <= axis <= x.ndim - 2:
        raise ValueError(f"along_axis: axis={axis} of an array of {x.ndim} axes must be 1 to {x.ndim - 2}, neither the "
                         "batch nor the width; of maps [b h w d], 1 is down the columns and 2 along the rows.")
    folded = jnp.moveaxis(x, axis, -2)
    y = function(folded.reshape(-1, *folded.shape[-2:]), cache, **options)
    if cache is not None:
        y, cache = y
    y = jnp.moveaxis(y.reshape(folded.shape), -2, axis)
    return y if cache is None else (y, cache)


class AxialAttention(nn.Module):
    """Self-attention along one axis of maps, `[b h w d] -> [b h w d]` in O(h w (h or w)) time, or of `[b t h w d]`.

    What full attention over all positions gives with a mask that keeps the same line along the axis, of maps the same
    column (axis 1) or row (axis 2), and, where causal, what is not after the position there.

    Attributes:
      heads: number of heads; d must be a multiple.
      axis: along which, from 1: of maps, 1 along columns and 2 along rows.
      causal: position t of the axis sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are those of `SelfAttention`.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 'Axial attention in multidimensional transformers', 2019,
    arXiv 1912.12180.
    """

    heads: int
    axis: int
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape d"]) -> Float[Array, "b *shape d"]:
        return along_axis(SelfAttention(self.heads, self.causal, self.dtype, name="attention"), x, self.axis)


class AxialEncoder(nn.Module):
    """Pairs of row and column blocks without masks: `[b .. h w width] -> [b .. h w width]`; sees the whole map.

    Attributes:
      layers: number of pairs.
      heads: of each attention.
      mlp_ratio: width of the MLPs' hidden layers over that of the map.
      dropout: rate after each attention and each MLP; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      dtype: computation.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 2019, arXiv 1912.12180.
    """

    layers: int
    heads: int = 4
    mlp_ratio: int | float = 4
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape d"], deterministic: bool = True) -> Float[Array, "b *shape d"]:
        for i in range(self.layers):
            for axis, name in ((x.ndim - 2, "row"), (x.ndim - 3, "column")):
                block = TransformerBlock(self.heads, self.mlp_ratio, False, self.dtype, "softmax", self.dropout,
                                         self.axis_name, name=f"{name}{i}")
                x = along_axis(block, x, axis, deterministic=deterministic)
        return x


class AxialTransformer(nn.Module):
    """Logits of each pixel given those before it in raster order, of maps and, by nesting, of videos and more axes.

        for each axis k but the last, from the first:
            u_k = x + p + c + sum_l<k u_l;   u_k <- blocks along the axes from the last one up to k, `outer` times, the
            one along k causal, the others not;   u_k[i] <- u_k[i - 1] along k, u_k[0] <- 0
        v[.., j] = x[.., j - 1] + p + c + sum_k u_k, v[.., 0] = p + c + sum_k u_k;   v <- row_block(v), causal, `inner`
        times;   logits = W norm(v) + b

    with embedded pixels x, positions p and a context c, `[b n_1 .. n_d width] -> [b n_1 .. n_d out]`. u_k brings all
    earlier slices of axis k in the same place of the axes before it: for maps `[h w]` the rows above, for videos
    `[t h w]` the earlier frames, then the rows above in the frame. v brings the pixels on the left: every pixel before
    and no other. Where `outer` is 0, u_k stays zero and the slices of that axis are on their own.

    Sampling needs `above` once a slice, for videos once a frame and once a row, and `across` once a pixel, on caches:
    the sequential cost of the larger part is h for a map of h w pixels.

    Attributes:
      out: channels of the output, e.g. the number of levels.
      shape: of what is modelled, `(h, w)` or `(.., h, w)`.
      width: of tokens and layers.
      outer: layers of blocks over earlier slices, for all axes but the last or for each of them; 0 for none.
      inner: row blocks, 1 or more.
      heads: of each attention.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      dropout: rate after each attention and each MLP; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      dtype: computation; parameters and the output are float32.

    Raises:
      ValueError: for fewer than two axes, numbers of layers that fit neither, or inputs of another shape.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 2019, arXiv 1912.12180.

    >>> import jax
    >>> net = AxialTransformer(out=5, shape=(3, 4), width=16, heads=2)
    >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 3, 4, 16)))[0].shape
    (2, 3, 4, 5)
    >>> video = AxialTransformer(out=5, shape=(2, 3, 4), width=16, outer=(1, 2), heads=2)
    >>> video.init_with_output(jax.random.key(0), jnp.ones((1, 2, 3, 4, 16)))[0].shape
    (1, 2, 3, 4, 5)
    """

    out: int
    shape: tuple[int, ...]
    width: int = 128
    outer: int | tuple[int, ...] = 2
    inner: int = 2
    heads: int = 4
    mlp_ratio: int | float = 4
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        def blocks(count, causal):
            return [TransformerBlock(self.heads, self.mlp_ratio, causal, self.dtype, "softmax", self.dropout,
                                     self.axis_name) for _ in range(count)]

        axes, outer = len(self.shape), self.outer
        outer = (outer,) * (axes - 1) if isinstance(outer, int) else tuple(outer)
        if axes < 2 or len(outer) != axes - 1 or min(outer) < 0 or self.inner < 1:
            raise ValueError("AxialTransformer needs two axes or more, outer >= 0, one number or one for each axis but "
                             f"the last, and inner >= 1; got shape {tuple(self.shape)}, outer={self.outer} and "
                             f"inner={self.inner}.")
        self.positions = Positions(tuple(self.shape), self.width)
        # Of axes before those of a map: for each its layers, of each layer the blocks from the last axis up to it.
        self.beyond = [[blocks(axes - 1 - k, False) + blocks(1, True) for _ in range(count)]
                       for k, count in enumerate(outer[:-1])]
        self.rows, self.columns = blocks(outer[-1], False), blocks(outer[-1], True)
        self.lefts = blocks(self.inner, True)
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.logits = nn.Dense(self.out, dtype=jnp.float32)

    def __call__(self, x: Float[Array, "b *shape d"], context: Float[Array, "b *shape d"] | None = None,
                 deterministic: bool = True) -> Float[Array, "b *shape out"]:
        return self.inside(x, add(context, self.outside(x, context, deterministic)), deterministic)

    def outside(self, x: Float[Array, "b *shape d"], context: Array | None = None,
                deterministic: bool = True) -> Array | None:
        """What earlier slices of the axes before those of a map mean to each map, such as earlier frames: None of maps.

        Args:
          x: embedded pixels.
          context: of them; broadcasts.

        Returns:
          `[b *shape d]`, the sum of u_k for all axes k but the last two.
        """
        if x.shape[1:-1] != tuple(self.shape):
            raise ValueError(f"AxialTransformer: {x.shape[1:-1]} pixels for shape {tuple(self.shape)}: make them equal")
        total = None
        for axis in range(len(self.shape) - 2):
            u, _ = self.above(x, add(context, total), axis=axis, deterministic=deterministic)
            total = add(total, shift(u, axis + 1))
        return total

    def inside(self, x: Float[Array, "b *shape d"], context: Array | None = None,
               deterministic: bool = True) -> Float[Array, "b *shape out"]:
        """Logits of the pixels of each map by itself, given a context in which all is that it knows of other maps."""
        u, _ = self.above(x, context, deterministic=deterministic)
        u = shift(u, x.ndim - 3)
        return self.across(shift(x, x.ndim - 2), u, context, deterministic=deterministic)[0]

    def above(self, x: Float[Array, "b *part d"], context: Array | None = None, place: tuple = (),
              caches: tuple[PyTree, ...] | None = None, axis: int | None = None,
              deterministic: bool = True) -> tuple[Array, PyTree]:
        """What some slices of an axis, and those before them in the caches, mean to the slice after each of them.

        Args:
          x: embedded pixels of the slices, whole in the axes after theirs.
          context: of these pixels; broadcasts.
          place: of the first pixel, by axis; axes that are not named begin at 0.
          caches: of the blocks along the axis, for the slices before; None where x holds all slices.
          axis: of the slices, from 0; None for the rows of maps.

        Returns:
          u_k like x, not shifted, and the new caches.
        """
        axis, after = len(self.shape) - 2 if axis is None else axis, []
        layers = [*self.beyond, list(zip(self.rows, self.columns, strict=True))][axis]
        if not layers:
            return jnp.zeros(x.shape, self.dtype), caches
        u = self._placed(x, context, place)
        for i, (*within, along) in enumerate(layers):
            for k, block in enumerate(within):
                u = along_axis(block, u, x.ndim - 2 - k, deterministic=deterministic)
            u = along_axis(along, u, axis + 1, None if caches is None else caches[i], deterministic=deterministic)
            if caches is not None:
                u, cache = u
                after.append(cache)
        return u, None if caches is None else tuple(after)

    def across(self, left: Float[Array, "b *part d"], u: Float[Array, "b *part d"], context: Array | None = None,
               place: tuple = (), caches: tuple[PyTree, ...] | None = None,
               deterministic: bool = True) -> tuple[Array, PyTree]:
        """Logits of pixels from the pixels on their left and what `above` says.

        Args:
          left: embedded pixel to the left of each pixel, zeros in the first column.
          u: what `above` gives for the row before theirs, zeros in the first row.
          context: of these pixels, with what it gives for earlier slices of the axes before the rows.
          place: of the first pixel, by axis; axes that are not named begin at 0.
          caches: of the row blocks, for the pixels on the left, where there is one row; None where rows are whole.

        Returns:
          float32 logits of these pixels, and the new caches.
        """
        v, after = left + self._placed(u, context, place), []
        for i, block in enumerate(self.lefts):
            v = along_axis(block, v.astype(self.dtype), v.ndim - 2, None if caches is None else caches[i],
                           deterministic=deterministic)
            if caches is not None:
                v, cache = v
                after.append(cache)
        return self.logits(self.norm(v).astype(jnp.float32)), None if caches is None else tuple(after)

    def _placed(self, x, context, place):
        positions = slices(self.positions().reshape(*self.shape, self.width), place, x.shape[1:-1])
        return add(x + positions, context).astype(self.dtype)

    @nn.nowrap
    def start_above(self, b: int, axis: int | None = None) -> tuple[PyTree, ...]:
        """Caches of b examples for `above` along an axis, before the first slice in one place of the axes before."""
        axis = len(self.shape) - 2 if axis is None else axis
        layers = self.outer if isinstance(self.outer, int) else self.outer[axis]
        return (empty_cache("softmax", b * math.prod(self.shape[axis + 1:]), self.shape[axis], self.heads, self.width,
                            self.dtype),) * layers

    @nn.nowrap
    def start_across(self, b: int) -> tuple[PyTree, ...]:
        """Caches of b examples for `across`, before the first pixel of a row."""
        return (empty_cache("softmax", b, self.shape[-1], self.heads, self.width, self.dtype),) * self.inner


def add(x: Array | None, y: Array | None) -> Array | None:
    """The sum of what there is."""
    return y if x is None else x if y is None else x + y


def shift(x: Float[Array, "b *shape d"], axis: int) -> Float[Array, "b *shape d"]:
    """An array moved by one along an axis, with zeros where nothing comes from: of maps, 1 is down, 2 to the right."""
    return jnp.roll(x, 1, axis) * (jnp.arange(x.shape[axis]) > 0).reshape(-1, *[1] * (x.ndim - 1 - axis))


def slices(x: Float[Array, "*shape d"], place: tuple, sizes: tuple[int, ...]) -> Float[Array, "*sizes d"]:
    """The part of given sizes that begins at a place; axes that are not named begin at 0."""
    return lax.dynamic_slice(x, (*place, *[0] * (x.ndim - len(place))), (*sizes, x.shape[-1]))
