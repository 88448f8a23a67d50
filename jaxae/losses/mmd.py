"""Distances and dependences of samples by kernels: squared MMD, energy distance, HSIC, kernel Stein discrepancy.

All couple the batch. Kernel matrices are `[n m]` and float32; on replicas each holds its own rows of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Real

from jaxae.collectives import gather, mean, take_slice, total
from jaxae.losses.distances import squared_distances

WAE_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
Kernel = Callable[[Array, Array], Array]  # (x [n d], y [m d]) -> [n m]


class RadialKernel(NamedTuple):
    """k(x, y) = profile(|x - y|^2, d): called with x `[n d]` and y `[m d]` it gives the matrix `[n m]`."""

    profile: Callable[[Array, int], Array]  # elementwise in the first argument

    def __call__(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.profile(squared_distances(x, y), x.shape[1])


def rbf(bandwidth: Real[ArrayLike, ""] | Sequence[float]) -> RadialKernel:
    """k(x, y) = exp(-|x - y|^2 / (2 h^2)), or the sum of such kernels.

    Distances in d dimensions grow as sqrt(d), and h must with them: InfoVAE's code has h = d / sqrt 2, WAE's takes the
    batch median (`median_bandwidth`). A small fixed h has no gradient.

    Args:
      bandwidth: h, in the units of x; several h for the sum.

    Returns:
      The kernel.

    Reference: Gretton, Borgwardt, Rasch, Schoelkopf, Smola, 'A kernel two-sample test', JMLR 2012.
    """
    widths = bandwidth if isinstance(bandwidth, Sequence) else (bandwidth,)
    return RadialKernel(lambda squared, d: sum(jnp.exp(-squared / (2.0 * jnp.square(h))) for h in widths))


def inverse_multiquadric(scales: Sequence[float] = WAE_SCALES, std: float = 1.0, power: float = 1.0) -> RadialKernel:
    """k(x, y) = sum_s (C_s / (C_s + |x - y|^2))^power, C_s = s 2 d std^2: the kernel of Wasserstein autoencoders.

    2 d std^2 is the expected squared distance of two draws from the prior N(0, std^2 I_d), and s takes scales around
    it. WAE's code has d for the uniform prior on [-1, 1]^d (std = 1 / sqrt 2) and 2 for the unit sphere
    (std = 1 / sqrt d). Its heavy tails leave codes far from the prior a gradient.

    Args:
      scales: s; `(1.,)` is the kernel of the paper's text, the default that of its code.
      std: of the prior.
      power: 1 in Wasserstein autoencoders; 1/2 for `kernel_stein_discrepancy`.

    Returns:
      The kernel.

    Reference: Tolstikhin, Bousquet, Gelly, Schoelkopf, 'Wasserstein auto-encoders', 2018, arXiv 1711.01558.
    """

    def profile(squared, d):
        return sum((c / (c + squared)) ** power for c in (s * 2.0 * d * std**2 for s in scales))

    return RadialKernel(profile)


def median_bandwidth(x: Float[Array, "n d"], y: Float[Array, "m e"], axis_name: str | None = None) -> Float[Array, ""]:
    """The median distance between two points of the pooled samples, a bandwidth for `rbf`; without gradient.

    Args:
      x: samples.
      y: samples of the same dimension.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      A distance, a scalar.

    Raises:
      ValueError: for dimensions that differ.

    Reference: Gretton et al., JMLR 2012.
    """
    _check(x, y, 1, axis_name)
    pooled = lax.stop_gradient(jnp.concatenate([gather(x, axis_name), gather(y, axis_name)]))
    return jnp.median(_root(squared_distances(pooled, pooled)[np.triu_indices(pooled.shape[0], 1)]))


def mmd(x: Float[Array, "n d"], y: Float[Array, "m e"], kernel: Kernel, unbiased: bool = True,
        axis_name: str | None = None) -> Float[Array, ""]:
    """Squared maximum mean discrepancy, E k(x, x') + E k(y, y') - 2 E k(x, y).

    The U-statistic leaves out the pairs i = j: its expectation is the discrepancy of the two distributions, so that it
    is negative at times. The V-statistic keeps them: it is the discrepancy of the two samples, never negative, and
    too large by (k(0) - E k) (1/n + 1/m) where the distributions agree.

    Args:
      x: samples, such as codes drawn from the posteriors (not their means).
      y: samples, such as draws from the prior; any number of them.
      kernel: `(x [n d], y [m d]) -> [n m]`, such as `rbf(h)` or `inverse_multiquadric()`.
      unbiased: the U-statistic.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      The squared discrepancy, a scalar.

    Raises:
      ValueError: for dimensions that differ, or fewer than two samples in the U-statistic.

    >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [2.0]])
    >>> float(mmd(x, y, rbf(1.0), unbiased=False)), round(float(mmd(x, y, rbf(1.0))), 4)  # e^-2 - 1
    (0.0, -0.8647)

    Reference: Gretton et al., JMLR 2012.
    """
    _check(x, y, 2 if unbiased else 1, axis_name)
    cross = mean(kernel(x, gather(y, axis_name)).mean(), axis_name)
    return _within(kernel, x, unbiased, axis_name) + _within(kernel, y, unbiased, axis_name) - 2.0 * cross


def energy_distance(x: Float[Array, "n d"], y: Float[Array, "m e"], unbiased: bool = True,
                    axis_name: str | None = None) -> Float[Array, ""]:
    """2 E|x - y| - E|x - x'| - E|y - y'|: the squared MMD of the kernel -|x - y|, which has no bandwidth.

    Args:
      x: samples.
      y: samples of the same dimension; any number of them.
      unbiased: leave out the pairs i = j, as in `mmd`.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      The distance, a scalar in the units of x.

    Raises:
      ValueError: for dimensions that differ, or too few samples.

    >>> float(energy_distance(jnp.zeros((2, 1)), jnp.ones((2, 1))))
    2.0

    Reference: Szekely and Rizzo, 'Energy statistics', 2013; as an MMD: Sejdinovic, Sriperumbudur, Gretton, Fukumizu,
    2013, arXiv 1207.6076.
    """
    return mmd(x, y, RadialKernel(lambda squared, d: -_root(squared)), unbiased, axis_name)


def hsic(x: Float[Array, "n d"], y: Float[Array, "m e"], kernel_x: Kernel, kernel_y: Kernel, unbiased: bool = True,
         axis_name: str | None = None) -> Float[Array, ""]:
    """Hilbert-Schmidt independence criterion: the squared MMD between p(x, y) and p(x) p(y) under k(x, x') l(y, y').

    V-statistic: tr(K H L H) / n^2 with H = I - 1/n (some divide by (n - 1)^2). U-statistic, for K and L without their
    diagonals: (tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3)), of expectation 0 where x and
    y are independent.

    Args:
      x: samples.
      y: samples paired with x, of any dimension.
      kernel_x: of x, as in `mmd`.
      kernel_y: of y.
      unbiased: the U-statistic.
      axis_name: the mapped axis over which the pairs are spread.

    Returns:
      A scalar, 0 for independent x and y.

    Raises:
      ValueError: for unpaired samples, or fewer than four in the U-statistic.

    Reference: Gretton, Bousquet, Smola, Schoelkopf, 'Measuring statistical dependence with Hilbert-Schmidt norms',
    2005; unbiased: Song, Smola, Gretton, Bedo, Borgwardt, 'Feature selection via dependence maximization', JMLR 2012.
    """
    n = gather(x, axis_name).shape[0]
    if x.shape[0] != y.shape[0] or n < (4 if unbiased else 1):
        raise ValueError(f"hsic wants pairs x [n d], y [n e], at least {4 if unbiased else 1} of them; got {x.shape} "
                         f"and {y.shape}")

    def matrix(kernel, z):
        values = kernel(z, gather(z, axis_name))
        # A constant, to which the criterion is blind, is taken off so that little cancels in float32.
        values = values - lax.stop_gradient(mean(values.mean(), axis_name))
        return jnp.where(_diagonal(z, axis_name), 0.0, values) if unbiased else values

    k, ell = matrix(kernel_x, x), matrix(kernel_y, y)
    rows_k, rows_l = k.sum(1), ell.sum(1)
    both, sum_k, sum_l, rows = total(((k * ell).sum(), rows_k.sum(), rows_l.sum(), (rows_k * rows_l).sum()), axis_name)
    if unbiased:
        return (both + sum_k / (n - 1) * sum_l / (n - 2) - 2.0 / (n - 2) * rows) / (n * (n - 3))
    return (both + sum_k / n * sum_l / n - 2.0 / n * rows) / n**2


def kernel_stein_discrepancy(z: Float[Array, "n d"], kernel: RadialKernel, unbiased: bool = True,
                             axis_name: str | None = None) -> Float[Array, ""]:
    """Squared kernel Stein discrepancy of samples from N(0, I): a distance to the prior that needs no draws from it.

    E[s's' k + s . grad' k + s' . grad k + tr(grad grad' k)] over pairs z, z', with the prior's score s = -z, s' = -z'.
    For k = phi(t), t = |z - z'|^2, that is z.z' phi + 2 t phi' - 4 t phi'' - 2 d phi'.

    Args:
      z: samples, such as codes drawn from the posteriors.
      kernel: a radial kernel: `rbf(h)` in InfoVAE; with `inverse_multiquadric((s,), power=0.5)` a discrepancy of zero
        implies convergence to N(0, I) in any dimension, which the tails of `rbf` are too light for.
      unbiased: leave out the pairs i = j; with them it is never negative.
      axis_name: the mapped axis over which the samples are spread.

    Returns:
      A scalar, 0 in expectation for samples from N(0, I).

    Raises:
      ValueError: for fewer than two samples in the U-statistic.

    Reference: Liu, Lee, Jordan, 'A kernelized Stein discrepancy for goodness-of-fit tests', 2016, arXiv 1602.03253;
    the inverse multiquadric: Gorham and Mackey, 'Measuring sample quality with kernels', 2017, arXiv 1703.01717; in an
    autoencoder: Zhao, Song, Ermon, 'InfoVAE', 2017, arXiv 1706.02262.
    """
    _check(z, z, 2 if unbiased else 1, axis_name)
    d = z.shape[1]

    def stein(x, y):
        squared = squared_distances(x, y)
        ones = jnp.ones_like(squared)

        def slope(t):
            return jax.jvp(lambda s: kernel.profile(s, d), (t,), (ones,))[1]

        first, second = jax.jvp(slope, (squared,), (ones,))
        return _dot(x, y) * kernel.profile(squared, d) + (2.0 * squared - 2.0 * d) * first - 4.0 * squared * second

    return _within(stein, z, unbiased, axis_name)


def _within(kernel, x, unbiased, axis_name):
    """Mean of k(x_i, x_j) over the pairs of the global batch, without i = j if unbiased."""
    everyone = gather(x, axis_name)
    values = kernel(x, everyone)
    if not unbiased:
        return mean(values.mean(), axis_name)
    values = jnp.where(_diagonal(x, axis_name), 0.0, values)
    return mean(values.sum(1).mean(), axis_name) / (everyone.shape[0] - 1)


def _diagonal(x: Array, axis_name: str | None) -> Bool[Array, "n m"]:
    """Where row and column are the same example, in this replica's rows of the global matrix."""
    columns = jnp.arange(gather(x, axis_name).shape[0])
    return take_slice(columns, axis_name)[:, None] == columns


def _dot(x, y):
    x, y = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (x, y))
    return jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)


def _root(x):
    """Square root with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _check(x, y, least, axis_name):
    replicas = 1 if axis_name is None else lax.axis_size(axis_name)
    if x.shape[1] != y.shape[1] or replicas * min(x.shape[0], y.shape[0]) < least:
        raise ValueError(f"kernel distances want two sets of at least {least} vectors of one dimension; got {x.shape} "
                         f"and {y.shape}")
