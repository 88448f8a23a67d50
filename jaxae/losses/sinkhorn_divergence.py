"""The debiased divergence of entropic optimal transport."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from jaxae.collectives import gather
from jaxae.losses.blockwise import checked_arguments, in_blocks, over_rows, with_gradient
from jaxae.losses.distances import squared_distances
from jaxae.losses.sinkhorn import sinkhorn_points


def sinkhorn_divergence(x: Float[Array, "n d"], y: Float[Array, "m e"], epsilon: Real[ArrayLike, ""],
                        a: Float[Array, " p"] | None = None, b: Float[Array, " q"] | None = None, *,
                        block: int | None = None, tolerance: Real[ArrayLike, ""] = 1e-4, max_iterations: int = 2000,
                        axis_name: str | None = None) -> Float[Array, ""]:
    """OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 of squared distances, with the KL term in each: nonnegative, 0 iff equal.

    Small epsilon: the squared 2-Wasserstein distance; large: the squared distance between the means. The value
    converges with the square of the marginal error.

    Args:
      x: points, or one replica's part of them.
      y: points of the same dimension, or one replica's part.
      epsilon: weight of the KL divergence, in squared units of the points (some libraries take half the squared
        distance as the cost: with twice their epsilon this is twice theirs).
      a: weights of x; None for equal ones.
      b: weights of y; None for equal ones.
      block: rows of a cost matrix in memory at once; None for all. 20,000 points want 512.
      tolerance: of the marginal error of each problem.
      max_iterations: of each problem.
      axis_name: the mapped axis over which points and weights are spread.

    Returns:
      The divergence, a scalar in squared units of the points, with first derivatives for points, weights and epsilon.

    Raises:
      ValueError: as `sinkhorn`, and for points of two dimensions.

    >>> import jax
    >>> value = jax.jit(sinkhorn_divergence)(jnp.zeros((4, 2)), jnp.ones((3, 2)), 0.1)
    >>> f"{value:.3f}"
    '2.000'

    Reference: Genevay, Peyre, Cuturi, 'Learning generative models with Sinkhorn divergences', 2018, arXiv
    1706.00292; Feydy et al., 'Interpolating between optimal transport and MMD using Sinkhorn divergences', 2019,
    arXiv 1810.08278.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"points of {x.shape[1]} and of {y.shape[1]} dimensions: give both the same")
    x, y = gather(x, axis_name), gather(y, axis_name)
    # Before the weights are checked: a replica's part of them does not sum to one.
    a, b = (w if w is None else gather(w, axis_name) for w in (a, b))
    across = sinkhorn_points(x, y, epsilon, a, b, block=block, tolerance=tolerance, max_iterations=max_iterations)
    return across.value - 0.5 * sum(_transport_to_itself(z, epsilon, w, block, tolerance, max_iterations)
                                    for z, w in ((x, a), (y, b)))


def _transport_to_itself(x, epsilon, a, block, tolerance, max_iterations):
    """OT(x, x) by one potential: C >= 0 with a zero diagonal keeps all factors in [1, a^-1/2], without absorption."""
    a, _, epsilon = checked_arguments(x.shape[0], 1, a, None, None, epsilon, max_iterations)
    arguments = (x, a, epsilon)
    points, weights, epsilon = lax.stop_gradient(arguments)
    n = points.shape[0]
    rows, padded, block = in_blocks(points, weights, block)

    def kernel(rows):
        return jnp.exp(-squared_distances(rows, points) / epsilon)

    made = kernel(rows) if block is None else rows

    def body(state):
        p, old, _, steps = state
        sums = over_rows(lambda _, rows: (None, (kernel(rows) if block else rows) @ (weights * p)), None,
                          made, block)[1][:n]
        error = 2.0 * jnp.sum(weights * jnp.abs(p * sums - 1.0))
        # The kernel is positive definite, so a step of 2/3 shrinks every mode of the error to a third.
        return p * (p * sums) ** (-2.0 / 3.0), (p, weights @ (p * sums)), error, steps + 1

    start = jnp.ones_like(weights)
    _, (p, mass), _, _ = lax.while_loop(lambda s: (s[2] >= tolerance) & (s[3] < max_iterations), body,
                                        (start, (start, jnp.ones_like(epsilon)), jnp.full_like(epsilon, jnp.inf), 0))
    u = epsilon * jnp.log(p)
    value = 2.0 * (weights @ u) - epsilon * (mass - 1.0)

    def pull(spent, part):
        rows, p_rows, a_rows, k = part
        k = kernel(rows) if block else k
        plan = a_rows[:, None] * p_rows[:, None] * k * (p * weights)
        # Both sides of the symmetric cost move with x, hence 2 times the 2 of the square.
        by_rows = 4.0 * (plan.sum(1)[:, None] * rows - jnp.matmul(plan, points, precision=lax.Precision.HIGHEST))
        return spent - epsilon * jnp.sum(jnp.where(plan > 0, plan * jnp.log(k), 0.0)), by_rows

    factors = jnp.pad(p, (0, rows.shape[0] - n), constant_values=1.0)
    spent, by_x = over_rows(pull, jnp.zeros_like(value), (rows, factors, padded, made), block)
    return with_gradient(value, (by_x[:n], 2.0 * u, (value - spent) / epsilon), arguments)
