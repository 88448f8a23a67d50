"""The tied autoencoder's exact properties, copies that differ in their start alone, and whitened data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import data, systems
from jaxae.data.source import ArraySource, DataError
from jaxae.data.whitening import whiten
from jaxae.systems.base import Variables
from jaxae.systems.sparse import dictionary
from jaxae.systems.starts import from_starts, member
from jaxae.train.config import base

RNG = np.random.default_rng(0)


def _config(**model):
    config = base()
    config.system, config.batch_size, config.steps = "sparse.dictionary", 8, 4
    config.model = dictionary.defaults()
    config.model.update(dict(atoms=6, k=2, offset="zero", center=False, error="sum") | model)
    return config


def _tied(d, **model):
    example = {"x": jax.ShapeDtypeStruct((8, d), jnp.float32)}
    system = systems.build(_config(encoder="tied", sparsifier="relu", unit_norm=False, **model), example)
    state = system.init(jax.random.key(0), {"x": jnp.zeros((8, d))})
    return system, state


def test_the_norms_of_tied_atoms_do_not_matter_and_gradients_are_across_them():
    system, state = _tied(5, l1=0.3)
    x = jnp.asarray(RNG.standard_normal((8, 5)), jnp.float32)
    scaled = state.params | {"decoder": state.params["decoder"] * jnp.array([10.0, 1, 0.1, 3, 5, 10])[:, None]}
    outputs = jax.jit(lambda p: (system.encode(Variables(p, state.extra), x),
                                 system.reconstruct(Variables(p, state.extra), x)))
    for a, b in zip(outputs(state.params), outputs(scaled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert np.abs(a).max() > 0.1

    def loss(decoder):
        return system.evaluate(state._replace(params=scaled | {"decoder": decoder}), {"x": x},
                               jax.random.key(1))["loss"]

    gradient = jax.jit(jax.grad(loss))(scaled["decoder"])
    norm = jnp.linalg.norm(gradient, axis=1)
    assert norm.max() > 0.01
    np.testing.assert_allclose((gradient * scaled["decoder"]).sum(1) / norm / 10, 0, atol=1e-4)


def test_orthogonal_tied_atoms_without_a_penalty_lose_nothing_of_positive_codes():
    system, state = _tied(6)
    atoms = jnp.asarray(np.linalg.qr(RNG.standard_normal((6, 6)))[0], jnp.float32)
    codes = jnp.asarray(RNG.exponential(size=(8, 6)) * (RNG.random((8, 6)) < 0.5), jnp.float32)
    now = Variables(state.params | {"decoder": 3 * atoms}, state.extra)
    np.testing.assert_allclose(jax.jit(system.encode)(now, codes @ atoms), codes, atol=1e-5)
    sums = jax.jit(system.evaluate)(state._replace(params=now.params), {"x": codes @ atoms}, jax.random.key(0))
    assert sums["loss"] / 8 < 1e-9


def test_copies_from_several_starts_train_as_each_does_alone_on_the_same_batches():
    batches = [{"x": jnp.asarray(x)} for x in RNG.standard_normal((4, 8, 5)).astype(np.float32)]
    system = systems.build(_config(offset="mean", center=True), {"x": jax.ShapeDtypeStruct((8, 5), jnp.float32)})
    alone = system._replace(init=lambda key, batch: system.init(jax.random.fold_in(key, 1), batch))
    ends = []
    for one in (from_starts(system, 3), alone):
        state = one.prepare(one.init(jax.random.key(3), batches[0]), batches[3], jax.random.key(4))
        step = jax.jit(one.step)
        for i, batch in enumerate(batches[:3]):
            state, metrics = step(state, batch, jax.random.key(i))
        ends.append((state, metrics, one.summary(jax.jit(one.evaluate)(state, batches[3], jax.random.key(5)))))
    (copies, *found), (other, *expected) = ends
    for a, b in zip(jax.tree.leaves(member(copies, 1)), jax.tree.leaves((other.params, other.extra)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for several, own in zip(found, expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6), several, own)
    assert copies.step == 3 and len(set(found[1]["fvu"].tolist())) == 3
    with pytest.raises(ValueError, match="at least one copy"):
        from_starts(system, 0)


def test_whitened_components_have_variance_one_and_lead_back_to_the_pixels():
    pixels = np.rint(RNG.uniform(0, 255, (60, 4, 3, 1)) * np.linspace(0.2, 1, 3)[:, None]).astype(np.uint8)
    train, test = (ArraySource({"x": part, "label": np.arange(len(part))}) for part in (pixels[:50], pixels[50:]))
    white, other = whiten(train, test, 12)
    z = white.arrays()["x"]
    np.testing.assert_allclose(np.cov(z.T), np.eye(12), atol=1e-4)
    np.testing.assert_array_equal(white.arrays()["label"], np.arange(50))
    for split, source in ((white, train), (other, test)):
        back = split.info["mean"] + np.tensordot(split.arrays()["x"], split.info["basis"], 1)
        np.testing.assert_allclose(back, source.arrays()["x"] / 255, atol=1e-4)
    first, _ = whiten(train, test, 5)
    np.testing.assert_allclose(first.arrays()["x"], z[:, :5], atol=1e-5)
    with pytest.raises(DataError, match="use 1 to 12"):
        whiten(train, test, 13)


def test_photographs_can_be_whitened():
    options = {"source": "photographs", "size": 6, "channels": 1, "num_train": 300, "num_test": 50}
    dataset = data.load(options | {"whiten": 20})
    x = dataset.train.arrays()["x"]
    assert x.shape == (300, 20) and dataset.test.arrays()["x"].shape == (50, 20)
    np.testing.assert_allclose(x.std(0, ddof=1), 1, atol=1e-3)
