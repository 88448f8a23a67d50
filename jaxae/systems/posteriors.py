"""Approximate posteriors q(z | x): what an encoder's output means."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxae import collectives
from jaxae.distributions import normal_kl, normal_log_prob, normal_sample
from jaxae.losses import cholesky_from_correlations, cholesky_kl

KINDS = ("diagonal", "full", "point")


class Posterior(NamedTuple):
    """A family of distributions on latents `z [n d]`, by an encoder's output `out [n outputs]`.

    Densities are in nats per example, summed over the latent's dimensions.
    """

    size: int  # d
    outputs: int  # width of `out`
    sample: Callable[..., Array]  # (out, key, axis_name) -> z, reparameterized
    mean: Callable[[PyTree], Array]  # out -> z: what `encode` gives
    log_prob: Callable[[PyTree, Array], Array] | None  # (out, z) -> [n]; None for a point
    kl: Callable[[PyTree], Array] | None = None  # out -> [n]: closed form of KL(q || N(0, I)) where there is one
    kl_each: Callable[[PyTree], Array] | None = None  # out -> [n d]: the same by dimension, for independent ones
    log_std: Callable[[PyTree], Array] | None = None  # out -> [n d]: of each dimension
    factor: Callable[[PyTree], Array] | None = None  # out -> [n d d]: the Cholesky factor of a full covariance


def posterior(kind: str, d: int) -> Posterior:
    """The posterior of a name: 'diagonal' and 'full' Gaussians, or a 'point' (a deterministic encoder).

    Args:
      kind: one of `KINDS`.
      d: dimension of the latent.

    Raises:
      ValueError: for another name.
    """
    if kind == "diagonal":
        return diagonal(d)
    if kind == "full":
        return full(d)
    if kind == "point":
        return Posterior(d, d, lambda out, key, axis_name=None: out, lambda out: out, None)
    raise ValueError(f"model.posterior={kind!r} must be one of {', '.join(KINDS)}")


def diagonal(d: int) -> Posterior:
    """N(mean, diag std^2) from `out = (mean, log std)`."""
    def parts(out):
        return jnp.split(out, 2, axis=-1)

    def kl_each(out):
        return normal_kl(*parts(out))

    return Posterior(d, 2 * d, lambda out, key, axis_name=None: normal_sample(key, *parts(out), axis_name=axis_name),
                     lambda out: parts(out)[0],
                     lambda out, z: normal_log_prob(z, *parts(out)).sum(-1),
                     lambda out: kl_each(out).sum(-1), kl_each, lambda out: parts(out)[1])


def full(d: int) -> Posterior:
    """N(mean, L L^T) from `out = (mean, log diagonal of L, the rest of L row by row)`."""
    rows, columns = jnp.tril_indices(d, -1)

    def factor(out):
        _, log_diagonal, rest = jnp.split(out, (d, 2 * d), axis=-1)
        lower = jnp.zeros((*out.shape[:-1], d, d), out.dtype).at[..., rows, columns].set(rest)
        return lower + jnp.exp(log_diagonal)[..., None] * jnp.eye(d)

    return _cholesky(d, factor)


def correlated(d: int) -> Posterior:
    """N(mean, L L^T) from `out = (mean, log std, r)` with L_ii = s_i and L_ij = tanh(r_ij) s_i s_j, as in the unscented
    autoencoder (`jaxae.losses.cholesky_from_correlations`)."""
    def factor(out):
        _, log_std, rest = jnp.split(out, (d, 2 * d), axis=-1)
        return cholesky_from_correlations(log_std, jnp.tanh(rest))

    return _cholesky(d, factor)


def _cholesky(d: int, factor: Callable[[Array], Array]) -> Posterior:
    """N(mean, L L^T) with L from `factor(out)`, whose diagonal is the exponential of the second d outputs."""
    def parts(out):
        return out[..., :d], out[..., d:2 * d], factor(out)

    def sample(out, key, axis_name=None):
        mean, _, lower = parts(out)
        noise = collectives.draw(jax.random.normal, key, mean.shape, axis_name)
        return mean + jnp.einsum("...ij,...j->...i", lower, noise)

    def log_prob(out, z):
        mean, log_diagonal, lower = parts(out)
        whitened = jax.scipy.linalg.solve_triangular(lower, (z - mean)[..., None], lower=True)[..., 0]
        return -0.5 * (whitened**2).sum(-1) - log_diagonal.sum(-1) - 0.5 * d * math.log(2.0 * math.pi)

    return Posterior(d, 2 * d + d * (d - 1) // 2, sample, lambda out: out[..., :d], log_prob,
                     lambda out: cholesky_kl(out[..., :d], factor(out)), None,
                     lambda out: 0.5 * jnp.log((factor(out) ** 2).sum(-1)), factor)
