"""Each builder against a system whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxae.inference import langevin
from jaxae.systems import builders, compose
from jaxae.systems.base import Objective, variables


def regression(key, n=64, d=3):
    keys = jax.random.split(key, 2)
    x = jax.random.normal(keys[0], (n, d))
    return {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5]) + 0.1 * jax.random.normal(keys[1], (n,))}


def linear_init(key, batch):
    return {"w": jnp.zeros(batch["x"].shape[1])}, ()


def squared(params, extra, batch, key, train):
    return Objective((batch["x"] @ params["w"] - batch["y"]) ** 2, {"w0": params["w"][0]}, extra)


def run(system, batch, steps, key=None):
    key = jax.random.key(0) if key is None else key
    state = jax.jit(system.init)(key, batch)
    step = jax.jit(system.step)
    for i in range(steps):
        state, metrics = step(state, batch, jax.random.fold_in(key, i))
    return state, metrics


def test_one_loss_reaches_least_squares():
    batch = regression(jax.random.key(1))
    state, metrics = run(builders.one_loss(linear_init, squared, optax.adam(0.1)), batch, 400)
    best = np.linalg.lstsq(np.asarray(batch["x"]), np.asarray(batch["y"]), rcond=None)[0]
    np.testing.assert_allclose(state.params["w"], best, atol=1e-3)
    assert int(state.step) == 400
    np.testing.assert_allclose(metrics["loss"], np.mean((batch["x"] @ best - batch["y"]) ** 2), rtol=1e-3)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_microbatches_give_the_gradient_of_the_whole_batch(accumulate):
    batch = regression(jax.random.key(2))
    whole, _ = run(builders.one_loss(linear_init, squared, optax.sgd(0.1)), batch, 3)
    parts, _ = run(builders.one_loss(linear_init, squared, optax.sgd(0.1), accumulate=accumulate), batch, 3)
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-5)


def test_accumulation_that_does_not_divide_the_batch_is_refused():
    batch = regression(jax.random.key(2), n=10)
    with pytest.raises(ValueError, match="does not divide the batch of 10"):
        run(builders.one_loss(linear_init, squared, optax.sgd(0.1), accumulate=4), batch, 1)


def test_average_is_the_recursion_with_warm_up_and_is_what_evaluation_uses():
    batch = regression(jax.random.key(3))
    system = builders.one_loss(linear_init, squared, optax.sgd(0.05), average=0.9)
    state = system.init(jax.random.key(0), batch)
    expected = np.zeros(3)
    for i in range(40):
        state, _ = jax.jit(system.step)(state, batch, jax.random.key(i))
        decay = min(0.9, (1 + i) / (10 + i))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.average["w"], expected, rtol=1e-5)
    sums = jax.jit(system.evaluate)(state, batch, jax.random.key(0))
    np.testing.assert_allclose(sums["loss"] / sums["count"],
                               np.mean((batch["x"] @ expected - batch["y"]) ** 2), rtol=1e-5)
    assert variables(state).params is state.average


def test_evaluation_leaves_out_padded_rows_even_if_they_hold_nan():
    batch = regression(jax.random.key(4), n=8)
    system = builders.one_loss(linear_init, squared, optax.sgd(0.1))
    state = system.init(jax.random.key(0), batch)
    padded = {"x": batch["x"].at[5:].set(jnp.nan), "y": batch["y"], "valid": jnp.array([1.0] * 5 + [0.0] * 3)}
    sums = jax.jit(system.evaluate)(state, padded, jax.random.key(0))
    assert float(sums["count"]) == 5
    np.testing.assert_allclose(sums["loss"], np.sum(np.asarray(batch["y"])[:5] ** 2), rtol=1e-5)


def test_players_move_only_what_they_own_and_find_the_saddle():
    # min_x max_y  x^2/2 + 2 x y - y^2/2 - x  has its saddle where x + 2y = 1 and 2x - y = 0.
    def value(params):
        x, y = params["x"], params["y"]
        return x**2 / 2 + 2 * x * y - y**2 / 2 - x

    def descend(params, extra, batch, key, train):
        return Objective(value(params), {}, extra)

    def ascend(params, extra, batch, key, train):
        return Objective(-value(params), {}, extra)

    def init(key, batch):
        return {"x": jnp.array(3.0), "y": jnp.array(-1.0)}, ()

    team = [builders.Player("x", descend, optax.sgd(0.05), ("x",)),
            builders.Player("y", ascend, optax.sgd(0.05), ("y",), updates=2)]
    system = builders.players(init, team)
    batch = {"x": jnp.zeros((2, 1))}
    state, metrics = run(system, batch, 1)
    # One step by hand: x moves once at y0, then y twice at the new x.
    x = 3.0 - 0.05 * (3.0 + 2 * -1.0 - 1.0)
    y = -1.0
    for _ in range(2):
        y += 0.05 * (2 * x - y)
    np.testing.assert_allclose([state.params["x"], state.params["y"]], [x, y], rtol=1e-6)
    assert {"x/loss", "y/loss", "loss"} <= set(metrics)
    state, _ = run(system, batch, 600)
    np.testing.assert_allclose([state.params["x"], state.params["y"]], [0.2, 0.4], atol=1e-4)


def test_closed_form_principal_components_reconstruct_as_svd_does():
    data = jax.random.normal(jax.random.key(5), (200, 6)) * jnp.array([5.0, 3.0, 1.0, 0.5, 0.2, 0.1])

    def init(key, batch):
        return {"basis": jnp.zeros((batch["x"].shape[1], 2)), "mean": jnp.zeros(batch["x"].shape[1])}, ()

    def solve(params, data, key):
        mean = data["x"].mean(0)
        basis = jnp.linalg.svd(data["x"] - mean, full_matrices=False)[2][:2].T
        return {"basis": basis, "mean": mean}

    def loss(params, extra, batch, key, train):
        centred = batch["x"] - params["mean"]
        return Objective(jnp.sum((centred - centred @ params["basis"] @ params["basis"].T) ** 2, -1), {}, extra)

    system = builders.closed_form(init, solve, loss)
    batch = {"x": data}
    state = jax.jit(system.prepare)(system.init(jax.random.key(0), batch), batch, jax.random.key(1))
    before = state.params
    state, metrics = jax.jit(system.step)(state, batch, jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, before, state.params)
    values = np.linalg.svd(np.asarray(data - data.mean(0)), compute_uv=False)
    np.testing.assert_allclose(metrics["loss"], np.sum(values[2:] ** 2) / 200, rtol=1e-4)


def test_posterior_sampler_draws_the_gaussian_posterior():
    # x_i ~ N(theta, 1), theta ~ N(0, 10^2): the posterior is Gaussian with these moments.
    x = 1.0 + jax.random.normal(jax.random.key(6), (20, 1))
    precision = 20 + 1 / 100
    mean, variance = float(x.sum()) / precision, 1 / precision

    system = builders.posterior_sampler(
        lambda key, batch: ({"theta": jnp.zeros(1)}, ()),
        lambda params, batch, key: -0.5 * jnp.sum((batch["x"] - params["theta"]) ** 2, -1),
        lambda params: -0.5 * jnp.sum(params["theta"] ** 2) / 100,
        langevin(0.005), lambda params: (), examples=20, keep=2000, every=5, burn_in=200)
    batch = {"x": x}
    state = system.init(jax.random.key(0), batch)
    state, _ = jax.lax.scan(lambda s, k: system.step(s, batch, k), state,
                            jax.random.split(jax.random.key(7), 200 + 5 * 2000))
    draws = np.asarray(state.extra.draws["theta"])[:, 0]
    assert int(state.extra.count) == 2000
    # Effective sample size is some 500: three standard errors, plus the O(h) bias of the variance (5%).
    assert abs(draws.mean() - mean) < 3 * np.sqrt(variance / 500)
    assert abs(draws.var() / variance - 1) < 0.25
    sums = jax.jit(system.evaluate)(state, batch, jax.random.key(0))
    log_predictive = np.log(np.mean(np.exp(-0.5 * (np.asarray(x)[:, 0] - draws[:, None]) ** 2), 0)).sum()
    np.testing.assert_allclose(sums["log_predictive"], log_predictive, rtol=1e-4)


def test_together_trains_each_system_as_it_would_alone():
    batch = regression(jax.random.key(8))
    slow = builders.one_loss(linear_init, squared, optax.sgd(0.01))
    fast = builders.one_loss(linear_init, squared, optax.adam(0.1))
    both, metrics = run(compose.together({"slow": slow, "fast": fast}), batch, 10)
    for name, system in (("slow", slow), ("fast", fast)):
        alone, seen = run(system, batch, 10)
        np.testing.assert_allclose(both.params[name]["w"], alone.params["w"], rtol=1e-6)
        np.testing.assert_allclose(metrics[f"{name}/loss"], seen["loss"], rtol=1e-6)
    joint = compose.together({"slow": slow, "fast": fast})
    report = joint.summary(joint.evaluate(both, batch, jax.random.key(0)))
    assert report["loss"] == pytest.approx(float(report["slow/loss"] + report["fast/loss"]))


def test_phases_run_in_order_and_hand_their_parameters_on():
    batch = regression(jax.random.key(9))

    def shrink(params, extra, batch, key, train):
        return Objective(jnp.sum(params["w"] ** 2), {"norm": jnp.sum(params["w"] ** 2)}, extra)

    first = builders.one_loss(linear_init, squared, optax.adam(0.1))
    second = builders.one_loss(linear_init, shrink, optax.sgd(0.25))
    state, metrics = run(compose.in_phases([(first, 5), (second, 3)]), batch, 8)
    alone, _ = run(first, batch, 5)
    np.testing.assert_allclose(state.params["w"], alone.params["w"] * 0.5**3, rtol=1e-5)
    assert np.isnan(metrics["w0"]) and np.isfinite(metrics["norm"])
