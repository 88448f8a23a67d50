"""Transcoders and crosscoders: the loss of the system is that by hand, and their parts are there."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import systems
from jaxae.systems.base import variables
from jaxae.systems.sparse import dictionary
from jaxae.train.config import base

N, M = 12, 10


def built(batch, **model):
    config = base()
    config.system, config.model, config.batch_size = "sparse.dictionary", dictionary.defaults(), N
    config.model.update(dict(atoms=M, sparsifier="relu", error="sum", unit_norm=False, offset="zero") | model)
    system = systems.build(config, jax.eval_shape(lambda: batch))
    state = system.init(jax.random.key(1), batch)
    keys = iter(jax.random.split(jax.random.key(2), 10))
    params = {name: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape) for name, leaf in state.params.items()}
    return system, state._replace(params=params)


def relu_codes(x, params):
    return np.maximum(np.asarray(x) @ params["encoder"] + params["bias"], 0.0)


def test_a_crosscoder_weighs_codes_by_the_norms_of_all_layers():
    x = jax.random.normal(jax.random.key(0), (N, 3, 4))  # three layers of width 4 are one input
    system, state = built({"x": x}, l1=0.7, l1_by_norm=True, layers=3, center=False)
    params = jax.tree.map(np.asarray, state.params)
    z, flat = relu_codes(x.reshape(N, -1), params), np.asarray(x).reshape(N, -1)
    norms = np.linalg.norm(params["decoder"].reshape(M, 3, 4), axis=-1).sum(-1)
    expected = np.square(flat - z @ params["decoder"] - params["offset"]).sum(-1) + 0.7 * (z * norms).sum(-1)
    sums = jax.jit(system.evaluate)(state, {"x": x}, jax.random.key(3))
    np.testing.assert_allclose(sums["loss"] / sums["count"], expected.mean(), rtol=1e-5)
    assert system.reconstruct(variables(state), x).shape == x.shape


def test_a_skip_transcoder_adds_a_linear_map_of_its_input():
    keys = jax.random.split(jax.random.key(4), 2)
    batch = {"x": jax.random.normal(keys[0], (N, 6)), "y": jax.random.normal(keys[1], (N, 5))}
    system, state = built(batch, skip=True, center=False, l1=0.2, saturation=1.5)
    params = jax.tree.map(np.asarray, state.params)
    z, x = relu_codes(batch["x"], params), np.asarray(batch["x"])
    y_hat = z @ params["decoder"] + params["offset"] + x @ params["skip"]
    expected = np.square(np.asarray(batch["y"]) - y_hat).sum(-1) + 0.2 * (np.tanh(1.5 * z) / 1.5).sum(-1)
    moved, seen = jax.jit(system.step)(state, batch, jax.random.key(5))
    np.testing.assert_allclose(seen["loss"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(system.reconstruct(variables(state), batch["x"]), y_hat, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(moved.params["skip"] - state.params["skip"]).max()) > 0
