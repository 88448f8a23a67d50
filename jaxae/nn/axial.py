"""Axial attention, and the Axial Transformer: causal over maps, with all rows above seen in parallel."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxae.nn.attention import SelfAttention, TransformerBlock, empty_cache
from jaxae.nn.transformer import Positions


def along_axis(function: Callable, x: Float[Array, "b h w d"], axis: int, cache: PyTree = None, **options):
    """A function of sequences `[b t d]` along one axis of maps, the other axis folded into the batch.

    Args:
      function: `(sequences, cache, **options) -> sequences`, or `(sequences, cache)` where it is given a cache.
      x: maps `[b h w d]`.
      axis: 1 along columns, 2 along rows.
      cache: passed on.
      options: passed on.

    Returns:
      `[b h w d]`, and with a cache the new cache.
    """
    if axis not in (1, 2):
        raise ValueError(f"along_axis: axis={axis} must be 1 (down the columns) or 2 (along the rows) of [b h w d].")
    folded = x.swapaxes(1, 2) if axis == 1 else x
    y = function(folded.reshape(-1, *folded.shape[2:]), cache, **options)
    if cache is not None:
        y, cache = y
    y = y.reshape(folded.shape)
    y = y.swapaxes(1, 2) if axis == 1 else y
    return y if cache is None else (y, cache)


class AxialAttention(nn.Module):
    """Self-attention along one axis of maps: `[b h w d] -> [b h w d]`, in O(h w (h or w)) time.

    What full attention over all h w positions gives with a mask that keeps the same column (axis 1) or row (axis 2),
    and, where causal, what is not after the position there.

    Attributes:
      heads: number of heads; d must be a multiple.
      axis: 1 along columns, 2 along rows.
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
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        return along_axis(SelfAttention(self.heads, self.causal, self.dtype, name="attention"), x, self.axis)


class AxialEncoder(nn.Module):
    """Pairs of row and column blocks without masks: `[b h w width] -> [b h w width]`; sees the whole map.

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
    def __call__(self, x: Float[Array, "b h w d"], deterministic: bool = True) -> Float[Array, "b h w d"]:
        for i in range(self.layers):
            for axis, name in ((2, "row"), (1, "column")):
                block = TransformerBlock(self.heads, self.mlp_ratio, False, self.dtype, "softmax", self.dropout,
                                         self.axis_name, name=f"{name}{i}")
                x = along_axis(block, x, axis, deterministic=deterministic)
        return x


class AxialTransformer(nn.Module):
    """Logits of each pixel given those before it in raster order: embedded maps `[b h w width] -> [b h w out]`.

        u = x + p + c;   u <- column_block(row_block(u)), `outer` times, columns causal;  u[i] <- u[i - 1], u[0] <- 0
        v[:, j] = x[:, j - 1] + u + p + c, v[:, 0] = u + p + c;   v <- row_block(v), causal, `inner` times
        logits = W norm(v) + b

    with positions p and a context c. u brings all rows above, v the pixels on the left: every pixel before and no
    other. With `outer` 0, u stays zero and each row is on its own. Sampling needs `above` once a row and `across` once
    a pixel, on caches: the sequential cost of `above`, the larger part, is h instead of h w.

    Attributes:
      out: channels of the output, e.g. the number of levels.
      shape: of a map, `(h, w)`.
      width: of tokens and layers.
      outer: pairs of row and column blocks, or 0.
      inner: row blocks, 1 or more.
      heads: of each attention.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      dropout: rate after each attention and each MLP; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      dtype: computation; parameters and the output are float32.

    Reference: Ho, Kalchbrenner, Weissenborn, Salimans, 2019, arXiv 1912.12180.

    >>> import jax
    >>> net = AxialTransformer(out=5, shape=(3, 4), width=16, heads=2)
    >>> net.init_with_output(jax.random.key(0), jnp.ones((2, 3, 4, 16)))[0].shape
    (2, 3, 4, 5)
    """

    out: int
    shape: tuple[int, int]
    width: int = 128
    outer: int = 2
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

        if self.outer < 0 or self.inner < 1:
            raise ValueError(f"AxialTransformer needs outer >= 0 and inner >= 1; got {self.outer} and {self.inner}.")
        # As large as embedded pixels, as in the official code: attention finds its neighbours sooner.
        self.positions = Positions(tuple(self.shape), self.width, std=self.width**-0.5)
        self.rows, self.columns = blocks(self.outer, False), blocks(self.outer, True)
        self.lefts = blocks(self.inner, True)
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.logits = nn.Dense(self.out, dtype=jnp.float32)

    def __call__(self, x: Float[Array, "b h w d"], context: Float[Array, "b h w d"] | None = None,
                 deterministic: bool = True) -> Float[Array, "b h w out"]:
        if x.shape[1:3] != tuple(self.shape):
            raise ValueError(f"AxialTransformer: maps of {x.shape[1:3]} for shape {tuple(self.shape)}: make them equal")
        u, _ = self.above(x, context, deterministic=deterministic)
        return self.across(shift(x, 2), shift(u, 1), context, deterministic=deterministic)[0]

    def above(self, x: Float[Array, "b r w d"], context: Array | None = None, row: Array | int = 0,
              caches: tuple[PyTree, ...] | None = None, deterministic: bool = True) -> tuple[Array, PyTree]:
        """What rows `row` to `row + r - 1` and those above, in the caches, mean to the row after each of them.

        Args:
          x: embedded pixels of the r rows.
          context: of these rows.
          row: the first of them.
          caches: of the causal column blocks, for the rows above; None where x holds all rows.

        Returns:
          `[b r w d]`, not shifted, and the new caches.
        """
        if not self.outer:
            return jnp.zeros(x.shape, self.dtype), caches
        u, after = self._placed(x, context, row, 0), []
        for i, (across, down) in enumerate(zip(self.rows, self.columns, strict=True)):
            u = along_axis(across, u, 2, deterministic=deterministic)
            u = along_axis(down, u, 1, None if caches is None else caches[i], deterministic=deterministic)
            if caches is not None:
                u, cache = u
                after.append(cache)
        return u, None if caches is None else tuple(after)

    def across(self, left: Float[Array, "b r s d"], u: Float[Array, "b r s d"], context: Array | None = None,
               row: Array | int = 0, column: Array | int = 0, caches: tuple[PyTree, ...] | None = None,
               deterministic: bool = True) -> tuple[Array, PyTree]:
        """Logits of pixels from the pixels on their left and what `above` says.

        Args:
          left: embedded pixel to the left of each pixel, zeros in the first column.
          u: what `above` gives for the row before theirs, zeros in the first row.
          context: of these pixels.
          row: of the first pixel.
          column: of the first pixel.
          caches: of the row blocks, for the pixels on the left, where r is 1; None where rows are whole.

        Returns:
          float32 `[b r s out]`, and the new caches.
        """
        v, after = left + self._placed(u, context, row, column), []
        for i, block in enumerate(self.lefts):
            v = along_axis(block, v.astype(self.dtype), 2, None if caches is None else caches[i],
                           deterministic=deterministic)
            if caches is not None:
                v, cache = v
                after.append(cache)
        return self.logits(self.norm(v).astype(jnp.float32)), None if caches is None else tuple(after)

    def _placed(self, x, context, row, column):
        positions = self.positions().reshape(*self.shape, self.width)
        positions = lax.dynamic_slice(positions, (row, column, 0), (*x.shape[1:3], self.width))
        x = x + positions
        return (x if context is None else x + context).astype(self.dtype)

    @nn.nowrap
    def start_above(self, b: int) -> tuple[PyTree, ...]:
        """Caches of b maps for `above`, before the first row."""
        h, w = self.shape
        return (empty_cache("softmax", b * w, h, self.heads, self.width, self.dtype),) * self.outer

    @nn.nowrap
    def start_across(self, b: int) -> tuple[PyTree, ...]:
        """Caches of b maps for `across`, before the first pixel of a row."""
        return (empty_cache("softmax", b, self.shape[1], self.heads, self.width, self.dtype),) * self.inner


def shift(x: Float[Array, "b h w d"], axis: int) -> Float[Array, "b h w d"]:
    """Maps moved by one along an axis, 1 down and 2 right, with zeros where nothing comes from."""
    return jnp.roll(x, 1, axis) * (jnp.arange(x.shape[axis]) > 0).reshape(-1, *[1] * (x.ndim - 1 - axis))
