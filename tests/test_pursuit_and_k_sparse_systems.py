"""Matching pursuit and a falling k in the system of sparse autoencoders: its codes are those of the pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import sae, systems
from jaxae.systems.base import variables
from jaxae.systems.sparse import dictionary
from jaxae.systems.supervised import sparse_codes
from jaxae.train.config import base

N, D, M = 16, 6, 10


def case(**model):
    """A system, its state with an offset and a bias that are not zero, and data."""
    config = base()
    config.system, config.model, config.batch_size = "sparse.dictionary", dictionary.defaults(), N
    config.model.update(dict(atoms=M, k=2, offset="mean") | model)
    keys = jax.random.split(jax.random.key(3), 3)
    x = 0.5 + jax.random.normal(keys[0], (N, D))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
    state = system.prepare(system.init(keys[1], {"x": x}), {"x": x}, keys[1])
    params = state.params | {"offset": x.mean(0)}
    if "bias" in params:
        params["bias"] = 0.3 * jax.random.normal(keys[2], (M,))
    return system, state._replace(params=params), x


def trained_and_measured(system, state, x, updates):
    @jax.jit
    def run(state):
        state, seen = jax.lax.scan(lambda now, _: system.step(now, {"x": x}, jax.random.key(0)), state, None, updates)
        return seen["l0"], system.encode(variables(state), x), system.reconstruct(variables(state), x), state.params

    return run(state)


@pytest.mark.parametrize("k_test", [0, 5])
def test_codes_of_the_pursuit_system_are_matching_pursuit_on_its_atoms(k_test):
    system, state, x = case(sparsifier="pursuit", encoder="none", k_test=k_test)
    l0, z, x_hat, params = trained_and_measured(system, state, x, 5)
    assert set(params) == {"decoder", "offset"} and np.all(l0 <= 2)
    np.testing.assert_allclose(np.linalg.norm(params["decoder"], axis=1), 1.0, rtol=1e-5)
    assert np.abs(params["decoder"] - state.params["decoder"]).max() > 1e-3
    expected = sae.matching_pursuit(x - params["offset"], params["decoder"], k_test or 2)
    np.testing.assert_allclose(z, expected.codes, atol=1e-5)
    np.testing.assert_allclose(x_hat, x - expected.residual, atol=1e-5)


@pytest.mark.parametrize("k_test", [0, 4])
def test_k_falls_while_training_and_tied_codes_keep_their_sign(k_test):
    system, state, x = case(encoder="tied", rectify=False, k=2, k_start=M, k_steps=8, k_test=k_test, center=False)
    l0, z, x_hat, params = trained_and_measured(system, state, x, 11)
    np.testing.assert_array_equal(l0, [10, 9, 8, 7, 6, 5, 4, 3, 2, 2, 2])
    atoms = params["decoder"] / np.linalg.norm(params["decoder"], axis=1, keepdims=True)
    pre = np.asarray(x @ atoms.T + params["bias"])
    kept = pre.argsort(1).argsort(1) >= M - (k_test or 2)
    np.testing.assert_allclose(z, np.where(kept, pre, 0.0), atol=1e-5)
    np.testing.assert_allclose(x_hat, np.where(kept, pre, 0.0) @ atoms + params["offset"], atol=1e-5)


def test_rectified_codes_are_those_of_the_k_largest_that_are_positive():
    system, state, x = case(encoder="tied", k=8, center=False)
    z = jax.jit(lambda state: system.encode(variables(state), x))(state)
    pre = np.asarray(x @ sae.unit_rows(state.params["decoder"]).T + state.params["bias"])
    kept = pre.argsort(1).argsort(1) >= M - 8
    assert np.any(kept & (pre < 0)) and np.all(np.asarray(z) >= 0)
    np.testing.assert_allclose(z, np.where(kept, np.maximum(pre, 0.0), 0.0), atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_reading_classes_moves_the_dictionary_unless_it_is_frozen(frozen):
    config = base()
    config.system, config.model, config.batch_size = "supervised.sparse_codes", sparse_codes.defaults(), N
    config.model.update(dict(atoms=M, k=2, k_test=4, encoder="tied", rectify=False, center=False, frozen=frozen,
                             classes=2))
    keys = jax.random.split(jax.random.key(5), 2)
    x = jax.random.normal(keys[0], (N, D))
    batch = {"x": x, "label": (x[:, 0] > 0).astype(jnp.int32)}
    system = systems.build(config, jax.eval_shape(lambda: batch))
    start = system.init(keys[1], batch)

    @jax.jit
    def run(state):
        state, seen = jax.lax.scan(lambda now, _: system.step(now, batch, keys[1]), state, None, 40)
        z, readout = system.encode(variables(state), x), state.params["readout"]
        logits = z @ readout["kernel"] + readout["bias"]
        own = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1).mean()
        return state, seen["loss"], z, own, system.evaluate(state, batch, keys[1])

    state, losses, z, own, sums = run(start)
    assert np.all((z != 0).sum(1) == 4) and losses[-1] < losses[0]
    np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-5)  # a read-out of zeros
    np.testing.assert_allclose(sums["loss"] / sums["count"], own, rtol=1e-5)
    moved = float(np.abs(state.params["decoder"] - start.params["decoder"]).max())
    assert moved == 0 if frozen else moved > 1e-4
