"""Rows of real tokens: their shape, the order in which a model takes them, and the head that each of them has.

A head is the distribution of one token x [d] given a condition z [w], which the transformer makes of other tokens.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from jaxae import collectives
from jaxae.losses import diffusion as process
from jaxae.nn.denoise import DenoiseMLP
from jaxae.priors.diffusion import guided, noise_schedule

ORDERS = ("random", "raster")


class Head(NamedTuple):
    """The distribution of a token given its condition, as pure functions of its parameters.

    Fields:
      init: `(key, x [n t d], z [n t w]) -> params`.
      loss: `(params, x [n t d], z [n t w], key, axis_name) -> [n t]`: of each token, with gradients by z too. Noise is
        drawn for the global batch over `axis_name`.
      sample: `(params, key, z [m w], null, weight, temperature, steps) -> [m d]`. `null [m w]` is the condition
        without a class, from which guidance of `weight` leads away, or None; `steps` is for heads that take some.
    """

    init: Callable
    loss: Callable
    sample: Callable


def diffusion_head(
    d: int,
    width: int = 256,
    depth: int = 3,
    predicts: str = "v",
    learned_variance: bool = True,
    schedule: str = "cosine",
    times: int = 1000,
    draws: int = 4,
    dtype: Any = jnp.float32,
) -> Head:
    """The head of which the tokens are drawn by denoising: a small modulated MLP, trained by the diffusion loss.

        loss(x, z) = E_{t, eps} |net(x_t, t, z) - target|^2,   x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) eps

    summed over the d channels, with t uniform; the mean over `draws` times and noises for each condition, which the
    transformer makes once. With a learned variance the term of the variational bound that trains it is added, as in
    `denoising_loss`.

    `sample` takes `steps` evenly spaced times of the schedule, at most `times`, and clips nothing; temperature scales
    the noise that each step injects. Guidance is of the network's output; the variance is that of the condition.

    Args:
      d: channels of a token. Tokens should have about unit variance: the noise has.
      width, depth: of the MLP.
      predicts: 'epsilon' as in the paper, 'x' or 'v'. With 'epsilon' the 'cosine' schedule multiplies errors of the
        sampler's first steps by hundreds: train long. 'x' spends the loss on the noisy times, at which the condition
        matters, and suits patches of pixels.
      learned_variance: the network also gives the variance of each step. In short runs its share of the loss disturbs
        the rest: leave it out.
      schedule, times: 'linear' or 'cosine' noise in `times` steps.
      draws: times and noises for each token of an update.
      dtype: computation of the MLP.

    Raises:
      ValueError: for options that do not exist.

    Reference: Li, Tian, Li, Deng, He, 'Autoregressive image generation without vector quantization', 2024, arXiv
    2406.11838; learned variance and times: Nichol, Dhariwal, 2021, arXiv 2102.09672.

    >>> head, z = diffusion_head(2, width=16, depth=1), jnp.ones((3, 5, 7))
    >>> params = head.init(jax.random.key(0), jnp.zeros((3, 5, 2)), z)
    >>> head.loss(params, jnp.zeros((3, 5, 2)), z, jax.random.key(1)).shape
    (3, 5)
    >>> head.sample(params, jax.random.key(2), z[0], steps=4).shape
    (5, 2)
    """
    if d < 1 or draws < 1:
        raise ValueError(f"a token's channels d={d} and draws={draws} must be at least 1")
    alpha_bar = noise_schedule(schedule, times, predicts)
    net = DenoiseMLP(d * (1 + learned_variance), width, depth, dtype)

    def denoise(params, x, t, z):
        out = net.apply({"params": params}, x, t, z)
        return tuple(jnp.split(out, 2, axis=-1)) if learned_variance else out

    def init(key: Array, x: Float[Array, "n t d"], z: Float[Array, "n t w"]) -> PyTree:
        return net.init(key, x[0], jnp.zeros(x.shape[1], jnp.int32), z[0])["params"]

    def loss(params: PyTree, x: Float[Array, "n t d"], z: Float[Array, "n t w"], key: Array,
             axis_name: str | None = None) -> Float[Array, "n t"]:
        n, length = x.shape[:2]
        keys = collectives.split_keys(key, ("time", "noise"))
        t = collectives.draw(partial(jax.random.randint, minval=0, maxval=times), keys["time"], (n, draws, length),
                             axis_name)
        noise = collectives.draw(jax.random.normal, keys["noise"], (n, draws, length, d), axis_name)
        # Every token in `draws` copies, one row each: [n draws L ...] -> [m ...].
        x, z = (jnp.broadcast_to(part[:, None], (n, draws, *part.shape[1:])).reshape(-1, part.shape[-1])
                for part in (x, z))
        error = process.denoising_loss(lambda x, t: denoise(params, x, t, z), x, noise.reshape(-1, d), t.reshape(-1),
                                       alpha_bar, predicts)
        return error.reshape(n, draws, length).mean(1)

    def sample(params: PyTree, key: Array, z: Float[Array, "m w"], null: Float[Array, "m w"] | None = None,
               weight: Real[ArrayLike, ""] = 1.0, temperature: Real[ArrayLike, ""] = 1.0, steps: int = 100
               ) -> Float[Array, "m d"]:
        start_key, key = jax.random.split(key)
        call = partial(denoise, params)
        call = (lambda x, t: denoise(params, x, t, z)) if null is None else guided(call, z, null, weight)
        return process.ddpm_sample(call, key, jax.random.normal(start_key, (z.shape[0], d)), alpha_bar,
                                   min(steps, times), predicts, temperature)

    return Head(init, loss, sample)


class Rows(NamedTuple):
    """Latents of one shape as rows of tokens [n L d] in raster order."""

    shape: tuple[int, ...]  # (tokens, d) or (h, w, d)

    @property
    def length(self) -> int:
        """L"""
        return math.prod(self.shape[:-1])

    def of(self, latents: Float[Array, "n ..."]) -> Float[Array, "n t d"]:
        """The rows of latents.

        Raises:
          ValueError: for latents of another shape or type.
        """
        if latents.shape[1:] != self.shape or not jnp.issubdtype(latents.dtype, jnp.floating):
            raise ValueError(f"expected real latents [n, {', '.join(map(str, self.shape))}]; "
                             f"got {latents.dtype} {latents.shape}")
        return latents.reshape(latents.shape[0], self.length, self.shape[-1])


def rows(shape: tuple[int, ...]) -> Rows:
    """The rows of one latent's shape, (tokens, d) or (h, w, d).

    Raises:
      ValueError: for another number of axes.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"a prior on tokens needs the shape of one latent, (tokens, d) or (h, w, d); got "
                         f"{tuple(shape)}")
    return Rows(tuple(shape))


def place_table(key: Array, grid: tuple[int, ...], width: int) -> Float[Array, "t width"]:
    """Where learned embeddings of the places of tokens start: of mean square 1, orthogonal along each axis.

    Each axis has its share of the channels, so that the places of a row of a map have half of their embedding in
    common. Embeddings that start small beside the tokens, with a deviation of 0.02 as in the paper's code, have to grow
    before a token can tell its neighbours from the rest, and a short run ends before they have.

    Args:
      key: of the random directions.
      grid: places along each axis, (t,) or (h, w); those of a map are numbered by rows.
      width: channels, at least one for each axis.

    >>> place_table(jax.random.key(0), (2, 3), 8).shape
    (6, 8)
    """
    where = np.indices(grid).reshape(len(grid), -1)
    shares = [(width + i) // len(grid) for i in range(len(grid))]  # which add up to the width
    tables = [math.sqrt(max(n, share)) * jax.nn.initializers.orthogonal()(jax.random.fold_in(key, i), (n, share))
              for i, (n, share) in enumerate(zip(grid, shares, strict=True))]
    return jnp.concatenate([table[place] for table, place in zip(tables, where, strict=True)], axis=-1)


def turns(key: Array, n: int, length: int, order: str, axis_name: str | None = None) -> Int[Array, "n t"]:
    """Which token comes first, second, ... in each of n sequences: a permutation, random or that of the raster."""
    if order == "raster":
        return jnp.broadcast_to(jnp.arange(length), (n, length))
    return jnp.argsort(collectives.draw(jax.random.uniform, key, (n, length), axis_name), axis=-1)


def check_order(order: str) -> None:
    """Raises ValueError for an order that does not exist."""
    if order not in ORDERS:
        raise ValueError(f"order={order!r} must be one of {ORDERS}")
