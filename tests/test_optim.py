"""Schedules and chains against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxae import optim


def config(**changes):
    return ConfigDict(optim.defaults() | changes)


@pytest.mark.parametrize("name, expected", [
    ("constant", [0.0, 0.05, 0.1, 0.1, 0.1]),
    ("linear", [0.0, 0.05, 0.1, 0.1 * (0.5 + 0.5 * 0.2), 0.1 * 0.2]),
    ("cosine", [0.0, 0.05, 0.1, 0.1 * (0.8 * 0.5 + 0.2), 0.1 * 0.2]),
])
def test_schedule_is_warm_up_then_its_decay(name, expected):
    rate = optim.schedule(config(schedule=name, learning_rate=0.1, warmup_steps=10, final_scale=0.2), steps=110)
    np.testing.assert_allclose([jax.jit(rate)(step) for step in (0, 5, 10, 60, 110)], expected, rtol=1e-5, atol=1e-8)


def test_decay_steps_replace_the_length_of_the_run():
    rate = optim.schedule(config(schedule="linear", decay_steps=50), steps=1000)
    np.testing.assert_allclose(rate(50), 0.0, atol=1e-9)


def test_clip_bounds_the_global_norm():
    tx = optim.optimizer(config(name="sgd", b1=0.0, learning_rate=1.0, clip=1.0), steps=10)
    grads = {"a": jnp.full(4, 3.0), "b": jnp.full(9, 2.0)}
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-6)
    np.testing.assert_allclose(updates["a"] / updates["b"][0], -3.0 / -2.0, rtol=1e-6)


def test_clip_elements_bounds_each_number_by_itself():
    tx = optim.optimizer(config(name="sgd", b1=0.0, learning_rate=1.0, clip_elements=1.0), steps=10)
    grads = {"a": jnp.array([3.0, -2.0, 0.5]), "b": jnp.array([-0.1])}
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
    np.testing.assert_allclose(jnp.concatenate([updates["a"], updates["b"]]), [-1.0, 1.0, -0.5, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "sgd", "rmsprop", "lion", "adafactor"])
def test_every_optimizer_lowers_a_quadratic(name):
    rate = 0.05 if name == "radam" else 0.02  # its first steps are short
    tx = optim.optimizer(config(name=name, learning_rate=rate), steps=100)
    params = {"w": jnp.array([1.0, -2.0])}

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)  # the gradient of |w|^2 / 2
        return (optax.apply_updates(params, updates), state), None

    (final, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=60))((params, tx.init(params)))
    assert float(jnp.sum(final["w"] ** 2)) < 0.5 * 5.0


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_weight_decay_shrinks_what_it_does_not_spare(name):
    """Without gradients a step multiplies by 1 - rate * decay, or does nothing to a spared name at any depth."""
    tx = optim.optimizer(config(name=name, learning_rate=0.1, weight_decay=0.5, decay_exclude=("codes", "bias"),
                                clip=1.0), steps=10)
    params = {"codes": jnp.full(3, 2.0), "net": {"dense": {"kernel": jnp.full(4, 3.0), "bias": jnp.full(2, 5.0)}},
              "codes_of_another_name": jnp.full(2, 1.0)}
    zeros, state, moved = jax.tree.map(jnp.zeros_like, params), tx.init(params), params
    for _ in range(3):
        updates, state = jax.jit(tx.update)(zeros, state, moved)
        moved = optax.apply_updates(moved, updates)
    np.testing.assert_array_equal(moved["codes"], params["codes"])
    np.testing.assert_array_equal(moved["net"]["dense"]["bias"], params["net"]["dense"]["bias"])
    np.testing.assert_allclose(moved["net"]["dense"]["kernel"], 3.0 * 0.95**3, rtol=1e-6)
    np.testing.assert_allclose(moved["codes_of_another_name"], 0.95**3, rtol=1e-6)


@pytest.mark.parametrize("changes, message", [
    (dict(name="adm"), "optim.name='adm'"), (dict(schedule="step"), "optim.schedule='step'"),
    (dict(schedule="cosine", warmup_steps=10), "leaves no steps"), (dict(weight_decay=0.1), "weight_decay is not used"),
])
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        optim.optimizer(config(**changes), steps=10)
