"""Objectives of entropic optimal transport between data (rows) and latents (columns).

All of them solve, for weights a `[n]` of the data, b `[m]` of the latents and a cost matrix C `[n m]`,

    min over plans pi with marginals a and b of  <pi, C> + epsilon KL(pi || a x b)

u `[n]` is the potential of the rows and v `[m]` that of the columns, here and in `jaxae.losses.sinkhorn`; the coupled
variational autoencoder's paper names the row potential of its semi-dual form v. There the cost is -log p(x_i | z_j).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Real

from jaxae.collectives import mean


def marginal_weights(weights: Float[Array, " p"] | None, size: int, name: str = "weights") -> Float[Array, " n"]:
    """`weights`, checked, or `size` equal ones that sum to one.

    Args:
      weights: nonnegative, sum to one; None for equal ones.
      size: how many there must be.
      name: what the error calls them.

    Raises:
      ValueError: for no points, a wrong length, or (where the values are known, so outside `jit`) weights that are
        negative or do not sum to one.

    >>> marginal_weights(None, 4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if size == 0:
        raise ValueError("transport between no points: give at least one row and one column")
    if weights is None:
        return jnp.full(size, 1.0 / size)
    if weights.shape != (size,):
        raise ValueError(f"{name} must be one weight for each of {size} points; got shape {weights.shape}")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights, np.float64)
        if not (values >= 0).all() or not abs(values.sum() - 1.0) < 1e-3:
            raise ValueError(f"{name} must be nonnegative and sum to one; they sum to {values.sum():.6g}: divide by "
                             "their sum")
    return weights


def positive_epsilon(epsilon: Real[ArrayLike, ""]) -> Real[ArrayLike, ""]:
    """`epsilon` itself.

    Raises:
      ValueError: where its value is known and it is not positive.
    """
    if not isinstance(epsilon, jax.core.Tracer) and not float(epsilon) > 0:
        raise ValueError(f"epsilon={float(epsilon)} must be positive: for unregularized transport take a small one")
    return epsilon


def soft_c_transform(u: Float[Array, " n"], cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""],
                     a: Float[Array, " p"] | None = None) -> Float[Array, " m"]:
    """v_j = -epsilon log sum_i a_i exp((u_i - C_ij) / epsilon): the best column potential for a row potential.

    The plan of (u, v) then has exact column sums. The row potential for a column potential is
    `soft_c_transform(v, cost.T, epsilon, b)`.

    Args:
      u: potential of the rows, in units of the cost.
      cost: nats, where the coupling stands for q(z | x).
      epsilon: weight of the KL divergence, in units of the cost; 1 for the bound of the VAE.
      a: weights of the rows; None for equal ones.

    Returns:
      Potential of the columns `[m]`, in units of the cost.

    >>> soft_c_transform(jnp.zeros(2), jnp.array([[1.0], [1.0]]), 0.5).round(4).tolist()
    [1.0]
    """
    a = marginal_weights(a, cost.shape[0], "a")
    epsilon = positive_epsilon(epsilon)
    return -epsilon * jax.nn.logsumexp((u[:, None] - cost) / epsilon, axis=0, b=a[:, None])


def primal_objective(plan: Float[Array, "n m"], cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""],
                     a: Float[Array, " p"] | None = None, b: Float[Array, " q"] | None = None) -> Float[Array, ""]:
    """<pi, C> + epsilon KL(pi || a x b), to be minimized over plans.

    With epsilon = 1, C_ij = -log p(x_i | z_j), b the prior and pi_ij = a_i q(z_j | x_i) it is minus the mean evidence
    lower bound of q. The VAE minimizes it with row sums a alone; the coupled VAE holds the column sums, the
    aggregate posterior, at b too, so its value is no smaller.

    Args:
      plan: nonnegative, sums to one; zero where a or b is.
      cost: nats.
      epsilon: weight of the KL divergence.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.

    Returns:
      The objective, a scalar in units of the cost.

    Reference: 'Coupled variational autoencoder', 2023, arXiv 2306.02565.
    """
    a, b = _both(cost, a, b)
    divergence = jax.scipy.special.rel_entr(plan, a[:, None] * b).sum()
    return jnp.vdot(plan, cost) + positive_epsilon(epsilon) * divergence


def dual_objective(u: Float[Array, " n"], v: Float[Array, " m"], cost: Float[Array, "n m"],
                   epsilon: Real[ArrayLike, ""], a: Float[Array, " p"] | None = None,
                   b: Float[Array, " q"] | None = None, ceiling: float = 50.0) -> Float[Array, ""]:
    """<a, u> + <b, v> - epsilon sum_ij a_i b_j exp((u_i + v_j - C_ij) / epsilon - 1), to be maximized.

    The '-1' convention: its maximum is the primal value, and pi_ij = a_i b_j exp((u_i + v_j - C_ij) / epsilon - 1).
    Potentials of `sinkhorn` and of the semi-dual form become its own by u + epsilon. An unbiased estimate for
    sampled rows and columns, each with equal weights.

    Args:
      u: potential of the rows.
      v: potential of the columns, such as a network's output.
      cost: in the units of the potentials.
      epsilon: weight of the KL divergence.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.
      ceiling: above this exponent exp is continued by its tangent, so that potentials that are far too high give
        finite values and gradients that lower them; the objective stays concave.

    Returns:
      The objective, a scalar in units of the cost.

    Reference: 'Coupled variational autoencoder', 2023, arXiv 2306.02565.
    """
    a, b = _both(cost, a, b)
    exponent = (u[:, None] + v - cost) / positive_epsilon(epsilon) - 1.0
    below = jnp.minimum(exponent, ceiling)
    # min's gradient is one below the ceiling and zero above, where the second factor has it.
    mass = jnp.exp(below) * (1.0 + jnp.maximum(exponent - ceiling, 0.0))
    return a @ u + b @ v - epsilon * (a @ mass @ b)


def semidual_objective(u: Float[Array, " n"], cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""],
                       a: Float[Array, " p"] | None = None, b: Float[Array, " q"] | None = None) -> Float[Array, ""]:
    """<a, u> + <b, v> with v the soft c-transform of u, to be maximized: one potential left, the column sums exact.

    Concave; its maximum is the primal value. An unbiased estimate for sampled columns with equal weights.

    Args:
      u: potential of the rows.
      cost: in the units of the potential.
      epsilon: weight of the KL divergence.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones.

    Returns:
      The objective, a scalar in units of the cost.

    Reference: Genevay, Cuturi, Peyre, Bach, 'Stochastic optimization for large-scale optimal transport', 2016,
    arXiv 1605.08527.
    """
    a, b = _both(cost, a, b)
    return a @ u + b @ soft_c_transform(u, cost, epsilon, a)


def semidual_gradient(u: Float[Array, " n"], cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""],
                      a: Float[Array, " p"] | None = None, b: Float[Array, " q"] | None = None,
                      axis_name: str | None = None) -> Float[Array, " n"]:
    """a_i - sum_j b_j chi_ij, chi_ij = a_i exp((u_i - C_ij) / epsilon) / sum_l a_l exp((u_l - C_lj) / epsilon).

    The gradient of `semidual_objective`: what is missing to the row sums of the plan of u.

    Args:
      u: potential of the rows, the same on every replica.
      cost: in the units of the potential.
      epsilon: weight of the KL divergence.
      a: weights of the rows; None for equal ones.
      b: weights of the columns; None for equal ones. On a replica they sum to one over its own columns.
      axis_name: the mapped axis over which the columns are spread in equal parts.

    Returns:
      The gradient `[n]`.
    """
    a, b = _both(cost, a, b)
    return a - mean(_weighted(u, cost, epsilon, a) @ b, axis_name)


def coupling_rows(v: Float[Array, " m"], cost: Float[Array, "n m"], epsilon: Real[ArrayLike, ""],
                  b: Float[Array, " q"] | None = None) -> Float[Array, "n m"]:
    """W_ij = b_j exp((v_j - C_ij) / epsilon) / sum_l b_l exp((v_l - C_il) / epsilon): the plan's q(z_j | x_i).

    Normalized over the latents for a fixed example; the row's own potential cancels, so examples that were not in
    the problem have rows as well. Encode by sampling z_j by W_i, or average a loss with weights W_i.

    Args:
      v: potential of the columns (`soft_c_transform` of the semi-dual's potential).
      cost: in the units of the potential, of any examples to these columns.
      epsilon: weight of the KL divergence.
      b: weights of the columns; None for equal ones.

    Returns:
      Conditional probabilities `[n m]`; rows sum to one.

    >>> coupling_rows(jnp.zeros(2), jnp.array([[3.0, 3.0]]), 1.0).tolist()
    [[0.5, 0.5]]
    """
    return _weighted(v, cost.T, epsilon, marginal_weights(b, cost.shape[1], "b")).T


class SemidualState(NamedTuple):
    """Averaged stochastic ascent of the semi-dual objective."""

    iterate: Float[Array, " n"]
    average: Float[Array, " n"]  # the potential to use
    step: Int[Array, ""]  # steps since the start of the average


def semidual_init(u: Float[Array, " n"]) -> SemidualState:
    """Ascent from `u` (zeros at first, the last average later): the average and the step sizes begin anew."""
    return SemidualState(u, u, jnp.zeros((), jnp.int32))


def semidual_asgd(state: SemidualState, costs: Float[Array, "t n k"], epsilon: Real[ArrayLike, ""],
                  learning_rate: Real[ArrayLike, ""], a: Float[Array, " p"] | None = None,
                  axis_name: str | None = None) -> SemidualState:
    """One step of averaged stochastic ascent for every chunk of sampled columns.

    At step s = 1, 2, ...: u <- u + learning_rate / sqrt(s) gradient, average <- u / s + (1 - 1/s) average. Iterate
    and average are arrays of their own. The gradient of a point is at most its weight, so learning_rate / n is the
    largest move of a point at the first step; the published rate is 1,000.

    Args:
      state: from `semidual_init` or an earlier call, the same on every replica.
      costs: of all rows to the k columns of each of t chunks, columns drawn from the prior.
      epsilon: weight of the KL divergence.
      learning_rate: in units of the cost, per unit of mass.
      a: weights of the rows; None for equal ones.
      axis_name: the mapped axis over which the columns of a chunk are spread.

    Returns:
      The state after t steps.

    Reference: Genevay et al., 2016, arXiv 1605.08527, algorithm 2.
    """
    a = marginal_weights(a, costs.shape[1], "a")
    epsilon = positive_epsilon(epsilon)

    def update(state, cost):
        step = state.step + 1
        rate = 1.0 / step.astype(state.iterate.dtype)
        iterate = state.iterate + learning_rate * jnp.sqrt(rate) * semidual_gradient(
            state.iterate, cost, epsilon, a, axis_name=axis_name)
        return SemidualState(iterate, state.average + rate * (iterate - state.average), step), None

    return lax.scan(update, state, costs)[0]


def _both(cost, a, b):
    return marginal_weights(a, cost.shape[0], "a"), marginal_weights(b, cost.shape[1], "b")


def _weighted(potential, cost, epsilon, weights):
    """Probabilities over axis 0 proportional to weights exp((potential - cost) / epsilon)."""
    exponent = (potential[:, None] - cost) / positive_epsilon(epsilon)
    return jax.nn.softmax(exponent + jnp.log(weights)[:, None], axis=0)
