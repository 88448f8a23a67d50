"""Entropic optimal transport by Sinkhorn's algorithm: dense, or over blocks of points, and its debiased divergence.

The iteration multiplies by K = exp((u + v - C) / epsilon) and keeps what it changes as factors p and q of rows and
columns; before a factor leaves e^+-15 it is absorbed into the potentials u and v and K is made anew. No entry that
counts is lost, as with log-sum-exp, and a step costs two matrix-vector products in place of 2 n m exponentials.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Real

from jaxae.losses.blockwise import checked_arguments, in_blocks, over_rows, with_gradient
from jaxae.losses.coupling import marginal_weights, soft_c_transform
from jaxae.losses.distances import squared_distances

WINDOW, LARGEST_OMEGA = 6, 1.95  # steps between looks at the rate of convergence; of over-relaxation
ABSORB, STEP, EXPONENT = 15.0, 18.0, 60.0  # largest log factor, its largest change in a step, largest log K
FIRST_RANGE, SHRINK, STAGE_STEPS, STAGE_ERROR = 100.0, 4.0, 50, 0.05  # of the epsilons before the last


class Sinkhorn(NamedTuple):
    """Potentials and value of an entropic transport problem; `transport_plan` makes the plan."""

    u: Float[Array, " n"]  # without gradient, unless unrolled
    v: Float[Array, " m"]  # b @ v = 0, which fixes the constant that moves between u and v
    value: Float[Array, ""]  # <pi, C> + epsilon KL(pi || a x b), with gradient
    marginal_error: Float[Array, ""]  # |row sums - a|_1 + |column sums - b|_1 of the plan
    iterations: Int[Array, ""]  # at all epsilons


def sinkhorn(cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""], a: Float[Array, " p"] | None = None,
             b: Float[Array, " q"] | None = None, *, v: Float[Array, " r"] | None = None,
             tolerance: Real[ArrayLike, ""] = 1e-4, max_iterations: int = 2000,
             gradient: Literal["implicit", "unrolled"] = "implicit") -> Sinkhorn:
    """min over plans with marginals a, b of <pi, C> + epsilon KL(pi || a x b), by Sinkhorn's algorithm.

    pi_ij = a_i b_j exp((u_i + v_j - C_ij) / epsilon), where u and v are each other's soft c-transform. Steps are
    over-relaxed, by the rate of convergence that is seen on the way. Small epsilons are approached through
    larger ones. An infinite cost forbids a pair; a NaN makes the value NaN, at once.

    Args:
      cost: any unit.
      epsilon: weight of the KL divergence, in units of the cost. In float32 the error of the marginals cannot fall
        much below 1e-7 max(C) / epsilon.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.
      v: column potential to start from, of a similar problem; larger epsilons are then left out.
      tolerance: of `marginal_error`.
      max_iterations: at `epsilon` itself; each larger one before it has at most 50.
      gradient: 'implicit' differentiates the value by the envelope theorem, first derivatives only: the plan for the
        cost, the potentials for the weights (up to a constant, which weights that sum to one cannot see), the KL for
        epsilon. 'unrolled' makes `max_iterations` plain log-sum-exp steps and differentiates through them,
        potentials too, with memory for all.

    Returns:
      `Sinkhorn` with potentials `[n]`, `[m]` and the value, in units of the cost.

    Raises:
      ValueError: for no points, known weights that do not sum to one, lengths that differ, or epsilon <= 0.

    >>> value = jax.jit(sinkhorn)(jnp.array([[0.0, 1.0], [1.0, 0.0]]), 0.1).value
    >>> f"{value:.4f}"  # no cost, and KL = log 2 of the plan that pairs the points
    '0.0693'

    Reference: Cuturi, 'Sinkhorn distances', 2013, arXiv 1306.0895; Schmitzer, 'Stabilized sparse scaling
    algorithms', 2019, arXiv 1610.06519 (absorption, epsilon scaling); Thibault, Chizat, Dossal, Papadakis,
    'Overrelaxed Sinkhorn-Knopp algorithm', 2021, arXiv 1711.01851; Lehmann, von Renesse, Sambale, Uschmajew, 'A note
    on overrelaxation in the Sinkhorn algorithm', 2022, arXiv 2012.12562.
    """
    n, m = cost.shape
    a, b, epsilon = checked_arguments(n, m, a, b, v, epsilon, max_iterations)
    cost = cost.astype(jnp.promote_types(cost.dtype, jnp.float32))
    if gradient == "unrolled":
        return _unrolled(cost, epsilon, a, b, jnp.zeros(m) if v is None else v, max_iterations)
    if gradient != "implicit":
        raise ValueError(f"gradient='{gradient}': choose 'implicit' or 'unrolled'")
    arguments = (cost, a, b, epsilon)
    cost, a, b, epsilon = lax.stop_gradient(arguments)
    found = _solve(lambda c: c, cost, epsilon, a, b, v, tolerance, max_iterations, None)
    plan = transport_plan(found.u, found.v, cost, epsilon, a, b)
    slope = (found.value - jnp.sum(jnp.where(plan > 0, plan * cost, 0.0))) / epsilon
    return found._replace(value=with_gradient(found.value, (plan, found.u, found.v, slope), arguments))


def transport_plan(u: Float[Array, " n"], v: Float[Array, " m"], cost: Float[Array, "n m"],
                   epsilon: Real[ArrayLike, ""], a: Float[Array, " p"] | None = None,
                   b: Float[Array, " q"] | None = None) -> Float[Array, "n m"]:
    """pi_ij = a_i b_j exp((u_i + v_j - C_ij) / epsilon).

    Args:
      u: potential of the rows, of `sinkhorn` or a semi-dual form.
      v: potential of the columns.
      cost: in the units of the potentials.
      epsilon: weight of the KL divergence.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.

    Returns:
      The plan `[n m]`, which sums to one.

    >>> transport_plan(jnp.zeros(2), jnp.zeros(1), jnp.zeros((2, 1)), 1.0).tolist()
    [[0.5], [0.5]]
    """
    a, b = marginal_weights(a, cost.shape[0], "a"), marginal_weights(b, cost.shape[1], "b")
    return a[:, None] * b * jnp.exp((u[:, None] + v - cost) / epsilon)


def sinkhorn_points(x: Float[Array, "n ..."], y: Float[Array, "m ..."], epsilon: Real[ArrayLike, ""],
                    a: Float[Array, " p"] | None = None, b: Float[Array, " q"] | None = None, *,
                    cost_fn: Callable[[Array, Array], Array] = squared_distances, block: int | None = None,
                    v: Float[Array, " r"] | None = None, tolerance: Real[ArrayLike, ""] = 1e-4,
                    max_iterations: int = 2000) -> Sinkhorn:
    """`sinkhorn` of the cost between two sets of points, with gradients for the points.

    With `block`, costs are made for `block` rows at a time and made again in every step: memory for a few [block m]
    arrays in place of [n m], n m exponentials a step in place of two products; the numbers agree to rounding.

    Args:
      x: points of the rows.
      y: points of the columns.
      epsilon: weight of the KL divergence, in units of the cost.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.
      cost_fn: `cost_fn(rows of x, y) -> [r m]`, differentiable.
      block: rows of the cost matrix in memory at once; None for all.
      v: column potential to start from.
      tolerance: of `marginal_error`.
      max_iterations: at `epsilon` itself.

    Returns:
      `Sinkhorn`; its value has gradients for the points, the weights and epsilon, first derivatives only.

    Raises:
      ValueError: as `sinkhorn`.
    """
    n, m = x.shape[0], y.shape[0]
    a, b, epsilon = checked_arguments(n, m, a, b, v, epsilon, max_iterations)
    arguments = (x, y, a, b, epsilon)
    x, y, a, b, epsilon = lax.stop_gradient(arguments)
    rows, padded, block = in_blocks(x, a, block)

    def cost(rows):
        return cost_fn(rows, y)

    if block is None:
        found = _solve(lambda c: c, cost(rows), epsilon, padded, b, v, tolerance, max_iterations, None)
    else:
        found = _solve(cost, rows, epsilon, padded, b, v, tolerance, max_iterations, block)

    def pull(carry, part):
        rows, u, a = part
        made, back = jax.vjp(cost_fn, rows, y)
        plan = transport_plan(u, found.v, made, epsilon, a, b)
        by_rows, by_y = back(plan)
        return (carry[0] + by_y, carry[1] + jnp.vdot(plan, made)), by_rows

    (by_y, spent), by_x = over_rows(pull, (jnp.zeros_like(y), jnp.zeros(())), (rows, found.u, padded), block)
    u = found.u[:n]
    gradients = (by_x[:n], by_y, u, found.v, (found.value - spent) / epsilon)
    return found._replace(u=u, value=with_gradient(found.value, gradients, arguments))


class _Sweeps(NamedTuple):
    """What changes from step to step under one kernel."""

    p: Array
    q: Array
    mass: Array  # of the plan of p and q
    error: Array
    seen: Array  # error at the last look at the rate; 0 before
    settling: Array  # whether the last look changed omega
    omega: Array  # exponent of the over-relaxed step, 1 for a plain one
    ceiling: Array  # of omega
    steps: Array  # at this epsilon


def _solve(cost, rows, epsilon, a, b, v, tolerance, max_iterations, block):
    """`Sinkhorn`, without gradients, of the matrix that `cost` makes of all rows, or of `block` of them at a time."""

    def kernel_of(rows, u, v, epsilon):
        return jnp.exp(jnp.minimum((u[:, None] + v - cost(rows)) / epsilon, EXPONENT))

    def at_one_kernel(state):
        u, v, now, s, total = state
        last = now <= epsilon
        target = jnp.where(last, tolerance, STAGE_ERROR)
        limit = jnp.where(last, max_iterations, STAGE_STEPS)
        kernel = kernel_of(rows, u, v, now) if block is None else (rows, u)

        def going(s):
            bound = jnp.exp(ABSORB)
            held = (jnp.maximum(s.p.max(), s.q.max()) < bound) & (jnp.minimum(s.p.min(), s.q.min()) > 1.0 / bound)
            return (s.error >= target) & (s.steps < limit) & held

        def sweep(s):
            weights = b * s.q

            def part(column_sums, part):
                kernel, p, a = part
                kernel = kernel if block is None else kernel_of(*kernel, v, now)
                row_sums = kernel @ weights
                p = p * _relaxed(p * row_sums, s.omega)
                return column_sums + (a * p) @ kernel, (p, a * p * row_sums)

            column_sums, (p, marginal) = over_rows(part, jnp.zeros_like(b), (kernel, s.p, a), block)
            # Exact for the new p with the old q, so these two are what a loop that ends here leaves.
            error = jnp.sum(jnp.abs(marginal - a)) + jnp.sum(b * jnp.abs(s.q * column_sums - 1.0))
            s = s._replace(p=p, mass=marginal.sum(), error=error, steps=s.steps + 1)
            more = (error >= target) & (s.steps < limit)
            return _look(s._replace(q=jnp.where(more, s.q * _relaxed(s.q * column_sums, s.omega), s.q)))

        s = s._replace(p=jnp.ones_like(a), q=jnp.ones_like(b), error=jnp.full_like(epsilon, jnp.inf))
        s = lax.while_loop(going, sweep, s)
        over = ~(s.error >= target) | (s.steps >= limit)  # a NaN is over, too
        following = jnp.where(last, -1.0, jnp.maximum(now / SHRINK, epsilon))
        rest = s._replace(steps=jnp.zeros_like(s.steps), seen=jnp.zeros_like(s.seen))
        return (u + now * jnp.log(s.p), v + now * jnp.log(s.q), jnp.where(over, following, now),
                jax.tree.map(lambda new, old: jnp.where(over, new, old), rest, s), total + jnp.where(over, s.steps, 0))

    u, v, first = _start(cost, rows, epsilon, a, b, v, block)
    one, zero = jnp.ones_like(epsilon), jnp.zeros_like(epsilon)
    s = _Sweeps(a, b, one, one, zero, one < 0, one, LARGEST_OMEGA * one, jnp.zeros((), jnp.int32))
    u, v, _, s, steps = lax.while_loop(lambda state: state[2] > 0, at_one_kernel,
                                       (u, v, first, s, jnp.zeros((), jnp.int32)))
    shift = b @ v
    u, v = u + shift, v - shift
    return Sinkhorn(u, v, a @ u + b @ v - epsilon * (s.mass - 1.0), s.error, steps)


def _start(cost, rows, epsilon, a, b, v, block):
    """Potentials under which all of K is at most 1 and every row has a 1, and the first epsilon.

    Without a given v these are the best u for v = 0 with no regularization, then the best v for that u.
    """
    given = jnp.zeros_like(b) if v is None else v

    def transform(least, part):
        reduced = cost(part[0])
        u = jnp.where(b > 0, reduced - given, jnp.inf).min(1)
        return jnp.minimum(least, jnp.where(part[1][:, None] > 0, reduced - u[:, None], jnp.inf).min(0)), u

    least, u = over_rows(transform, jnp.full_like(b, jnp.inf), (rows, a), block)
    if v is not None:
        return u, v, epsilon

    def largest(most, part):
        reduced = cost(part[0]) - part[1][:, None] - least
        return jnp.maximum(most, jnp.where(jnp.isfinite(reduced), reduced, 0.0).max()), None

    ratio = over_rows(largest, jnp.zeros_like(epsilon), (rows, u), block)[0] / FIRST_RANGE / epsilon
    stages = jnp.clip(jnp.floor(jnp.log(ratio) / jnp.log(SHRINK)), 0.0, 20.0)
    return u, least, epsilon * SHRINK**stages


def _relaxed(ratio, omega):
    """ratio^-omega, bounded, so that no step leaves float32 wherever it starts."""
    return jnp.clip(ratio, jnp.exp(-STEP), jnp.exp(STEP)) ** -omega


def _look(s):
    """The best omega for the rate that the last steps had; back to plain steps where they led away.

    A plain step shrinks the error by theta^2, an over-relaxed one by r with (r + omega - 1)^2 = r omega^2 theta^2.
    """
    look = s.steps % WINDOW == 0
    # The error jumps when omega does: the next look sees the transient, which says nothing of the rate.
    judge = look & (s.seen > 0) & ~(s.settling & (s.error < 4.0 * s.seen))
    rate = (s.error / s.seen) ** (1.0 / WINDOW)
    squared = jnp.clip(jnp.square(rate + s.omega - 1.0) / (rate * jnp.square(s.omega)), 0.0, 1.0)
    away = ~(rate < 1.0)
    ceiling = jnp.where(away, 0.3 + 0.7 * s.ceiling, s.ceiling + 0.1 * (LARGEST_OMEGA - s.ceiling))
    omega = jnp.where(away, 1.0, jnp.minimum(2.0 / (1.0 + jnp.sqrt(1.0 - squared)), ceiling))
    return s._replace(omega=jnp.where(judge, omega, s.omega), ceiling=jnp.where(judge, ceiling, s.ceiling),
                      seen=jnp.where(look, s.error, s.seen),
                      settling=jnp.where(look, judge & (away | (jnp.abs(omega - s.omega) > 0.05)), s.settling))


def _unrolled(cost, epsilon, a, b, v, steps):
    def step(v, _):
        u = soft_c_transform(v, cost.T, epsilon, b)
        return soft_c_transform(u, cost, epsilon, a), None

    v = lax.scan(step, v, length=steps)[0]
    u = soft_c_transform(v, cost.T, epsilon, b)
    shift = b @ v
    column_sums = transport_plan(u, v, cost, epsilon, a, b).sum(0)  # rows are exact, so the plan sums to one
    return Sinkhorn(u + shift, v - shift, a @ u + b @ v, jnp.abs(column_sums - b).sum(), jnp.asarray(steps))
