"""A transformer over positions of one to three axes; where causal, in parallel or step by step with a cache."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxae.nn.attention import TransformerBlock, block_norm, empty_cache
from jaxae.nn.denoise import time_embedding
from jaxae.nn.rotary import rotary_angles


class Cache(NamedTuple):
    """What a causal transformer remembers of the tokens it has read."""

    position: Array  # int32 scalar: number of tokens read
    layers: tuple[PyTree, ...]  # of each block: `KeyValueCache`, or `LinearState`


class Positions(nn.Module):
    """Learned position embeddings in raster order: `[prod(shape) width]`, float32.

    Each table starts at deviation width^-1/2, as embeddings of tokens do: with smaller ones masked tokens, which differ
    in nothing else, take hundreds of updates to be told apart.

    Attributes:
      shape: sizes of the axes.
      width: of an embedding.
      factored: the sum of one table for each axis, instead of one table of all positions.
    """

    shape: tuple[int, ...]
    width: int
    factored: bool = True

    @nn.compact
    def __call__(self) -> Float[Array, "t d"]:
        start = nn.initializers.normal(self.width**-0.5)
        if not self.factored or len(self.shape) == 1:
            return self.param("table", start, (math.prod(self.shape), self.width), jnp.float32)
        total = 0.0
        for i, size in enumerate(self.shape):
            table = self.param(f"axis{i}", start, (size, self.width), jnp.float32)
            total = total + table.reshape(size, *[1] * (len(self.shape) - 1 - i), self.width)
        return total.reshape(-1, self.width)


def sinusoids(length: int, width: int) -> Float[Array, "t d"]:
    """Positions as sines and cosines in turn: channels 2i and 2i+1 of place t are those of t / 10000^(2i / width).

    Args:
      length: places, t.
      width: channels, an even number.

    Raises:
      ValueError: for an odd width.

    >>> [[round(float(value), 3) for value in row] for row in sinusoids(2, 4)]
    [[0.0, 1.0, 0.0, 1.0], [0.841, 0.54, 0.01, 1.0]]

    Reference: Vaswani et al., 'Attention is all you need', 2017, arXiv 1706.03762.
    """
    cos, sin = jnp.split(time_embedding(jnp.arange(length), width), 2, axis=-1)
    return jnp.stack([sin, cos], -1).reshape(length, width)


class Transformer(nn.Module):
    """Transformer over embedded tokens: `[b t width] -> [b t out]`.

        x_t <- x_t + position_t;   x <- block(x), `layers` times;   logits = W norm(x) + b

    Where causal, row t of the output is a function of rows up to t of the input, and

        logits, cache = net.apply(variables, x[:, t:t + s], cache)

    gives rows t .. t+s-1 from the `cache` of the rows before (`start` gives the first one): the same layers with the
    same parameters, in O(t) time a token with softmax attention and O(1) with linear attention.

    Attributes:
      out: channels of the output, e.g. the number of codes.
      shape: sizes of the axes of the positions, read in raster order.
      width: of tokens and layers.
      layers: number of blocks.
      heads: of each attention; `width` must be a multiple.
      mlp_ratio: width of the MLPs' hidden layers over `width`.
      causal: whether a position sees only itself and those before it.
      attention: 'softmax' or 'linear'.
      factored: position embeddings as sums over the axes, or one for each position.
      dropout: rate after each attention and each MLP; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      dtype: computation; parameters and the output are float32.
      activation: of the MLPs.
      style: 'gpt', or 'llama': rotary positions over all axes in place of learned ones, and the blocks of
        `TransformerBlock` that go with them; only with softmax attention.
      norm_place: 'pre' or 'post' of the blocks' norms, see `TransformerBlock`; one more norm follows the last block.
      place: 'learned' positions or 'sinusoidal' ones (`sinusoids` of the raster order), for the style 'gpt'.

    Reference: Vaswani et al., 'Attention is all you need', 2017, arXiv 1706.03762; the recurrent form of linear
    attention: Katharopoulos, Vyas, Pappas, Fleuret, 2020, arXiv 2006.16236.

    >>> import jax
    >>> net = Transformer(out=10, shape=(3, 4), width=16, layers=2, heads=2)
    >>> x = jnp.ones((5, 12, 16))
    >>> logits, variables = net.init_with_output(jax.random.key(0), x)
    >>> first, cache = net.apply(variables, x[:, :1], net.start(5))
    >>> logits.shape, first.shape
    ((5, 12, 10), (5, 1, 10))
    """

    out: int
    shape: tuple[int, ...]
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: int | float = 4
    causal: bool = True
    attention: str = "softmax"
    factored: bool = True
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    activation: Callable[[Array], Array] = nn.gelu
    style: str = "gpt"
    norm_place: str = "pre"
    place: str = "learned"

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], cache: Cache | None = None, *,
                 memory: Float[Array, "b m e"] | None = None, seen: Bool[Array, "b t"] | None = None,
                 deterministic: bool = True) -> Float[Array, "b t out"] | tuple:
        """Args:
          x: embedded tokens, all of them, or with a cache those that follow.
          cache: of the tokens before; only for a causal net.
          memory: what every block attends to beside the tokens, such as an encoder's output.
          seen: False for tokens that are no keys, such as padding; see `SelfAttention`.
          deterministic: no dropout.

        Returns:
          float32 logits, and with a cache the new cache: `(logits, cache)`.

        Raises:
          ValueError: without a cache, for another number of tokens than positions; for a style or a kind of positions
            that does not exist, or a style that does not go with the attention.
        """
        t, length, norm, rotary = x.shape[1], math.prod(self.shape), block_norm(self.style), self.style == "llama"
        if rotary and self.attention != "softmax":
            raise ValueError("Transformer: rotary positions (style='llama') are for softmax attention.")
        if self.place not in ("learned", "sinusoidal"):
            raise ValueError(f"Transformer: place={self.place!r} must be one of learned, sinusoidal.")
        if rotary:
            positions = jnp.asarray(rotary_angles(tuple(self.shape), self.width // self.heads))
        elif self.place == "sinusoidal":
            positions = sinusoids(length, self.width)
        else:
            positions = Positions(tuple(self.shape), self.width, self.factored, name="positions")()
        if cache is not None:
            positions = lax.dynamic_slice_in_dim(positions, cache.position, t)
        elif t != length:
            raise ValueError(f"Transformer: {t} tokens for {length} positions of shape {tuple(self.shape)}: they must "
                             "agree, unless a cache is given")
        x = (x if rotary else x + positions).astype(self.dtype)
        states = []
        for i in range(self.layers):
            block = TransformerBlock(self.heads, self.mlp_ratio, self.causal, self.dtype, self.attention, self.dropout,
                                     self.axis_name, self.activation, self.style, self.norm_place, name=f"block{i}")
            x = block(x, None if cache is None else cache.layers[i], seen, memory=memory,
                      angles=positions if rotary else None, deterministic=deterministic)
            if cache is not None:
                x, state = x
                states.append(state)
        x = norm(dtype=self.dtype, name="norm")(x)
        logits = nn.Dense(self.out, use_bias=not rotary, dtype=jnp.float32, name="logits")(x.astype(jnp.float32))
        return logits if cache is None else (logits, Cache(cache.position + t, tuple(states)))

    @nn.nowrap
    def start(self, b: int) -> Cache:
        """The cache of b sequences before their first token."""
        layer = empty_cache(self.attention, b, math.prod(self.shape), self.heads, self.width, self.dtype)
        return Cache(jnp.int32(0), (layer,) * self.layers)
