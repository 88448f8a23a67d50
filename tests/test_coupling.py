"""The forms of entropic transport against one another, and the link with the evidence lower bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.losses.coupling import (
    coupling_rows,
    dual_objective,
    primal_objective,
    semidual_asgd,
    semidual_gradient,
    semidual_init,
    semidual_objective,
    soft_c_transform,
)
from jaxae.losses.sinkhorn import sinkhorn, transport_plan

REPLICAS = 8


def problem():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(20, 30)) * 3, rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(30))


@pytest.mark.parametrize("weighted", [False, True])
def test_primal_dual_and_semidual_agree(weighted):
    cost, a, b = problem()
    a, b, epsilon = (a, b, 0.5) if weighted else (np.full(20, 1 / 20), np.full(30, 1 / 30), 0.5)

    def forms(cost, a, b):
        found = sinkhorn(cost, epsilon, a, b, tolerance=1e-10)
        plan = transport_plan(found.u, found.v, cost, epsilon, a, b)
        dual = partial(dual_objective, found.u + epsilon, found.v, cost, epsilon, a, b)
        values = (found.value, primal_objective(plan, cost, epsilon, a, b), dual(), dual(ceiling=-5.0),
                  semidual_objective(found.u, cost, epsilon, a, b),
                  semidual_objective(found.v, cost.T, epsilon, b, a))
        return values, jax.grad(dual_objective, (0, 1))(found.u + epsilon, found.v, cost, epsilon, a, b)

    with jax.enable_x64(True):
        (value, primal, dual, continued, *semi), slopes = jax.jit(forms)(cost, a, b)
        np.testing.assert_allclose([primal, dual, *semi], value, atol=1e-9)
        assert continued > value  # the tangents lie below exp, of which the objective has the negative
        for slope in slopes:
            np.testing.assert_allclose(slope, 0.0, atol=1e-9)


def test_semidual_ascent_reaches_the_value_and_both_marginals():
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in problem())
    epsilon = 0.5

    @jax.jit
    def ascend(cost):
        u = jax.lax.fori_loop(0, 3000, lambda _, u: u + 5.0 * semidual_gradient(u, cost, epsilon, a, b), jnp.zeros(20))
        return (semidual_objective(u, cost, epsilon, a, b), sinkhorn(cost, epsilon, a, b).value,
                transport_plan(u, soft_c_transform(u, cost, epsilon, a), cost, epsilon, a, b))

    reached, value, plan = ascend(cost)
    assert abs(reached - value) < 1e-3
    assert np.abs(plan.sum(0) - b).sum() < 1e-4 and np.abs(plan.sum(1) - a).sum() < 1e-4


def test_gradient_is_the_derivative_of_the_objective():
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in problem())
    u = jax.random.normal(jax.random.key(0), (20,))
    derivative = jax.jit(jax.grad(semidual_objective))(u, cost, 0.5, a, b)
    np.testing.assert_allclose(jax.jit(semidual_gradient)(u, cost, 0.5, a, b), derivative, atol=1e-6)


def test_dual_stays_finite_and_concave_with_costs_in_the_hundreds():
    cost = 100.0 * jnp.asarray(problem()[0], jnp.float32)
    u, v = jnp.full(20, 600.0), jnp.zeros(30)
    value, slope = jax.jit(jax.value_and_grad(dual_objective))(u, v, cost, 1.0)
    assert np.isfinite(value) and np.isfinite(slope).all() and (slope < 0).all()
    line = jax.jit(jax.vmap(lambda s: dual_objective(s * u, v, cost, 1.0)))(jnp.linspace(0.1, 1.0, 50))
    assert (np.diff(line, 2) <= 1e-5 * np.abs(line).max()).all()


def test_bound_of_any_posterior_is_a_primal_value_and_transport_costs_no_less():
    """pi(x, z) = p(x) q(z | x): <pi, C> + KL = -mean ELBO; with the prior as column sums the value is at least the mean
    negative log-likelihood, and is it where the exact posteriors average to the prior."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        log_joint = jnp.log(rng.dirichlet(np.ones(20 * 30)).reshape(20, 30))  # any log p(x_i | z_j): rows need no norm
        prior, data = jnp.asarray(rng.dirichlet(np.ones(30))), jnp.full(20, 1 / 20)
        q = rng.dirichlet(np.ones(30), 20)
        elbo = (q * (log_joint + np.log(prior) - np.log(q))).sum(1)
        objective = jax.jit(primal_objective)(data[:, None] * q, -log_joint, 1.0, data, prior)
        np.testing.assert_allclose(objective, -elbo.mean(), atol=1e-10)

        def values(cost, b):
            nll = -jax.nn.logsumexp(-cost + jnp.log(b), axis=1).mean()
            posterior = jax.nn.softmax(-cost + jnp.log(b), axis=1)
            return nll, sinkhorn(cost, 1.0, b=b, tolerance=1e-11).value, posterior.mean(0)

        nll, value, aggregate = jax.jit(values)(-log_joint, prior)
        assert value > nll + 1e-3 and np.abs(aggregate - prior).max() > 1e-3
        # A model whose exact aggregate posterior is the prior: p(x | z) = pi / prior of a plan with these marginals.
        plan = transport_plan(*sinkhorn(-log_joint, 1.0, b=prior, tolerance=1e-12)[:2], -log_joint, 1.0, b=prior)
        nll, value, aggregate = jax.jit(values)(-jnp.log(plan / prior), prior)
        np.testing.assert_allclose(aggregate, prior, atol=1e-10)
        np.testing.assert_allclose(value, nll, atol=1e-9)


def test_rows_are_the_plans_conditionals_over_latents():
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in problem())
    found = jax.jit(sinkhorn)(100 * cost, 10.0, a, b, tolerance=1e-6)
    rows = jax.jit(coupling_rows)(found.v, 100 * cost, 10.0, b)
    plan = transport_plan(found.u, found.v, 100 * cost, 10.0, a, b)
    np.testing.assert_allclose(rows, plan / a[:, None], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(jax.jit(coupling_rows)(found.v, 1e4 * cost[:7], 1.0, b).sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(a @ rows, b, atol=1e-5)  # the aggregate posterior is the prior


def test_average_is_the_mean_of_the_iterates_and_not_the_iterate():
    cost, a, _ = problem()
    costs = np.stack([cost[:, i % 3 * 10:i % 3 * 10 + 10] for i in range(7)])
    run = jax.jit(lambda s, c: semidual_asgd(s, c, 0.5, 4.0, jnp.asarray(a, jnp.float32)))
    start = semidual_init(jnp.ones(20))
    state = run(run(start, jnp.asarray(costs[:3], jnp.float32)), jnp.asarray(costs[3:], jnp.float32))
    u, seen = np.ones(20), []
    for step, chunk in enumerate(costs, 1):
        weights = a[:, None] * np.exp((u[:, None] - chunk) / 0.5)
        u = u + 4.0 / np.sqrt(step) * (a - (weights / weights.sum(0)).mean(1))
        seen.append(u)
    assert state.step == 7
    np.testing.assert_allclose(state.iterate, u, atol=1e-5)
    np.testing.assert_allclose(state.average, np.mean(seen, 0), atol=1e-5)
    assert np.abs(np.mean(seen, 0) - u).max() > 0.05


def test_averaged_ascent_on_sampled_columns_solves_the_problem():
    cost = jnp.asarray(problem()[0], jnp.float32)

    @jax.jit
    def run(key):
        costs = cost[:, jax.random.randint(key, (4000, 4), 0, 30)].transpose(1, 0, 2)
        state = semidual_asgd(semidual_init(jnp.zeros(20)), costs, 0.5, 20.0)
        return [semidual_objective(u, cost, 0.5) for u in (state.average, state.iterate)], sinkhorn(cost, 0.5).value

    (average, iterate), value = run(jax.random.key(0))
    assert 0 <= value - average + 1e-6 < 1e-3 and value - iterate > value - average


def test_replicas_with_a_part_of_the_columns_ascend_as_one():
    costs = jax.random.uniform(jax.random.key(0), (5, 12, 32))
    whole = jax.jit(lambda c: semidual_asgd(semidual_init(jnp.zeros(12)), c, 0.5, 4.0))(costs)
    parts = jax.pmap(lambda c: semidual_asgd(semidual_init(jnp.zeros(12)), c, 0.5, 4.0, axis_name="r"), "r")(
        jnp.stack(jnp.split(costs, REPLICAS, axis=2)))
    for one, many in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(np.broadcast_to(one, many.shape), many, atol=1e-5)


@pytest.mark.parametrize("call, message", [
    (lambda c: soft_c_transform(jnp.zeros(3), c, -1.0), "positive"),
    (lambda c: semidual_objective(jnp.zeros(3), c, 1.0, jnp.ones(3)), "sum to one"),
    (lambda c: coupling_rows(jnp.zeros(4), c, 1.0, jnp.ones(3) / 3), "each of 4"),
    (lambda c: dual_objective(jnp.zeros(3), jnp.zeros(0), c[:, :0], 1.0), "no points")])
def test_bad_input_says_what_to_change(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((3, 4)))
