"""Categorical latents, alone or beside Gaussian ones: posterior by Gumbel-softmax, and the prior that it is held to."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae import collectives
from jaxae.distributions import categorical_kl, normal_kl, normal_log_prob, normal_sample
from jaxae.priors import Prior
from jaxae.systems.posteriors import Posterior


def divergences(out: Array, d: int, sizes: tuple[int, ...]) -> Array:
    """KL of each Gaussian latent to N(0, 1) and of each categorical one to uniform: [n d + len(sizes)] nats."""
    mean, log_std, *logits = _split(out, d, sizes)
    return jnp.concatenate([normal_kl(mean, log_std), *(categorical_kl(row)[:, None] for row in logits)], -1)


def joint_posterior(d: int, sizes: tuple[int, ...], temperature: float) -> Posterior:
    """A diagonal Gaussian of d dimensions beside categoricals, z = [Gaussian, one-hot c_1, ...] [n d + sum(sizes)].

    Draws of the categoricals are relaxed, softmax((log q + Gumbel noise) / temperature); their KL to uniform is that
    of q itself. There is no density of z.

    Raises:
      ValueError: without categories of at least two values.

    Reference: Jang, Gu and Poole 2017, arXiv 1611.01144; Maddison, Mnih and Teh 2017, arXiv 1611.00712.
    """
    if not sizes or min(sizes) < 2:
        raise ValueError(f"model.categories={sizes} must name at least one latent of 2 values or more")

    def sample(out, key, axis_name=None):
        mean, log_std, *logits = _split(out, d, sizes)
        keys = jax.random.split(key, 1 + len(sizes))
        z = normal_sample(keys[0], mean, log_std, axis_name=axis_name)
        relaxed = [jax.nn.softmax((row + collectives.draw(jax.random.gumbel, k, row.shape, axis_name)) / temperature)
                   for k, row in zip(keys[1:], logits, strict=True)]
        return jnp.concatenate([z, *relaxed], -1)

    def mean(out):
        centre, _, *logits = _split(out, d, sizes)
        return jnp.concatenate([centre, *(jax.nn.one_hot(row.argmax(-1), row.shape[-1]) for row in logits)], -1)

    return Posterior(d + sum(sizes), 2 * d + sum(sizes), sample, mean, None,
                     lambda out: divergences(out, d, sizes).sum(-1))


def joint_prior(d: int, sizes: tuple[int, ...]) -> Prior:
    """N(0, I) beside uniform one-hot categoricals."""
    def sample(params, key, n, label=None):
        keys = jax.random.split(key, 1 + len(sizes))
        drawn = [jax.nn.one_hot(jax.random.randint(k, (n,), 0, s), s) for k, s in zip(keys[1:], sizes, strict=True)]
        return jnp.concatenate([jax.random.normal(keys[0], (n, d)), *drawn], -1)

    def log_prob(params, z, label=None, key=None):
        return normal_log_prob(z[..., :d], 0.0, 0.0).sum(-1) - sum(math.log(s) for s in sizes)

    return Prior(lambda key, latents, label=None: (), log_prob, sample)


def _split(out, d, sizes):
    ends = [d, 2 * d]
    for size in sizes[:-1]:
        ends.append(ends[-1] + size)
    return jnp.split(out, ends, axis=-1)
