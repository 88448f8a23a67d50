"""Frechet distance between two sets of features, from the features or from streamed moments."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxae.collectives import gather, total


class Moments(NamedTuple):
    """Running mean and scatter of feature vectors; the sample covariance is `m2 / (count - 1)`."""

    count: Float[Array, ""]
    mean: Float[Array, " d"]
    m2: Float[Array, "d d"]  # sum of outer products of deviations from the mean


def init_moments(dim: int) -> Moments:
    """Moments of no features: where `update_moments` starts.

    Args:
      dim: d, the number of features of an example.

    Returns:
      A count of 0, a mean `[d]` and a scatter `[d d]` of zeros, float32.
    """
    return Moments(jnp.zeros(()), jnp.zeros(dim), jnp.zeros((dim, dim)))


def update_moments(moments: Moments, features: Float[Array, "n d"], mask: Bool[Array, " n"] | None = None,
                   axis_name: str | None = None) -> Moments:
    """The moments with one more batch of features.

    Args:
      moments: so far; `init_moments(d)` to start.
      features: a batch.
      mask: False for padding that does not count, as at the ragged end of a data set.
      axis_name: the mapped axis; the moments are then of the global batch, equal on every replica.

    Returns:
      The new moments.
    """
    features = features.astype(jnp.float32)
    weight = jnp.ones(features.shape[0]) if mask is None else mask.astype(jnp.float32)
    count = total(weight.sum(), axis_name)
    mean = total(weight @ features, axis_name) / jnp.maximum(count, 1.0)
    deviation = (features - mean) * weight[:, None]
    m2 = total(jnp.matmul(deviation.T, deviation, precision=lax.Precision.HIGHEST), axis_name)
    return merge_moments(moments, Moments(count, mean, m2))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of the union of two sets.

    With delta = mean_b - mean_a and n = n_a + n_b:
    mean = mean_a + delta n_b / n and m2 = m2_a + m2_b + delta delta^T n_a n_b / n, in which, unlike in
    E[xx^T] - E[x] E[x]^T, nothing cancels.

    Reference: Chan, Golub, LeVeque, 'Updating formulae and a pairwise algorithm for computing sample
    variances', 1979.
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    delta = b.mean - a.mean
    m2 = a.m2 + b.m2 + jnp.outer(delta, delta) * a.count * share
    return Moments(count, a.mean + delta * share, m2)


def frechet_distance(features_a: Float[Array, "n d"], features_b: Float[Array, "m e"],
                     axis_name: str | None = None) -> Float[Array, ""]:
    """Squared Wasserstein-2 distance between the Gaussians of two feature sets (FID, on Inception features).

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A^(1/2) B A^(1/2))^(1/2), with sample covariances (n - 1).

    The last trace is the sum of the singular values of F_a F_b^T for any factors A = F_a^T F_a and
    B = F_b^T F_b; here these are the centred features (or their QR factors, where those are smaller). With
    eigenvalues of A^(1/2) B A^(1/2) the root would raise a rounding error e to sqrt(e) in every null
    direction; singular values keep it at e, so float32 serves, and n < d works. What remains is about 1e-6 of
    tr A + tr B, of either sign: the distance of equal sets may be a little below zero.

    The estimate is biased upwards by a term that falls with n: compare only distances of one n and m.

    Args:
      features_a: at least two vectors.
      features_b: at least two vectors of the same dimension.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      The distance, a scalar in squared feature units.

    Raises:
      ValueError: for fewer than two vectors, or dimensions that differ.

    >>> import jax.numpy as jnp
    >>> x = jnp.eye(3)
    >>> f'{frechet_distance(x, x + 2.0):.3f}'  # 3 * 2^2: only the means differ
    '12.000'

    Reference: Heusel et al., 'GANs trained by a two time-scale update rule', 2017, arXiv 1706.08500; Dowson
    and Landau, 1982.
    """
    a, b = gather(features_a, axis_name), gather(features_b, axis_name)
    if min(a.shape[0], b.shape[0]) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError("frechet_distance wants two sets of at least 2 vectors of one dimension; got "
                         f"{a.shape} and {b.shape}")
    (mean_a, factor_a), (mean_b, factor_b) = _mean_and_factor(a), _mean_and_factor(b)
    return _distance(mean_a, factor_a, mean_b, factor_b)


def frechet_from_moments(a: Moments, b: Moments) -> Float[Array, ""]:
    """`frechet_distance` of sets that were streamed into moments, NaN for fewer than two vectors.

    The factors of the covariances come from their eigenvectors. A covariance in float32 no longer knows its
    eigenvalues below 5e-7 of the largest: these are noise, and taken as zero. Where they truly are zero, as
    for n < d, the result is as good as from the features.
    """
    return _distance(a.mean, _covariance_factor(a), b.mean, _covariance_factor(b))


def _mean_and_factor(features):
    """Mean [d] and F [r d] with F^T F the sample covariance, r = min(n, d)."""
    n, d = features.shape
    features = features.astype(jnp.float32)
    mean = features.mean(0)
    factor = (features - mean) / (n - 1) ** 0.5
    return mean, factor if n <= d else jnp.linalg.qr(factor, mode="r")


def _covariance_factor(moments):
    """F [d d] with F^T F the sample covariance, eigenvalues at the rounding noise set to zero."""
    values, vectors = jnp.linalg.eigh(moments.m2 / (moments.count - 1.0))
    noise = 4.0 * jnp.finfo(values.dtype).eps * values[-1]
    kept = values > noise
    return jnp.where(kept, jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)[:, None] * vectors.T


def _distance(mean_a, factor_a, mean_b, factor_b):
    cross = jnp.matmul(factor_a, factor_b.T, precision=lax.Precision.HIGHEST)
    overlap = jnp.linalg.svd(cross, compute_uv=False).sum()
    traces = jnp.square(factor_a).sum() + jnp.square(factor_b).sum()
    return jnp.square(mean_a - mean_b).sum() + traces - 2.0 * overlap
