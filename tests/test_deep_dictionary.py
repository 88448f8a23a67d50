"""Deep dictionaries: monotone in float64, one layer is ISTA and least squares in turn, joint below greedy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from jaxae import systems
from jaxae.sae import deep_dictionary as deep
from jaxae.sae.deep_dictionary import DeepDictionary
from jaxae.sae.ista import ista, soft_threshold
from jaxae.systems.base import variables
from jaxae.systems.sparse import deep_dictionary
from jaxae.train import fit
from jaxae.train.config import base


def planted(seed, n=200, dim=20, sizes=(10, 5), phi=np.tanh):
    rng = np.random.default_rng(seed)
    widths = (dim, *sizes)
    atoms = [rng.standard_normal((m, w)) for w, m in zip(widths, sizes, strict=False)]
    atoms = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in atoms]
    codes = rng.standard_normal((n, sizes[-1])) * (rng.random((n, sizes[-1])) < 0.3)
    y = codes
    for i, a in reversed(list(enumerate(atoms))):
        y = phi(y @ a) if i else y @ a
    return y


def start(seed, n, dim, sizes):
    rng, widths = np.random.default_rng(seed + 100), (dim, *sizes)
    atoms = tuple(jnp.asarray(0.5 * rng.standard_normal((m, w))) for w, m in zip(widths, sizes, strict=False))
    return DeepDictionary(atoms, jnp.asarray(rng.standard_normal((n, sizes[-1]))))


@pytest.mark.parametrize("z_step", ["prox", "inverse"])
def test_linear_layers_never_raise_the_objective(z_step):
    """Three layers, exact least squares, no guard, no norms: 200 passes of four changes, each to 1e-9."""
    with jax.enable_x64(True):
        x = jnp.asarray(planted(0, 60, 12, (8, 6, 4), lambda y: y) + 0.1 * np.random.default_rng(1).standard_normal(
            (60, 12)))
        state = start(0, 60, 12, (8, 6, 4))
        run = jax.jit(partial(deep.fit, mu=0.5, steps=200, phi="linear", z_step=z_step, inner=1, guard=False,
                              ridge=0.0))
        end, trace = run(state, x)
        first = deep.objective(state.dictionaries, state.codes, x, 0.5, "linear")
        values = np.concatenate([[first], np.asarray(trace).ravel()])
        assert np.diff(values).max() < 1e-9 * values[0]
        assert values[-1] < 0.2 * values[1] or values[-1] < 0.05 * values[0]
        np.testing.assert_allclose(values[-1], deep.objective(end.dictionaries, end.codes, x, 0.5, "linear"))


def test_one_layer_is_ista_and_least_squares_in_turn():
    mu = 0.3
    with jax.enable_x64(True):
        x, state = jnp.asarray(planted(2, 50, 12, (7,))), start(2, 50, 12, (7,))
        atoms, codes, data, expected = np.asarray(state.dictionaries[0]), np.asarray(state.codes), np.asarray(x), []
        for _ in range(50):
            atoms = np.linalg.lstsq(codes, data, rcond=None)[0]
            scale = np.linalg.norm(atoms, 2) ** 2
            expected.append(np.square(data - codes @ atoms).sum() + mu * np.abs(codes).sum())
            codes = codes + (data - codes @ atoms) @ atoms.T / scale
            codes = np.sign(codes) * np.maximum(np.abs(codes) - mu / (2 * scale), 0)
            expected.append(np.square(data - codes @ atoms).sum() + mu * np.abs(codes).sum())
        for z_step in ("prox", "inverse"):
            run = jax.jit(partial(deep.fit, mu=mu, steps=50, z_step=z_step, inner=1, guard=False, ridge=0.0))
            _, trace = run(state, x)
            np.testing.assert_allclose(np.asarray(trace).ravel(), expected, rtol=1e-9)


def test_ista_reaches_the_lasso():
    x, atoms = jax.random.normal(jax.random.key(0), (5, 12)), jax.random.normal(jax.random.key(1), (20, 12))
    found = jax.jit(partial(ista, mu=2.0, steps=3000))(x, atoms)
    # its objective is |x - z D|^2 / (2 d) + alpha |z|
    lasso = Lasso(alpha=2.0 / 24, fit_intercept=False, tol=1e-6, max_iter=100000)
    lasso.fit(np.float64(atoms).T, np.float64(x).T)
    np.testing.assert_allclose(found, lasso.coef_, atol=2e-3)
    assert np.count_nonzero(found == 0) > 20


def test_with_tanh_every_change_helps_and_the_joint_fit_is_better_than_the_greedy_one():
    x, mu = jnp.asarray(planted(3), jnp.float32), 0.05
    first = jax.jit(partial(deep.greedy, sizes=(10, 5), mu=mu, steps=30))(jax.random.key(0), x)
    end, trace = jax.jit(partial(deep.fit, mu=mu, steps=100))(first, x)
    values = np.concatenate([[deep.objective(first.dictionaries, first.codes, x, mu)], np.asarray(trace).ravel()])
    assert np.diff(values).max() < 1e-4 * values[0]

    def error(state):
        return float(jnp.linalg.norm(x - deep.layers(state.dictionaries, state.codes)[0]) / jnp.linalg.norm(x))

    assert values[-1] < 0.7 * values[0] and error(end) < 0.85 * error(first)
    for state in (first, end):
        for atoms, norm in zip(state.dictionaries, state.norms, strict=True):
            assert np.linalg.norm(atoms, axis=1).max() <= norm * (1 + 1e-5)
    codes = jax.jit(partial(deep.encode, mu=mu, steps=100))(end.dictionaries, x)
    np.testing.assert_allclose(deep.objective(end.dictionaries, codes, x, mu), values[-1], rtol=0.01)


def test_layers_apply_phi_between_dictionaries_and_not_to_the_data():
    state = start(5, 4, 3, (3, 2))
    a, b = state.dictionaries
    np.testing.assert_allclose(deep.layers(state.dictionaries, state.codes)[0], np.tanh(state.codes @ b) @ a, rtol=1e-5)
    assert soft_threshold(jnp.array([-3.0, 0.5, 3.0]), 1.0).tolist() == [-2.0, 0.0, 2.0]


def test_what_does_not_exist_is_said():
    state = start(5, 4, 3, (3, 2))
    with pytest.raises(ValueError, match="not 'relu'"):
        deep.mm_step(state, jnp.zeros((4, 3)), 0.1, "relu")
    with pytest.raises(ValueError, match="'newton'"):
        deep.mm_step(state, jnp.zeros((4, 3)), 0.1, z_step="newton")


def system_of(**model):
    config = base()
    config.system, config.model = "sparse.deep_dictionary", deep_dictionary.defaults()
    config.model.update(dict(sizes=(6, 3), mu=0.05, phi="linear", z_step="inverse", guard=False, greedy_steps=4,
                             examples=40, encode_steps=10) | model)
    return systems.build(config, {"x": jax.ShapeDtypeStruct((8, 12), jnp.float32)})


def test_runs_side_by_side_prepare_greedily_and_then_by_passes_over_all_data():
    x, system = jnp.asarray(planted(7, 40, 12, (6, 3)), jnp.float32), system_of(passes=2)
    x += 0.3 * jax.random.normal(jax.random.key(1), x.shape)

    def run(key):
        first = system.prepare(system.init(key, {"x": x[:8]}), {"x": x}, key)
        return first, system.prepare(first._replace(step=jnp.int32(3)), {"x": x}, key)

    def expected(key):
        first = deep.greedy(key, x, (6, 3), 0.05, 4, "linear")
        return first, deep.fit(first, x, 0.05, 2, "linear", z_step="inverse", guard=False)[0]

    keys = jnp.stack([jax.random.key(i) for i in range(2)])
    for found, wanted in zip(jax.jit(jax.vmap(run))(keys), jax.jit(jax.vmap(expected))(keys), strict=True):
        for layer, atoms in enumerate(wanted.dictionaries):
            np.testing.assert_allclose(found.params[f"layer{layer}"], atoms, atol=1e-4)
        np.testing.assert_allclose(found.extra.codes, wanted.codes, atol=1e-4)
        for i in range(2):
            value = deep.objective(tuple(a[i] for a in wanted.dictionaries), wanted.codes[i], x, 0.05, "linear")
            np.testing.assert_allclose(found.extra.objective[i], value / 40, rtol=1e-4)
    with pytest.raises(ValueError, match="prepare_examples=0"):
        jax.eval_shape(system.prepare, jax.eval_shape(system.init, keys[0], {"x": x[:8]}), {"x": x[:30]}, keys[0])
    with pytest.raises(ValueError, match="at least one layer"):
        system_of(sizes=())


def test_the_training_loop_lowers_the_objective_and_measures_examples_it_has_not_seen():
    x = np.float32(planted(8, 60, 12, (6, 3)))
    system = system_of(sizes=(3,), greedy_steps=1)
    state, history = fit(system, dict(x=x[:40], test_x=x[40:]), 12, jax.random.key(0), batch_size=8, record_every=1,
                         prepare_every=1, prepare_examples=0)
    values = [row["objective"] for row in history]
    assert max(np.diff(values)) < 1e-5 * values[0] and values[-1] < 0.9 * values[0]
    now, unseen = variables(state), jnp.asarray(x[40:])
    x_hat = jax.jit(lambda now, x: system.decode(now, system.encode(now, x)))(now, unseen)
    np.testing.assert_allclose(np.linalg.norm(x_hat - unseen) / np.linalg.norm(unseen),
                               history[-1]["test/relative_error"], rtol=1e-3)
