"""Entropic transport against linear programs, plain log-domain iterations, finite differences and translations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.optimize import linprog
from scipy.special import logsumexp

from jaxae.losses import (
    sinkhorn,
    sinkhorn_divergence,
    sinkhorn_points,
    squared_distances,
    transport_plan,
)

REPLICAS = 8


def problem(n=20, m=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, m)), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))


def clouds(n=48, m=40, d=2):
    x, y = (jax.random.normal(k, (s, d)) for k, s in zip(jax.random.split(jax.random.key(0), 2), (n, m), strict=True))
    return x, 0.7 * y + 0.5


def plain(cost, epsilon, a, b, steps=20000):
    """Textbook iterations in float64."""
    v = np.zeros(cost.shape[1])
    for _ in range(steps):
        u = -epsilon * logsumexp((v - cost) / epsilon, b=b, axis=1)
        new = -epsilon * logsumexp((u[:, None] - cost) / epsilon, b=a[:, None], axis=0)
        if np.abs(new - v).max() < 1e-12:
            break
        v = new
    return u + b @ v, v - b @ v


def test_potentials_and_value_are_those_of_plain_iterations():
    """Also at epsilons that are reached through larger ones and by absorption."""
    cost, a, b = problem()
    with jax.enable_x64(True):
        solve = jax.jit(partial(sinkhorn, tolerance=1e-10, max_iterations=20000))
        for epsilon in (0.5, 0.02, 0.002):
            u, v = plain(cost, epsilon, a, b)
            found = solve(cost, epsilon, a, b)
            assert found.marginal_error < 1e-10
            np.testing.assert_allclose(found.value, a @ u + b @ v, atol=1e-9)
            np.testing.assert_allclose(found.u, u, atol=1e-6)
            np.testing.assert_allclose(found.v, v, atol=1e-6)


def test_small_epsilon_is_the_linear_program():
    """0 <= value - LP <= epsilon x KL of the best plan, and what the plan itself costs is no less than LP."""
    cost, a, b = problem()
    a[3] = b[5] = 0.0  # points that weigh nothing
    a, b, epsilon = a / a.sum(), b / b.sum(), 1e-3
    rows, columns = np.kron(np.eye(20), np.ones(30)), np.kron(np.ones(20), np.eye(30))
    exact = linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=np.concatenate([a, b])[:-1]).fun
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in (cost, a, b))
    found = jax.jit(partial(sinkhorn, epsilon=epsilon, tolerance=1e-3, max_iterations=20000))(cost, a=a, b=b)
    plan = transport_plan(found.u, found.v, cost, epsilon, a, b)
    assert found.marginal_error < 1e-3 and not plan[3].any() and not plan[:, 5].any()
    assert -1e-3 < found.value - exact < epsilon * np.log(20 * 30)
    assert -1e-3 < (plan * cost).sum() - exact < 1e-3


def test_marginal_error_is_that_of_the_plan_when_iterations_run_out():
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in problem())
    found = jax.jit(partial(sinkhorn, epsilon=0.01, tolerance=1e-9, max_iterations=15))(cost, a=a, b=b)
    plan = transport_plan(found.u, found.v, cost, 0.01, a, b)
    error = np.abs(plan.sum(0) - b).sum() + np.abs(plan.sum(1) - a).sum()
    assert found.iterations == 15 and error > 1e-3
    np.testing.assert_allclose(found.marginal_error, error, rtol=1e-3)


def test_a_start_from_the_solution_ends_at_once():
    cost, a, b = (jnp.asarray(z, jnp.float32) for z in problem())
    solve = jax.jit(partial(sinkhorn, epsilon=0.02))
    first = solve(cost, a=a, b=b)
    again = solve(cost, a=a, b=b, v=first.v)
    assert first.iterations > 5 and again.iterations <= 2
    np.testing.assert_allclose(again.value, first.value, rtol=1e-5)


def test_gradients_are_finite_differences_and_those_of_unrolled_iterations():
    cost, a, b = problem(6, 5)
    rng = np.random.default_rng(1)
    moves = [rng.normal(size=z.shape) for z in (cost, a, b)]
    moves[1:] = [0.01 * (z - z.mean()) for z in moves[1:]]  # weights go on summing to one
    moves.append(0.3)
    with jax.enable_x64(True):
        def value(cost, a, b, epsilon, gradient="implicit"):
            steps = 2000 if gradient == "implicit" else 150
            return sinkhorn(cost, epsilon, a, b, tolerance=1e-12, max_iterations=steps, gradient=gradient).value

        at = (cost, a, b, 0.3)
        both = [jax.jit(jax.value_and_grad(partial(value, gradient=g), (0, 1, 2, 3)))(*at)
                for g in ("implicit", "unrolled")]
        np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-10)
        implicit, unrolled = (z[1] for z in both)
        np.testing.assert_allclose(implicit[0], unrolled[0], atol=1e-9)
        np.testing.assert_allclose(implicit[3], unrolled[3], atol=1e-9)
        compiled, step = jax.jit(value), 1e-5
        for i, move in enumerate(moves):
            def moved(sign, i=i, move=move):
                return compiled(*(z + sign * step * move if j == i else z for j, z in enumerate(at)))

            slope = float(moved(1) - moved(-1)) / (2 * step)
            np.testing.assert_allclose(np.vdot(implicit[i], move), slope, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(np.vdot(unrolled[i], move), slope, rtol=1e-6, atol=1e-9)


def test_blocks_of_points_are_the_cost_matrix():
    """Value, potentials and all gradients; rows that do not fill the last block, and a point without weight."""
    x, y = clouds()
    a = jnp.full(48, 1 / 47).at[7].set(0.0)
    epsilon = 0.3

    def dense(x, y, a):
        found = sinkhorn(squared_distances(x, y), epsilon, a, tolerance=1e-6)
        return found.value, found

    def points(x, y, a):
        found = sinkhorn_points(x, y, epsilon, a, block=20, tolerance=1e-6)
        return found.value, found

    (_, one), by_one = jax.jit(jax.value_and_grad(dense, (0, 1, 2), has_aux=True))(x, y, a)
    (_, other), by_other = jax.jit(jax.value_and_grad(points, (0, 1, 2), has_aux=True))(x, y, a)
    for i, j in zip(jax.tree.leaves((one[:3], by_one)), jax.tree.leaves((other[:3], by_other)), strict=True):
        np.testing.assert_allclose(i, j, rtol=1e-4, atol=2e-6)


def test_divergence_of_translated_points_is_the_squared_translation():
    """OT(x, x + t) = OT(x, x) + |t|^2 for every epsilon, with the KL term in each; its gradient by y is 2 t / n."""
    x, t = clouds(n=32)[0], jnp.array([0.5, -1.0])
    compute = jax.jit(jax.value_and_grad(partial(sinkhorn_divergence, epsilon=0.2, tolerance=1e-6), 1))
    value, by_y = compute(x, x + t)
    np.testing.assert_allclose(value, t @ t, rtol=1e-4)
    np.testing.assert_allclose(by_y, np.broadcast_to(2 * t / 32, x.shape), atol=1e-4)
    value, by_y = compute(x, x)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(by_y, 0.0, atol=1e-4)


def test_divergence_is_its_three_problems():
    """Value and all gradients, by blocks, against the general solver for x and y, x and x, y and y."""
    (x, y), a = clouds(48, 48), jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(48)), jnp.float32)

    def parts(x, y, a, epsilon):
        left, right, b = jnp.stack([x, x, y]), jnp.stack([y, x, y]), jnp.full(48, 1 / 48)
        values = jax.vmap(lambda x, y, a, b: sinkhorn(squared_distances(x, y), epsilon, a, b, tolerance=1e-6).value)(
            left, right, jnp.stack([a, a, b]), jnp.stack([b, a, b]))
        return values @ jnp.array([1.0, -0.5, -0.5])

    def blocks(x, y, a, epsilon):
        return sinkhorn_divergence(x, y, epsilon, a, block=20, tolerance=1e-6)

    one, other = (jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(x, y, a, 0.3) for f in (parts, blocks))
    for i, j in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        centre = i.mean() - j.mean() if i.shape == (48,) else 0.0  # by weights: up to a constant
        np.testing.assert_allclose(i - centre, j, rtol=1e-3, atol=2e-5)


def test_one_device_is_eight():
    """The gradient of an encoder's weights: jit over sharded points, and pmap with the mean over replicas."""
    x, y = clouds(32, 40)
    a = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(32)), jnp.float32)
    weights = jnp.array([[1.0, 0.3], [-0.2, 0.8]])

    def loss(weights, x, y, a, axis_name=None):
        return sinkhorn_divergence(x @ weights, y, 0.3, a, tolerance=1e-6, axis_name=axis_name)

    compute = jax.jit(jax.value_and_grad(loss))
    one = compute(weights, x, y, a)
    spread = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec("d"))
    sharded = compute(weights, *(jax.device_put(z, spread) for z in (x, y, a)))
    mapped = jax.pmap(lambda *z: jax.lax.pmean(jax.value_and_grad(loss)(*z, "r"), "r"), "r", in_axes=(None, 0, 0, 0))(
        weights, *(z.reshape(REPLICAS, -1, *z.shape[1:]) for z in (x, y, a)))
    for i, j, k in zip(*map(jax.tree.leaves, (one, sharded, mapped)), strict=True):
        np.testing.assert_allclose(j, i, atol=1e-5)
        np.testing.assert_allclose(k, np.broadcast_to(i, k.shape), atol=1e-5)


def test_20_000_points_fit_in_a_gibibyte():
    points = jax.ShapeDtypeStruct((20_000, 64), jnp.float32)
    step = jax.jit(jax.grad(partial(sinkhorn_divergence, epsilon=1.0, block=512)))
    assert step.lower(points, points).compile().memory_analysis().temp_size_in_bytes < 2**30


def test_vmap_solves_each_problem_to_its_end():
    costs = jnp.asarray(np.random.default_rng(2).uniform(size=(3, 10, 12)), jnp.float32)
    epsilon = jnp.array([0.5, 0.05, 0.005])
    many = jax.jit(jax.vmap(sinkhorn))(costs, epsilon)
    a, b = np.full(10, 0.1), np.full(12, 1 / 12)
    for i in range(3):
        u, v = plain(np.asarray(costs[i], np.float64), epsilon[i], a, b)
        np.testing.assert_allclose(many.value[i], a @ u + b @ v, rtol=1e-4)
    assert many.marginal_error.max() < 1e-4 and np.diff(many.iterations).min() > 0


def test_forbidden_pairs_get_no_mass_and_nan_shows():
    cost = jnp.asarray(problem()[0], jnp.float32).at[0, 1:].set(jnp.inf)
    b = jnp.full(30, 0.9 / 29).at[0].set(0.1)
    by_cost = jax.jit(jax.grad(lambda c: sinkhorn(c, 0.1, b=b).value))(cost)
    assert not by_cost[0, 1:].any() and abs(by_cost[0, 0] - 0.05) < 1e-4
    found = jax.jit(lambda c: sinkhorn(c, 0.1))(cost.at[3, 4].set(jnp.nan))
    assert np.isnan(found.value) and found.iterations < 200


@pytest.mark.parametrize("change, message", [
    (dict(epsilon=0.0), "positive"), (dict(a=jnp.full(20, 0.1)), "sum to one"), (dict(a=jnp.full(30, 1 / 30)), "20"),
    (dict(b=jnp.full(30, 1 / 30).at[:2].set(jnp.array([-1.0, 1.0 + 2 / 30]))), "nonnegative"),
    (dict(cost=jnp.zeros((0, 3))), "no points"), (dict(v=jnp.zeros(20)), "30 columns"),
    (dict(max_iterations=0), "one step")])
def test_bad_input_says_what_to_change(change, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(**(dict(cost=jnp.zeros((20, 30)), epsilon=0.1) | change))
    if "cost" in change:
        with pytest.raises(ValueError, match="dimensions"):
            sinkhorn_divergence(jnp.zeros((3, 2)), jnp.zeros((3, 4)), 0.1)
        with pytest.raises(ValueError, match="block=0"):
            sinkhorn_points(jnp.zeros((3, 2)), jnp.zeros((3, 2)), 0.1, block=0)
