"""Causal autoregressive prior on real tokens: a transformer with a cache and a diffusion head for each token."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.attention import TransformerBlock, empty_cache
from jaxae.priors.base import Prior
from jaxae.priors.classes import hide, needs_guidance, rows_of
from jaxae.priors.tokens import Head, check_order, diffusion_head, place_table, rows, turns


class CausalContinuousAR(nn.Module):
    """Conditions of tokens that are taken in an order of their own, each from those before it.

    Attributes:
      grid: places of the L tokens along each axis, (L,) or (h, w).
      num_classes: 0, or number of classes; label `num_classes` is the null class.
      width, depth, heads: of the transformer.
      buffer: class tokens in front of the sequence.
      dropout: rate; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread, for the noise of the dropout.
      dtype: computation; parameters and the conditions are float32.
    """

    grid: tuple[int, ...]
    num_classes: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    buffer: int = 1
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @property
    def tokens(self) -> int:
        """L"""
        return math.prod(self.grid)

    def setup(self):
        unit, shape = nn.initializers.normal(1.0), (self.tokens, self.width)

        def places(key, shape):
            return place_table(key, self.grid, self.width)

        self.label = nn.Embed(self.num_classes + 1, self.width, embedding_init=unit)
        self.start = self.param("start", unit, (self.buffer, self.width))
        self.embed = nn.Dense(self.width, dtype=self.dtype)
        self.position = self.param("position", places, shape)
        self.target = self.param("target", places, shape)
        self.place = self.param("place", places, shape)
        self.blocks = [TransformerBlock(self.heads, causal=True, dtype=self.dtype, dropout=self.dropout,
                                        axis_name=self.axis_name) for _ in range(self.depth)]
        self.norm = nn.LayerNorm(dtype=self.dtype)

    def __call__(self, x: Float[Array, "n t d"], turns: Int[Array, "n t"], label: Int[Array, " n"],
                 deterministic: bool = True) -> Float[Array, "n t w"]:
        """The conditions `[n L width]` of tokens x in their order, which `turns` gives as places in the raster."""
        y = jnp.concatenate([self._front(label), self.embed(x[:, :-1]) + self.position[turns[:, :-1]]], axis=1)
        return self._conditions(y, turns, None, deterministic)[0]

    def first(self, turn: Int[Array, " n"], label: Int[Array, " n"], cache: PyTree) -> tuple[Array, PyTree]:
        """The condition `[n width]` of the first token, and the cache of the class tokens."""
        z, cache = self._conditions(self._front(label), turn[:, None], cache)
        return z[:, 0], cache

    def step(self, x: Float[Array, "n d"], turn: Int[Array, " n"], next_turn: Int[Array, " n"],
             cache: PyTree) -> tuple[Array, PyTree]:
        """The condition of the token at `next_turn` from the token x before it, at `turn`, and the next cache."""
        y = (self.embed(x) + self.position[turn])[:, None]
        z, cache = self._conditions(y, next_turn[:, None], cache)
        return z[:, 0], cache

    @nn.nowrap
    def cache(self, n: int) -> PyTree:
        """The caches of the blocks before the class tokens."""
        return (empty_cache("softmax", n, self.buffer + self.tokens, self.heads, self.width, self.dtype),) * self.depth

    def _front(self, label):
        return self.label(label)[:, None] + self.start

    def _conditions(self, y, turns, cache, deterministic=True):
        """Of the last rows of y `[n t width]`, one for each of `turns [n s]`, the places of the tokens they predict."""
        first = y.shape[1] - turns.shape[1]
        # In a random order a row could not know which token it is to predict.
        y = y.at[:, first:].add(self.target[turns]).astype(self.dtype)
        states = []
        for i, block in enumerate(self.blocks):
            y = block(y, None if cache is None else cache[i], deterministic=deterministic)
            if cache is not None:
                y, state = y
                states.append(state)
        return self.norm(y)[:, first:].astype(jnp.float32) + self.place[turns], tuple(states)


def causal_continuous(
    shape: tuple[int, ...],
    num_classes: int = 0,
    head: Head | None = None,
    order: str = "raster",
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    buffer: int = 1,
    dropout: float = 0.0,
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Prior:
    """Prior on sequences of real tokens, p(z) = prod_i p(z_i | those before it in the order), by causal attention.

    The transformer's output at a token, plus a learned embedding of the place of the one that comes next, is the
    condition of the next one's head. `loss` is the sum over all tokens of the head's loss. `sample` is one compiled
    loop in which each token costs one row of the transformer, with keys and values of those before it kept.

    Args:
      shape: `(tokens, d)`, or `(h, w, d)` for maps, whose tokens are numbered by rows.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      head: of the tokens; `diffusion_head(d)` by default, for which latents should have about unit variance.
      order: 'raster', or 'random' for one drawn anew for each example: then the embedding of the place that is to be
        predicted is added to the row that predicts it (so it is in the raster, where nothing depends on it).
      width, depth, heads: of the transformer.
      buffer: class tokens in front of the sequence.
      dropout: rate after each attention and each MLP in `loss`.
      label_dropout: share of examples whose label is hidden in training, for guidance.
      axis_name: mapped axis over which the batch is spread, for the noise of `loss`.
      dtype: computation of the transformer.

    Returns:
      A `Prior` with a `loss` and without `log_prob`. `sample(params, key, n, label=None, steps=100, guidance=1.0,
      temperature=1.0, cache=True)` gives `[n, *shape]`, each token by `steps` passes of the head; guidance rises
      linearly from 1 with the share of tokens drawn; temperature scales the head's noise. `cache=False` computes
      everything anew for each token.

    Raises:
      ValueError: for options that do not exist, latents of another shape, or a label missing where there are classes.

    Reference: Li, Tian, Li, Deng, He, 'Autoregressive image generation without vector quantization', 2024, arXiv
    2406.11838.

    >>> prior = causal_continuous((4, 2), width=16, depth=1, heads=2)
    >>> params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, 4, 2)))
    >>> prior.sample(params, jax.random.key(1), 3, steps=4).shape
    (3, 4, 2)
    """
    check_order(order)
    if buffer < 1:
        raise ValueError(f"buffer={buffer} must be at least 1")
    tokens = rows(shape)
    length, d = tokens.length, shape[-1]
    head = diffusion_head(d) if head is None else head
    net = CausalContinuousAR(shape[:-1], num_classes, width, depth, heads, buffer, dropout, axis_name, dtype)

    def init(key: Array, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        keys, x = collectives.split_keys(key, ("trunk", "head")), tokens.of(latents)[:1]
        label = rows_of(label, latents.shape[0], num_classes)[:1]
        params = net.init(keys["trunk"], x, jnp.arange(length)[None], label)["params"]
        return {"trunk": params, "head": head.init(keys["head"], x, jnp.zeros((1, length, width)))}

    def loss(params: PyTree, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None, key: Array
             ) -> Float[Array, " n"]:
        x = tokens.of(latents)
        n, keys = x.shape[0], collectives.split_keys(key, ("label", "order", "head", "dropout"))
        label = hide(keys["label"], rows_of(label, n, num_classes), num_classes, label_dropout, axis_name)
        order_of = turns(keys["order"], n, length, order, axis_name)
        x = jnp.take_along_axis(x, order_of[..., None], axis=1)
        z = net.apply({"params": params["trunk"]}, x, order_of, label, not dropout, rngs={"dropout": keys["dropout"]})
        return head.loss(params["head"], x, z, keys["head"], axis_name).sum(1)

    @partial(jax.jit, static_argnames=("n", "steps", "is_guided", "cache"))
    def draw(params, key, label, guidance, temperature, n, steps, is_guided, cache):
        order_key, key = jax.random.split(key)
        order_of, variables = turns(order_key, n, length, order), {"params": params["trunk"]}
        every_label = jnp.concatenate([label, jnp.full_like(label, num_classes)]) if is_guided else label

        def every(a):
            return jnp.concatenate([a, a]) if is_guided else a

        def pick(z, i):
            """The tokens that come i-th."""
            z, null = jnp.split(z, 2) if is_guided else (z, None)
            weight = 1.0 + (guidance - 1.0) * (i + 1.0) / length
            return head.sample(params["head"], jax.random.fold_in(key, i), z, null, weight, temperature, steps)

        def step(carry, i):
            z, state = carry
            x, now, then = pick(z, i), order_of[:, i], order_of[:, jnp.minimum(i + 1, length - 1)]
            return net.apply(variables, every(x), every(now), every(then), state, method="step"), x

        def anew(x, i):
            z = net.apply(variables, every(x), every(order_of), every_label)
            return x.at[:, i].set(pick(z[:, i], i)), None

        if cache:
            every_row = every(order_of[:, 0])
            start = net.apply(variables, every_row, every_label, net.cache(len(every_row)), method="first")
            x = lax.scan(step, start, jnp.arange(length))[1].swapaxes(0, 1)
        else:
            x = lax.scan(anew, jnp.zeros((n, length, d)), jnp.arange(length))[0]
        return jnp.zeros_like(x).at[jnp.arange(n)[:, None], order_of].set(x).reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None, steps: int = 100,
               guidance: float | Float[Array, ""] = 1.0, temperature: float | Float[Array, ""] = 1.0,
               cache: bool = True) -> Float[Array, "n ..."]:
        return draw(params, key, rows_of(label, n, num_classes), jnp.float32(guidance), jnp.float32(temperature), n,
                    steps, needs_guidance(guidance, num_classes), cache)

    return Prior(init, None, sample, loss=loss)
