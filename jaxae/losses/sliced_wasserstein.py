"""Sliced Wasserstein distances: optimal transport in one dimension, of many projections of two batches.

In one dimension the optimal plan sorts both sides, so that the distance is a sort and its gradient a permutation.
The functions return W_p^p, the p-th power, which averages over projections and has no pole in its gradient.
"""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxae.collectives import gather, mean, take_slice
from jaxae.losses.sorting import sort


def sample_sphere(key: Array, num: int, d: int) -> Float[Array, "num d"]:
    """Directions uniform on the unit sphere of R^d, normalized Gaussian vectors `[num d]`.

    Raises:
      ValueError: for fewer than one direction or dimension.

    >>> jnp.linalg.norm(sample_sphere(jax.random.key(0), 2, 5), axis=1).round(4).tolist()
    [1.0, 1.0]
    """
    if num < 1 or d < 1:
        raise ValueError(f"directions want a number and a dimension of at least 1; got {num} in dimension {d}")
    return _normalize(jax.random.normal(key, (num, d)))


def wasserstein_1d(x: Float[Array, "n *columns"], y: Float[Array, "m *others"], p: int = 2,
                   axis_name: str | None = None) -> Float[Array, "*columns"]:
    """W_p^p between two samples on the line, for every column: the exact cost of optimal transport.

    W_p^p = int_0^1 |F_x^-1(t) - F_y^-1(t)|^p dt, with the empirical quantile functions, which are steps: for n = m the
    mean of |x_(i) - y_(i)|^p over the sorted samples, else a sum over the n + m - gcd(n, m) intervals of t on which
    both are constant.

    Args:
      x: samples, in any order.
      y: samples; as many as x or not.
      p: 1 or 2.
      axis_name: the mapped axis over which both samples are spread.

    Returns:
      W_p^p of each column, in units of x to the p-th power. NaN for a column that holds NaN.

    Raises:
      ValueError: for no samples, columns that differ, or another p.

    >>> wasserstein_1d(jnp.array([3.0, 1.0]), jnp.array([2.0, 4.0, 4.0]), p=1).round(4)  # t: 1/3, 1/6, 1/2
    Array(1.3333, dtype=float32)
    """
    x, y = gather(x, axis_name), gather(y, axis_name)
    if x.shape[1:] != y.shape[1:] or min(x.shape[0], y.shape[0]) < 1:
        raise ValueError(f"transport wants samples [n ...] and [m ...] with n, m >= 1 and the same columns; got "
                         f"{x.shape} and {y.shape}")
    _check_order(p)
    x, y = sort(x.astype(jnp.float32)), sort(y.astype(jnp.float32))
    if x.shape[0] == y.shape[0]:
        return _power(x - y, p).mean(0)
    i, j, lengths = _quantile_intervals(x.shape[0], y.shape[0])
    return jnp.tensordot(lengths, _power(x[i] - y[j], p), axes=1, precision=lax.Precision.HIGHEST)


def sliced_wasserstein(x: Float[Array, "n d"], y: Float[Array, "m e"], key: Array, num_projections: int = 50,
                       p: int = 2, axis_name: str | None = None) -> Float[Array, ""]:
    """Mean over random directions of W_p^p between the projections of two batches.

    SW_p^p = (1/L) sum_l W_p^p(x theta_l, y theta_l), theta_l uniform on the sphere. An unbiased estimate of the mean
    over the sphere for any L; its spread falls with 1/sqrt(L) and grows with d: raise L with d. Draw a new key every
    step, or the encoder learns the directions. For N(m1, s1^2 I) and N(m2, s2^2 I) the mean over the sphere is
    SW_2^2 = |m1 - m2|^2 / d + (s1 - s2)^2.

    Replicas share the directions out where their number divides.

    Args:
      x: vectors such as codes.
      y: vectors such as samples of the prior; as many as x or not.
      key: draws the directions; the same on every replica.
      num_projections: L.
      p: 1 or 2.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      SW_p^p, a scalar in units of x to the p-th power.

    Raises:
      ValueError: for an empty batch, dimensions that differ, no projections, or another p.

    >>> sliced_wasserstein(jnp.eye(2), jnp.eye(2)[::-1], jax.random.key(0)).tolist()
    0.0

    Reference: Rabin, Peyre, Delon, Bernot, 'Wasserstein barycenter and its application to texture mixing', 2011;
    Kolouri, Pope, Martin, Rohde, 'Sliced-Wasserstein autoencoder', 2018, arXiv 1804.01947.
    """
    return _mean_over_slices(_linear, x, y, key, num_projections, p, axis_name)


def generalized_sliced_wasserstein(
    x: Float[Array, "n d"], y: Float[Array, "m e"], key: Array, num_projections: int = 50, p: int = 2,
    defining: str | Callable[[Array, Array, int], Array] = "circular", radius: float = 1.0, degree: int = 3,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Mean over random non-linear slices of W_p^p between two batches.

    GSW_p^p = (1/L) sum_l W_p^p(g(x, theta_l), g(y, theta_l)), where g takes the place of the scalar product:

        circular     g(x, theta) = |x - r theta|, theta on the sphere; tends to SW as r grows
        polynomial   g(x, theta) = sum_{|a| = degree} theta_a x^a, theta on the sphere of all coefficients
        a callable   `defining(x, key, L) -> [n L]`, drawing its parameters from key, such as a random network's

    With the first two, and an odd degree, it is zero only between equal distributions. A polynomial of degree 1 is
    `sliced_wasserstein`. It has C(d + degree - 1, degree) coefficients and makes as many monomials of each vector:
    for small d.

    Args:
      x, y, key, num_projections, p, axis_name: as in `sliced_wasserstein`; key draws the slices.
      defining: 'circular', 'polynomial' or a callable.
      radius: r of the circular slices, in units of x.
      degree: of the polynomial, odd.

    Returns:
      GSW_p^p, a scalar.

    Raises:
      ValueError: as `sliced_wasserstein`, for an unknown defining function, an even degree or a radius that is not
        positive.

    >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    >>> norms = lambda x, key, num: jnp.broadcast_to(jnp.linalg.norm(x, axis=1, keepdims=True), (len(x), num))
    >>> generalized_sliced_wasserstein(x, jnp.zeros((2, 2)), jax.random.key(0), defining=norms).tolist()
    12.5

    Reference: Kolouri, Nadjahi, Simsekli, Badeau, Rohde, 'Generalized sliced Wasserstein distances', 2019,
    arXiv 1902.00434.
    """
    if defining == "circular":
        if radius <= 0:
            raise ValueError(f"circular slices want a positive radius, got {radius}")

        def slices(x, key, num):
            return _circular(x, radius * sample_sphere(key, num, x.shape[1]))
    elif defining == "polynomial":
        if degree < 1 or degree % 2 == 0:
            raise ValueError(f"polynomial slices want an odd degree, got {degree}: an even one cannot tell x from -x")

        def slices(x, key, num):
            return _linear(_monomials(x, degree), key, num)
    elif callable(defining):
        slices = defining
    else:
        raise ValueError(f"no defining function '{defining}': choose 'circular', 'polynomial' or pass a callable")
    return _mean_over_slices(slices, x, y, key, num_projections, p, axis_name)


class MaxSliced(NamedTuple):
    """The largest distance of a projection, and where it was found."""

    distance: Float[Array, ""]  # W_p^p, differentiable in both batches
    direction: Float[Array, " d"]  # unit vector, without gradient


def max_sliced_wasserstein(x: Float[Array, "n d"], y: Float[Array, "m e"], key: Array, steps: int = 10,
                           num_starts: int = 50, step_size: float = 1.0, p: int = 2,
                           axis_name: str | None = None) -> MaxSliced:
    """W_p^p between the projections onto the direction that tells two batches best apart.

    max_theta W_p^p(x theta, y theta) over the sphere, by gradient ascent from several random directions at once:

        theta <- normalize(theta + step_size grad f / (p f)),   f(theta) = W_p^p(x theta, y theta)

    The step has no scale: f is homogeneous of degree p, so that theta . grad f = p f. The result is the best
    direction visited, a lower bound of the maximum, and never below `sliced_wasserstein` of the same key with
    num_starts projections. The gradient in x and y is that at the direction held fixed (Danskin's envelope
    theorem: exact at a maximum).

    Args:
      x, y, key, p, axis_name: as in `sliced_wasserstein`; key draws the starts.
      steps: of the ascent; each sorts both batches num_starts times. 0 takes the best start.
      num_starts: directions to start from.
      step_size: 1 adds to the direction its own length of gradient: half a step of the power method.

    Returns:
      A `MaxSliced`, the distance a scalar in units of x to the p-th power.

    Raises:
      ValueError: for an empty batch, dimensions that differ, no start, negative steps, or another p.

    >>> x = jnp.array([[0.0, 0.0], [0.0, 1.0]])
    >>> found = max_sliced_wasserstein(x, x + jnp.array([3.0, 0.0]), jax.random.key(0))
    >>> found.distance.round(3), jnp.abs(found.direction).round(2).tolist()
    (Array(9., dtype=float32), [1.0, 0.0])

    Reference: Deshpande et al., 'Max-sliced Wasserstein distance and its use for GANs', 2019, arXiv 1904.05877.
    """
    x, y = _batches(x, y, axis_name)
    _check_order(p)
    if num_starts < 1 or steps < 0:
        raise ValueError(f"the ascent wants at least one start and no negative steps; got num_starts={num_starts}, "
                         f"steps={steps}")
    fixed_x, fixed_y = lax.stop_gradient((x, y))

    def total(directions):
        distances = wasserstein_1d(_project(fixed_x, directions), _project(fixed_y, directions), p)
        return distances.sum(), distances

    def ascend(carry, _):
        directions, best = carry
        (_, distances), gradient = jax.value_and_grad(total, has_aux=True)(directions)
        best = _better(best, directions, distances)
        scale = step_size / jnp.where(distances > 0, p * distances, 1.0)
        return (_normalize(directions + scale[:, None] * gradient), best), None

    starts = sample_sphere(key, num_starts, x.shape[1])
    best = starts, jnp.full(num_starts, -jnp.inf)
    (last, best), _ = lax.scan(ascend, (starts, best), length=steps)
    directions, distances = _better(best, last, total(last)[1])
    direction = lax.stop_gradient(directions[jnp.argmax(distances)])
    distance = wasserstein_1d(_project(x, direction[None]), _project(y, direction[None]), p)[0]
    return MaxSliced(distance, direction)


def _better(best, directions, distances):
    better = distances > best[1]
    return jnp.where(better[:, None], directions, best[0]), jnp.where(better, distances, best[1])


def _mean_over_slices(slices, x, y, key, num_projections, p, axis_name):
    """Mean W_p^p of `slices(x, key, num) -> [n num]` of both batches."""
    x, y = _batches(x, y, axis_name)
    _check_order(p)
    if num_projections < 1:
        raise ValueError(f"num_projections={num_projections}: a mean wants at least one")
    # One key, so that both sides meet the same slices; two calls, so that a side without gradient sorts without one.
    sides = [slices(batch, key, num_projections) for batch in (x, y)]
    for side, batch in zip(sides, (x, y), strict=True):
        if side.shape != (batch.shape[0], num_projections):
            raise ValueError(f"a defining function must return [n L], here {(batch.shape[0], num_projections)}; got "
                             f"{side.shape}")
    if axis_name is None or num_projections % lax.axis_size(axis_name):
        return wasserstein_1d(*sides, p).mean()
    sides = [take_slice(side.T, axis_name).T for side in sides]
    return mean(wasserstein_1d(*sides, p).mean(), axis_name)


def _batches(x, y, axis_name):
    """The global batches, in float32."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(f"sliced transport wants batches [n d] and [m d] of at least one vector and one dimension; "
                         f"got {x.shape} and {y.shape}")
    return tuple(gather(batch, axis_name).astype(jnp.float32) for batch in (x, y))


def _check_order(p):
    if p not in (1, 2):
        raise ValueError(f"transport is of order p = 1 or 2, got {p}")


def _power(difference, p):
    return jnp.abs(difference) if p == 1 else jnp.square(difference)


def _quantile_intervals(n, m):
    """Where the quantile functions of n and m samples are both constant: positions in each, and lengths."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    lengths = np.diff(ends, prepend=0) / (n * m)
    return (ends - 1) // m, (ends - 1) // n, lengths.astype(np.float32)


def _normalize(directions):
    return directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)


def _project(x, directions):
    return jnp.matmul(x, directions.T, precision=lax.Precision.HIGHEST)


def _linear(x, key, num):
    return _project(x, sample_sphere(key, num, x.shape[1]))


def _circular(x, centres):
    """Distances `[n num]` from x to the centres; differences, not products, which would cancel."""
    def distance(centre):
        square = jnp.square(x - centre).sum(1)
        zero = square == 0  # the norm has no gradient there: take 0
        return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))
    return lax.map(jax.checkpoint(distance), centres).T  # kept differences would be [num n d]


def _monomials(x, degree):
    """All products of `degree` coordinates, `[n C(d + degree - 1, degree)]`."""
    chosen = np.array(list(combinations_with_replacement(range(x.shape[1]), degree)))
    return math.prod(x[:, column] for column in chosen.T)
