"""Masked autoregressive prior on real tokens: an encoder of those revealed, a decoder, a diffusion head for each."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxae import collectives
from jaxae.nn.attention import TransformerBlock
from jaxae.priors.base import Prior
from jaxae.priors.classes import hide, needs_guidance, rows_of
from jaxae.priors.tokens import Head, check_order, diffusion_head, place_table, rows, turns


class _Trunk(nn.Module):
    """What the head of each token is given, `[n L width]`, from tokens `[n L d]` of which some are hidden `[n L]`."""

    grid: tuple[int, ...]  # places along each axis
    num_classes: int
    width: int
    depth: int
    heads: int
    buffer: int
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.tokens, unit = math.prod(self.grid), nn.initializers.normal(1.0)
        shape = (self.buffer + self.tokens, self.width)

        def places(key, shape):
            return unit(key, shape).at[shape[0] - self.tokens:].set(place_table(key, self.grid, self.width))

        self.label = nn.Embed(self.num_classes + 1, self.width, embedding_init=unit)
        self.embed = nn.Dense(self.width, dtype=self.dtype)
        self.position = self.param("position", places, shape)
        self.encoder_start = nn.LayerNorm(dtype=self.dtype)
        self.encoder = self._blocks()
        self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.bridge = nn.Dense(self.width, dtype=self.dtype)
        self.mask = self.param("mask", nn.initializers.normal(0.02), (self.width,))
        self.decoder_position = self.param("decoder_position", places, shape)
        self.decoder = self._blocks()
        self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
        self.place = self.param("place", places, (self.tokens, self.width))

    def _blocks(self):
        return [TransformerBlock(self.heads, dtype=self.dtype, dropout=self.dropout, axis_name=self.axis_name)
                for _ in range(self.depth)]

    def __call__(self, x: Array, hidden: Array, label: Array, kept: Array | None = None,
                 deterministic: bool = True) -> Array:
        """`kept [n k]` are tokens among which all that are not hidden must be: the encoder drops the others."""
        n, front, row = x.shape[0], self.buffer, jnp.arange(x.shape[0])[:, None]
        kept = jnp.broadcast_to(jnp.arange(self.tokens), hidden.shape) if kept is None else kept
        seen = ~hidden[row, kept]
        start = self.label(label)[:, None] + self.position[:front]
        y = jnp.concatenate([start, self.embed(x[row, kept]) + self.position[front:][kept]], axis=1)
        y = self.encoder_start(y).astype(self.dtype)
        keys = jnp.concatenate([jnp.ones((n, front), bool), seen], axis=1)
        for block in self.encoder:
            y = block(y, seen=keys, deterministic=deterministic)
        y = self.bridge(self.encoder_norm(y))

        masks = jnp.broadcast_to(self.mask.astype(self.dtype), (n, self.tokens, self.width))
        tokens = masks.at[row, kept].set(jnp.where(seen[..., None], y[:, front:], self.mask.astype(self.dtype)))
        y = jnp.concatenate([y[:, :front], tokens], axis=1) + self.decoder_position.astype(self.dtype)
        for block in self.decoder:
            y = block(y, deterministic=deterministic)
        # Without the place of the token itself, tokens with the same surroundings could not differ.
        return self.decoder_norm(y)[:, front:].astype(jnp.float32) + self.place


def masked_continuous(
    shape: tuple[int, ...],
    num_classes: int = 0,
    head: Head | None = None,
    order: str = "random",
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    buffer: int = 4,
    least_masked: float = 0.7,
    mask_std: float = 0.25,
    dropout: float = 0.0,
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Prior:
    """Prior on sequences of real tokens, p(z) = prod_k p(tokens of step k | tokens of the steps before).

    An encoder with full attention sees the revealed tokens behind `buffer` tokens of the class; a decoder sees its
    output, with mask tokens in place of the others. The decoder's output at a token, plus a learned embedding of that
    token's place, is the condition of the head, which stands for the token's distribution.

    `loss` hides, in each example, the last tokens of a random order (or of the raster), a share from a normal around 1
    with deviation `mask_std` cut to [least_masked, 1]: L times the mean over the hidden tokens of the head's loss. The
    encoder is given as many tokens as may be revealed at all, L (1 - least_masked), so that counts are static; those
    among them that are hidden are no keys of its attention.

    Args:
      shape: `(tokens, d)`, or `(h, w, d)` for maps, whose tokens are numbered by rows.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      head: of the tokens; `diffusion_head(d)` by default, for which latents should have about unit variance.
      order: 'random' or 'raster', that of revealing.
      width, heads: of the transformer.
      depth: blocks of the encoder, and of the decoder.
      buffer: class tokens in front of the sequence.
      least_masked, mask_std: of the masked share. The paper's .7 and .25 suit long sequences; fewer tokens than a few
        dozen want 0 and 1, or conditionals on many revealed tokens, which sampling meets, are hardly trained.
      dropout: rate after each attention and each MLP in `loss`.
      label_dropout: share of examples whose label is hidden in training, for guidance.
      axis_name: mapped axis over which the batch is spread, for the noise of `loss`.
      dtype: computation of the transformer.

    Returns:
      A `Prior` with a `loss` and without `log_prob`. `sample(params, key, n, label=None, iterations=None, steps=100,
      guidance=1.0, temperature=1.0)` gives `[n, *shape]` in `iterations` passes (64, at most one for each token), each
      followed by `steps` passes of the head for the tokens it reveals. Their number follows the cosine: after step k of
      K, floor(L cos(pi/2 k / K)) tokens are hidden, and at least one is revealed in each. guidance rises linearly from
      1 with the share revealed; temperature scales the head's noise.

    Raises:
      ValueError: for options that do not exist, latents of another shape, or a label missing where there are classes.

    Reference: Li, Tian, Li, Deng, He, 'Autoregressive image generation without vector quantization', 2024, arXiv
    2406.11838.

    >>> prior = masked_continuous((4, 2), width=16, depth=1, heads=2)
    >>> params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, 4, 2)))
    >>> prior.sample(params, jax.random.key(1), 3, iterations=2, steps=4).shape
    (3, 4, 2)
    """
    check_order(order)
    if buffer < 1:
        raise ValueError(f"buffer={buffer} must be at least 1")
    if not 0.0 <= least_masked < 1.0 or mask_std <= 0.0:
        raise ValueError(f"least_masked={least_masked} must lie in [0, 1) and mask_std={mask_std} above 0")
    tokens = rows(shape)
    length, d = tokens.length, shape[-1]
    head = diffusion_head(d) if head is None else head
    trunk = _Trunk(shape[:-1], num_classes, width, depth, heads, buffer, dropout, axis_name, dtype)
    fewest = max(1, math.ceil(least_masked * length - 1e-6))  # tokens that are hidden in any example

    def init(key: Array, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None = None) -> PyTree:
        keys, x = collectives.split_keys(key, ("trunk", "head")), tokens.of(latents)[:1]
        label = rows_of(label, latents.shape[0], num_classes)[:1]
        params = trunk.init(keys["trunk"], x, jnp.zeros((1, length), bool), label)["params"]
        return {"trunk": params, "head": head.init(keys["head"], x, jnp.zeros((1, length, width)))}

    def loss(params: PyTree, latents: Float[Array, "n ..."], label: Int[Array, " n"] | None, key: Array
             ) -> Float[Array, " n"]:
        x = tokens.of(latents)
        n, keys = x.shape[0], collectives.split_keys(key, ("label", "order", "share", "head", "dropout"))
        label = hide(keys["label"], rows_of(label, n, num_classes), num_classes, label_dropout, axis_name)
        normal = partial(jax.random.truncated_normal, lower=(least_masked - 1.0) / mask_std, upper=0.0)
        share = 1.0 + mask_std * collectives.draw(lambda key, shape: normal(key, shape=shape), keys["share"], (n, 1),
                                                  axis_name)
        count = jnp.maximum(jnp.ceil(share * length), fewest)
        order_of = turns(keys["order"], n, length, order, axis_name)
        hidden = jnp.argsort(order_of, axis=-1) >= length - count  # [n L], from the place of each token in the order
        z = trunk.apply({"params": params["trunk"]}, x, hidden, label, order_of[:, :length - fewest], not dropout,
                        rngs={"dropout": keys["dropout"]})
        error = head.loss(params["head"], x, z, keys["head"], axis_name)
        return length * (error * hidden).sum(1) / hidden.sum(1)

    @partial(jax.jit, static_argnames=("n", "iterations", "steps", "is_guided"))
    def draw(params, key, label, guidance, temperature, n, iterations, steps, is_guided):
        order_key, key = jax.random.split(key)
        after = hidden_counts(length, iterations)
        weights = 1.0 + (guidance - 1.0) * jnp.float32(1.0 - after / length)
        every_label = jnp.concatenate([label, jnp.full_like(label, num_classes)]) if is_guided else label

        def fill(key, x, hidden, where, k):
            x, hidden, where = (jnp.concatenate([part, part]) if is_guided else part for part in (x, hidden, where))
            z = trunk.apply({"params": params["trunk"]}, x, hidden, every_label)
            z = jnp.take_along_axis(z, where[..., None], axis=1).reshape(-1, width)
            z, null = jnp.split(z, 2) if is_guided else (z, None)
            return head.sample(params["head"], key, z, null, weights[k], temperature, steps).reshape(n, -1, d)

        order_of = turns(order_key, n, length, order)
        return sample_in_order(fill, key, order_of, after, d).reshape(n, *shape)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               iterations: int | None = None, steps: int = 100, guidance: float | Float[Array, ""] = 1.0,
               temperature: float | Float[Array, ""] = 1.0) -> Float[Array, "n ..."]:
        iterations = min(64, length) if iterations is None else iterations
        return draw(params, key, rows_of(label, n, num_classes), jnp.float32(guidance), jnp.float32(temperature), n,
                    iterations, steps, needs_guidance(guidance, num_classes))

    return Prior(init, None, sample, loss=loss)


def hidden_counts(length: int, iterations: int) -> Int[np.ndarray, " k"]:
    """Tokens still hidden after each step k = 1 ... K: floor(L cos(pi/2 k / K)), at least one fewer than before.

    Raises:
      ValueError: unless 1 <= iterations <= length.
    """
    if not 1 <= iterations <= length:
        raise ValueError(f"iterations={iterations} must lie between 1 and the {length} tokens of a sequence")
    counts = [length]
    for k in range(1, iterations + 1):
        wanted = int(length * np.cos(np.pi / 2.0 * k / iterations))
        counts.append(max(min(wanted, counts[-1] - 1), iterations - k))  # one is left for each step to come
    return np.array(counts[1:])


def sample_in_order(fill: Callable, key: Array, turns: Int[Array, "n t"], hidden_after: Int[np.ndarray, " k"], d: int
                    ) -> Float[Array, "n t d"]:
    """Reveals the tokens of each sequence in its own order, those of one step in parallel.

    Args:
      fill: `(key, x [n t d], hidden [n t], where [n m], k) -> [n m d]`, the values of the tokens at `where` in step k
        given the tokens that are not hidden (hidden ones are zero). m is the most that a step reveals; a step that
        reveals fewer leaves the last values out.
      key: one is folded for each step.
      turns: the order of each sequence, a permutation of its tokens.
      hidden_after: number of tokens hidden after each step, falling to 0.
      d: width of a token.
    """
    n, length = turns.shape
    first = length - np.append(length, hidden_after[:-1])  # turns that were taken before each step
    counts = length - hidden_after - first
    most = int(counts.max())
    padded = jnp.pad(turns, ((0, 0), (0, most)))

    def step(carry, at):
        x, hidden = carry
        k, begin, count = at
        where = lax.dynamic_slice_in_dim(padded, begin, most, axis=1)
        values = fill(jax.random.fold_in(key, k), x, hidden, where, k)
        index = jnp.arange(n)[:, None], jnp.where(jnp.arange(most) < count, where, length)  # outside: dropped
        return (x.at[index].set(values, mode="drop"), hidden.at[index].set(False, mode="drop")), None

    steps = jnp.arange(len(counts)), jnp.int32(first), jnp.int32(counts)
    return lax.scan(step, (jnp.zeros((n, length, d)), jnp.ones((n, length), bool)), steps)[0][0]
