"""Penalties on the mean and covariance of the aggregate posterior: population KL and DIP-VAE."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from jaxae import collectives
from jaxae.distributions import normal_kl, sum_event
from jaxae.losses.gaussian import cholesky_kl


class AggregateMoments(NamedTuple):
    """Of the mixture of the batch's posteriors, or of their means alone."""

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]


def aggregate_moments(mean: Float[Array, "n d"], log_std: Float[Array, "n d"] | None = None,
                      axis_name: str | None = None) -> AggregateMoments:
    """Mean and covariance of (1/n) sum_i N(mean_i, diag std_i^2): Cov[mean_i] + diag(mean of std_i^2).

    Args:
      mean: posterior means.
      log_std: of the posteriors; without them the covariance is that of the means (divided by n).
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      `AggregateMoments`, float32, equal on every replica.
    """
    centre, centred, within = _centre(mean, log_std, axis_name)
    scatter = jnp.matmul(centred.T, centred, precision=lax.Precision.HIGHEST) / mean.shape[0]
    return AggregateMoments(centre, collectives.mean(scatter, axis_name) + jnp.diag(within))


def population_kl(mean: Float[Array, "n d"], log_std: Float[Array, "n d"] | None = None,
                  full_covariance: bool = False, eps: float = 1e-6, axis_name: str | None = None) -> Float[Array, ""]:
    """KL(N(M, V) || N(0, I)) of the batch's moments: the aggregate posterior is matched, not each posterior.

    sum_j (V_j + M_j^2 - 1 - log V_j) / 2, with M and V the mean and variance over the batch of the posterior means;
    given `log_std`, V includes the mean of the posteriors' own variances and is that of their mixture. The paper
    leaves them out, and has `individual_variance_kl` beside this.

    Args:
      mean: posterior means. A small batch measures V with much noise.
      log_std: of the posteriors, to include the variance within them.
      full_covariance: take V as a matrix, (tr V + |M|^2 - d - log det V) / 2, so that correlations of latents count.
      eps: added to the variances, against the logarithm of 0.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      Nats, a scalar equal on every replica. Once for the batch: added to a mean over examples, it is not divided by n.

    Raises:
      ValueError: for a full covariance of too few means, which is singular.

    >>> float(population_kl(jnp.array([[0.0], [2.0]])).round(4))  # M = V = 1
    0.5

    Reference: Rivera, 'How to train your VAE', 2023, arXiv 2309.13160.
    """
    d = mean.shape[1]
    if not full_covariance:
        centre, centred, within = _centre(mean, log_std, axis_name)
        variance = collectives.mean(jnp.square(centred).mean(0), axis_name) + within
        return normal_kl(centre, 0.5 * jnp.log(variance + eps)).sum()
    n = mean.shape[0] * (1 if axis_name is None else lax.axis_size(axis_name))
    if log_std is None and n <= d:
        raise ValueError(f"the covariance of {n} means in {d} dimensions is singular: take a batch of more than {d}, "
                         "pass log_std, or leave full_covariance out")
    moments = aggregate_moments(mean, log_std, axis_name)
    factor = jnp.linalg.cholesky(moments.covariance + eps * jnp.eye(d))
    return cholesky_kl(moments.mean[None], factor[None])[0]


def individual_variance_kl(log_std: Float[Array, "n d"], weight: Real[ArrayLike, ""] = 0.1) -> Float[Array, " n"]:
    """weight sum_j (std_j^2 - 1 - log std_j^2): the part of the KL that keeps each posterior's variance from vanishing.

    Args:
      log_std: of the posteriors.
      weight: 1/2 is its weight in the KL, .1 that of the published code.

    Returns:
      Nats per example `[n]`, summed over the latent dimensions; 0 at std = 1.

    Reference: Rivera, 2023, arXiv 2309.13160.
    """
    return 2.0 * weight * sum_event(normal_kl(0.0, log_std))


def dip_penalty(mean: Float[Array, "n d"], log_std: Float[Array, "n d"] | None = None,
                off_diagonal: Real[ArrayLike, ""] = 10.0, diagonal: Real[ArrayLike, ""] = 100.0,
                axis_name: str | None = None) -> Float[Array, ""]:
    """off_diagonal sum_{i != j} C_ij^2 + diagonal sum_i (C_ii - 1)^2: disentangled inferred prior.

    C is the covariance of the posterior means (DIP-VAE-I), or, given `log_std`, of the aggregate posterior, with the
    variance within the posteriors (DIP-VAE-II).

    Args:
      mean: posterior means.
      log_std: of the posteriors, for DIP-VAE-II.
      off_diagonal: the paper's lambda_od.
      diagonal: its lambda_d: 10 lambda_od for I, lambda_od for II.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A scalar equal on every replica, once for the batch; to be added to minus the ELBO.

    >>> float(dip_penalty(jnp.array([[1.0, 1.0], [-1.0, -1.0]]), off_diagonal=1.0))  # C is all ones
    2.0

    Reference: Kumar, Sattigeri, Balakrishnan, 'Variational inference of disentangled latent concepts from unlabeled
    observations', 2018, arXiv 1711.00848.
    """
    covariance = aggregate_moments(mean, log_std, axis_name).covariance
    variance = jnp.diagonal(covariance)
    correlation = jnp.square(covariance - jnp.diag(variance)).sum()
    return off_diagonal * correlation + diagonal * jnp.square(variance - 1.0).sum()


def _centre(mean, log_std, axis_name):
    """Batch mean `[d]`, deviations from it `[n d]`, and the mean variance within posteriors `[d]` (or 0)."""
    mean = mean.astype(jnp.float32)
    centre = collectives.mean(mean.mean(0), axis_name)
    if log_std is None:
        return centre, mean - centre, jnp.zeros_like(centre)
    within = collectives.mean(jnp.exp(2.0 * log_std.astype(jnp.float32)).mean(0), axis_name)
    return centre, mean - centre, within
