"""Masked autoregressive prior on sequences of real vectors: a transformer with a diffusion head for each token."""

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
from jaxae.losses import diffusion as process
from jaxae.nn.attention import TransformerBlock
from jaxae.nn.denoise import DenoiseMLP
from jaxae.priors.base import Prior
from jaxae.priors.classes import hide, needs_guidance, rows_of
from jaxae.priors.diffusion import guided, noise_schedule


class _Net(nn.Module):
    tokens: int
    features: int
    num_classes: int
    width: int
    depth: int
    heads: int
    buffer: int
    causal: bool
    head_width: int
    head_depth: int
    pair: bool
    dtype: Any

    def setup(self):
        small = nn.initializers.normal(0.02)
        self.label = nn.Embed(self.num_classes + 1, self.width)
        self.start = self.param("start", small, (self.buffer, self.width))
        self.mask = self.param("mask", small, (self.width,))
        self.position = self.param("position", small, (self.tokens, self.width))
        self.place = self.param("place", small, (self.tokens, self.width))
        self.embed = nn.Dense(self.width, dtype=self.dtype)
        self.blocks = [TransformerBlock(self.heads, causal=self.causal, dtype=self.dtype) for _ in range(self.depth)]
        self.norm = nn.LayerNorm(dtype=self.dtype)
        self.head = DenoiseMLP(self.features * (1 + self.pair), self.head_width, self.head_depth, self.dtype)

    def conditions(self, x: Array, hidden: Array, rows: Array) -> Array:
        """What the head of each token is given, [n L width], from tokens [n L d] of which some are hidden [n L]."""
        y = jnp.where(hidden[..., None], self.mask, self.embed(x)) + self.position
        if self.causal:
            y = y[:, :-1]  # the output at a token is the condition of the next
        y = jnp.concatenate([self.label(rows)[:, None] + self.start, y], axis=1).astype(self.dtype)
        for block in self.blocks:
            y = block(y)
        # Without the place of the token itself, tokens with the same surroundings could not differ.
        return self.norm(y)[:, -self.tokens:].astype(jnp.float32) + self.place

    def denoise(self, x: Array, t: Array, condition: Array) -> Array | tuple[Array, Array]:
        out = self.head(x, t, condition)  # [m d] or [m 2d]
        return tuple(jnp.split(out, 2, axis=-1)) if self.pair else out

    def __call__(self, x: Array, hidden: Array, rows: Array):
        z = self.conditions(x, hidden, rows).reshape(-1, self.width)
        return self.denoise(x.reshape(-1, self.features), jnp.zeros(len(z), jnp.int32), z)


def masked_continuous(
    shape: tuple[int, ...],
    num_classes: int = 0,
    order: str = "random",
    causal: bool = False,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    buffer: int = 4,
    head_width: int = 256,
    head_depth: int = 3,
    predicts: str = "v",
    learned_variance: bool = True,
    schedule: str = "cosine",
    times: int = 1000,
    least_masked: float = 0.7,
    mask_std: float = 0.25,
    draws: int = 4,
    label_dropout: float = 0.1,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Prior:
    """Prior on sequences of real tokens, p(z) = prod_k p(tokens of step k | tokens of the steps before).

    A transformer with full attention sees the revealed tokens, and mask tokens in place of the others; its output at a
    token, plus a learned embedding of that token's place, is the condition of a small denoising network, which stands
    for the token's distribution. All tokens are kept, so that counts are static where the paper's encoder drops the
    masked ones. With `causal=True` it is the plain autoregressive form: each token's condition is made from those
    before it by causal attention.

    `loss` hides, in each example, the last tokens of a random order (or of the raster), a share from a normal around 1
    with deviation `mask_std` cut to [least_masked, 1], or all in the causal form. It is L times the mean over the
    hidden tokens of `denoising_loss` summed over the channels, averaged over `draws` times and noises for one pass of
    the transformer. There is no dropout.

    Latents should have about unit variance: the noise has.

    Args:
      shape: `(tokens, d)`.
      num_classes: 0 for an unconditional prior; otherwise every function needs `label [n]`.
      order: 'random' or 'raster', that of revealing.
      causal: the causal form, for the raster order.
      width, depth, heads: of the transformer.
      buffer: class tokens in front of the sequence.
      head_width, head_depth: of the head.
      predicts, learned_variance, schedule, times: of the head's diffusion, as in `diffusion`. With the paper's
        'epsilon' the 'cosine' schedule multiplies errors of the sampler's first steps by hundreds: train long.
      least_masked, mask_std: of the masked share. The paper's .7 and .25 suit long sequences; fewer tokens than a few
        dozen want 0 and 1, or conditionals on many revealed tokens, which sampling meets, are hardly trained.
      draws: times and noises for each token of a step.
      label_dropout: share of examples whose label is hidden in training, for guidance.
      axis_name: mapped axis over which the batch is spread, for the noise of `loss`.
      dtype: computation of the networks.

    Returns:
      A `Prior` with a `loss` and without `log_prob`. `sample(params, key, n, label=None, iterations=None, steps=100,
      guidance=1.0, temperature=1.0)` gives `[n, tokens, d]` in `iterations` passes (64, at most one for each token,
      which is what the causal form takes), each followed by `steps` passes of the head for the tokens it reveals.
      Their number follows the cosine: after step k of K, floor(L cos(pi/2 k / K)) tokens are hidden, and at least one
      is revealed in each. guidance rises linearly from 1 with the share revealed; temperature scales the head's noise.

    Raises:
      ValueError: for options that do not exist, latents of another shape, or a label missing where there are classes.

    Reference: Li et al., 'Autoregressive image generation without vector quantization', 2024, arXiv 2406.11838.

    >>> prior = masked_continuous((4, 2), width=16, depth=1, heads=2, head_width=16, head_depth=1)
    >>> params = jax.jit(prior.init)(jax.random.key(0), jnp.zeros((1, 4, 2)))
    >>> prior.sample(params, jax.random.key(1), 3, iterations=2, steps=4).shape
    (3, 4, 2)
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"masked_continuous needs the shape of one sequence, (tokens, d); got {tuple(shape)}")
    if order not in ("random", "raster") or causal and order == "random":
        raise ValueError(f"order={order!r} must be 'random' or 'raster', and 'raster' where causal=True")
    if draws < 1 or buffer < 1:
        raise ValueError(f"draws={draws} and buffer={buffer} must be at least 1")
    if not 0.0 <= least_masked < 1.0 or mask_std <= 0.0:
        raise ValueError(f"least_masked={least_masked} must lie in [0, 1) and mask_std={mask_std} above 0")
    length, d = shape
    alpha_bar = noise_schedule(schedule, times, predicts)
    net = _Net(length, d, num_classes, width, depth, heads, buffer, causal, head_width, head_depth, learned_variance,
               dtype)

    def check(latents: Array) -> None:
        if latents.shape[1:] != (length, d) or not jnp.issubdtype(latents.dtype, jnp.floating):
            raise ValueError(f"expected real latents [n, {length}, {d}]; got {latents.dtype} {latents.shape}")

    def ranks(key: Array, n: int) -> Array:
        """Place of each token in the order, [n L]."""
        if order == "raster":
            return jnp.broadcast_to(jnp.arange(length), (n, length))
        return jnp.argsort(collectives.draw(jax.random.uniform, key, (n, length), axis_name), axis=-1)

    def init(key: Array, latents: Float[Array, "n t d"], label: Int[Array, " n"] | None = None) -> PyTree:
        check(latents)
        rows = rows_of(label, latents.shape[0], num_classes)[:1]
        return net.init(key, latents[:1], jnp.zeros((1, length), bool), rows)["params"]

    def loss(params: PyTree, latents: Float[Array, "n t d"], label: Int[Array, " n"] | None, key: Array
             ) -> Float[Array, " n"]:
        check(latents)
        n, draw = latents.shape[0], partial(collectives.draw, axis_name=axis_name)
        keys = collectives.split_keys(key, ("label", "order", "share", "time", "noise"))
        rows = hide(keys["label"], rows_of(label, n, num_classes), num_classes, label_dropout, axis_name)
        normal = partial(jax.random.truncated_normal, lower=(least_masked - 1.0) / mask_std, upper=0.0)
        share = 1.0 + mask_std * draw(lambda key, shape: normal(key, shape=shape), keys["share"], (n, 1))
        count = float(length) if causal else jnp.maximum(jnp.ceil(share * length), 1.0)
        hidden = ranks(keys["order"], n) >= length - count  # [n L]
        z = net.apply({"params": params}, latents, hidden, rows, method="conditions")

        # Every token in `draws` copies, one row each: [n draws L ...] -> [m ...].
        t = draw(partial(jax.random.randint, minval=0, maxval=times), keys["time"], (n, draws, length))
        noise = draw(jax.random.normal, keys["noise"], (n, draws, length, d))
        x, z = (jnp.broadcast_to(part[:, None], (n, draws, *part.shape[1:])).reshape(-1, part.shape[-1])
                for part in (latents, z))
        error = process.denoising_loss(lambda x, t: net.apply({"params": params}, x, t, z, method="denoise"), x,
                                       noise.reshape(-1, d), t.reshape(-1), alpha_bar, predicts)
        error = error.reshape(n, draws, length).mean(1)
        return length * (error * hidden).sum(1) / hidden.sum(1)

    @partial(jax.jit, static_argnames=("n", "iterations", "steps", "is_guided"))
    def draw(params, key, rows, guidance, temperature, n, iterations, steps, is_guided):
        order_key, key = jax.random.split(key)
        after = hidden_counts(length, iterations)
        shares = jnp.float32(1.0 - after / length)
        every_row = jnp.concatenate([rows, jnp.full_like(rows, num_classes)]) if is_guided else rows

        def fill(key, x, hidden, where, i):
            x, hidden, where = (jnp.concatenate([part, part]) if is_guided else part for part in (x, hidden, where))
            z = net.apply({"params": params}, x, hidden, every_row, method="conditions")
            z = jnp.take_along_axis(z, where[..., None], axis=1).reshape(-1, width)

            def denoise(x, t, z):
                return net.apply({"params": params}, x, t, z, method="denoise")

            call = (guided(denoise, *jnp.split(z, 2), 1.0 + (guidance - 1.0) * shares[i]) if is_guided
                    else lambda x, t: denoise(x, t, z))
            start_key, key = jax.random.split(key)
            start = jax.random.normal(start_key, (n * where.shape[1], d))
            return process.ddpm_sample(call, key, start, alpha_bar, steps, predicts, temperature).reshape(n, -1, d)

        # The argsort of ranks is the order: whose turn comes first, second, ...
        turns = jnp.argsort(ranks(order_key, n), axis=-1)
        return sample_in_order(fill, key, turns, after, d)

    def sample(params: PyTree, key: Array, n: int, label: Int[Array, " n"] | None = None,
               iterations: int | None = None, steps: int = 100, guidance: float | Float[Array, ""] = 1.0,
               temperature: float | Float[Array, ""] = 1.0) -> Float[Array, "n t d"]:
        if iterations is None:
            iterations = length if causal else min(64, length)
        if causal and iterations != length:
            raise ValueError(f"the causal form reveals one token a step: iterations must be {length}, not {iterations}")
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
