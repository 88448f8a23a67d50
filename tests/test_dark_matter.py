"""The decomposition of errors on activations of which every term is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import data
from jaxae.data.dictionaries import dictionary
from jaxae.metrics import dark_matter as dm
from jaxae.systems.base import System, Variables
from jaxae.train.evaluators import EVALUATORS

RNG = np.random.default_rng(0)
N, D, SPLIT = 6000, 12, 3000
DECOMPOSE = jax.jit(dm.decompose_error, static_argnums=2)
MODEL = jax.jit(dm.activation_model, static_argnames="drop_fraction")


def _normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_least_squares_are_numpys_with_an_intercept():
    x, y = _normal(80, 5) + 3, _normal(80, 2) - 1
    found = jax.jit(dm.fit_linear)(x, y)
    expected = np.linalg.lstsq(np.c_[x, np.ones(80)].astype(np.float64), y, rcond=None)[0]
    np.testing.assert_allclose(found.weight, expected[:5], atol=1e-4)
    np.testing.assert_allclose(found.bias, expected[5], atol=1e-4)
    np.testing.assert_allclose(found(jnp.asarray(x)), np.c_[x, np.ones(80)] @ expected, atol=1e-4)
    ridge = jax.jit(lambda x, y: dm.fit_linear(x, y, 0.5))(x, y)
    cx, cy = x - x.mean(0), y - y.mean(0)
    solved = np.linalg.solve(cx.T @ cx / 80 + 0.5 * np.eye(5), cx.T @ cy / 80)
    np.testing.assert_allclose(ridge.weight, solved, atol=1e-4)
    flat = x * np.array([1, 1, 1, 1, 0], np.float32) + 2              # a direction that is not spanned
    assert np.isfinite(jax.jit(dm.fit_linear)(flat, y).weight).all()


def test_r2_is_centred_and_scores_each_dimension():
    y = _normal(200, 3) * [1, 2, 3] + 50
    total, each = (jax.jit(lambda y, p, per=per: dm.r2(y, p, per)) for per in ("total", "dimension"))
    prediction = np.broadcast_to(y.mean(0), y.shape).copy()
    np.testing.assert_allclose(total(y, prediction), 0, atol=1e-4)
    prediction[:, 1] = y[:, 1]
    np.testing.assert_allclose(each(y, prediction), [0, 1, 0], atol=1e-3)
    np.testing.assert_allclose(total(y, prediction), y.var(0)[1] / y.var(0).sum(), rtol=1e-3)


def test_the_error_of_a_linear_reconstruction_is_linear():
    x = _normal(N, D) + 2
    found = DECOMPOSE(x, x @ _normal(D, D) + 1, SPLIT)
    np.testing.assert_allclose([found.r2_vector, found.fvu_nonlinear], [1, 0], atol=1e-5)
    np.testing.assert_allclose(found.nonlinear, 0, atol=1e-3)
    assert found.linear.shape == (N - SPLIT, D)


def test_independent_noise_is_not_predicted_and_orthogonal_dense_terms_are():
    x = _normal(N, D)
    found = DECOMPOSE(x, x + 0.3 * _normal(N, D), SPLIT)
    np.testing.assert_allclose(found.r2_vector, 0, atol=0.01)
    np.testing.assert_allclose(found.r2_norm, 0, atol=0.01)
    np.testing.assert_allclose([found.fvu, found.fvu_nonlinear], 0.09, rtol=0.05)
    q = np.linalg.qr(RNG.standard_normal((D, D)))[0].astype(np.float32)
    codes = np.maximum(_normal(N, 6), 0)
    xhat = codes @ q[:6]                                             # dense in the orthogonal complement
    found = DECOMPOSE(xhat + _normal(N, 6) @ q[6:], xhat, SPLIT)
    np.testing.assert_allclose(found.r2_vector, 1, atol=1e-5)


def test_the_parts_add_up_and_the_norm_of_scaled_errors_is_predicted():
    scale = RNG.uniform(0.5, 3, (N, 1)).astype(np.float32)
    x = np.concatenate([scale, _normal(N, D - 1)], 1)
    error = np.sqrt(scale) * np.sign(_normal(N, D))                  # |error|^2 = D scale
    found = DECOMPOSE(x, x - error, SPLIT)
    np.testing.assert_allclose(found.linear + found.nonlinear, error[SPLIT:], atol=1e-4)
    np.testing.assert_allclose(found.r2_norm, 1, atol=1e-3)
    assert abs(found.r2_vector) < 0.02


def _planted(n=12_000):
    source, _ = dictionary(atoms=24, atom_dim=16, active=3, frequencies="zipf", zipf_exponent=0.5, num_train=n)
    return source.arrays()["factors"], source.info["atoms"], source.info["frequencies"]


def test_the_model_of_activations_has_the_terms_it_says():
    codes, atoms, often = _planted(4000)
    subspace = np.linalg.qr(RNG.standard_normal((16, 4)))[0].T.astype(np.float32)
    found = MODEL(jax.random.key(0), codes, atoms, drop_fraction=0.25, sigma_dense=0.3, sigma_introduced=0.1,
                  subspace=subspace)
    np.testing.assert_allclose(found.x - found.xhat, found.missing + found.dense - found.introduced, atol=1e-5)
    np.testing.assert_allclose(found.x, codes @ atoms + found.dense, atol=1e-5)
    rarest = np.argsort((codes > 0).mean(0), kind="stable")[:6]
    np.testing.assert_allclose(found.missing, codes[:, rarest] @ atoms[rarest], atol=1e-5)
    np.testing.assert_allclose(found.dense @ subspace.T @ subspace, found.dense, atol=1e-5)
    np.testing.assert_allclose([(found.dense @ subspace.T).std(), found.introduced.std()], [0.3, 0.1], rtol=0.05)
    never = codes * (np.arange(24) != rarest[0])                     # what never fires cannot be missed
    again = MODEL(jax.random.key(0), never, atoms, drop_fraction=0.25)
    fires = rarest[1:6]
    np.testing.assert_allclose(again.missing, never[:, fires] @ atoms[fires], atol=1e-5)


def test_introduced_noise_lowers_r2_by_its_share_of_the_variance_and_dense_noise_raises_it():
    codes, atoms, _ = _planted()
    key = jax.random.key(1)

    def r2_of(**sigmas):
        model = MODEL(key, codes, atoms, drop_fraction=0.3, **sigmas)
        found = DECOMPOSE(model.x, model.xhat, 6000)
        return float(found.r2_vector), np.asarray(found.linear), np.asarray((model.x - model.xhat)[6000:])

    clean, linear, error = r2_of(sigma_introduced=0.0)
    assert 0.2 < clean < 0.9
    explained, total = clean * error.var(0).sum(), error.var(0).sum()
    for sigma in (0.05, 0.1, 0.2):
        noisy, *_ = r2_of(sigma_introduced=sigma)
        np.testing.assert_allclose(noisy, explained / (total + 16 * sigma**2), rtol=0.05)
    subspace = np.linalg.qr(RNG.standard_normal((16, 3)))[0].T.astype(np.float32)
    dense = [r2_of(sigma_dense=s, sigma_introduced=0.0, subspace=subspace)[0] for s in (1.5, 3.0)]
    assert clean < dense[0] < dense[1]


def test_per_token_scaling_is_the_squared_correlation_of_log_norms():
    base = RNG.standard_normal(500)
    norms = np.exp(np.stack([base, 2 * base + 1, RNG.standard_normal(500), base + RNG.standard_normal(500)]))
    found = jax.jit(dm.per_token_scaling)(norms.astype(np.float32))
    np.testing.assert_allclose(found, np.corrcoef(np.log(norms)) ** 2, atol=1e-4)
    np.testing.assert_allclose(found[0, 1], 1, atol=1e-5)


@pytest.mark.parametrize("call, message", [
    (lambda: dm.fit_linear(jnp.ones((3, 2)), jnp.ones((4, 2))), "a target for each"),
    (lambda: dm.r2(jnp.ones((3, 2)), jnp.ones((3, 1))), "of the shape of y"),
    (lambda: dm.r2(jnp.ones((3, 2)), jnp.ones((3, 2)), "token"), "per 'total' or per 'dimension'"),
    (lambda: dm.decompose_error(jnp.ones((5, 2)), jnp.ones((5, 2)), 4), "2 <= split <= n - 2"),
    (lambda: dm.activation_model(jax.random.key(0), jnp.ones((5, 2)), jnp.ones((2, 2)), 1.0), r"in \[0, 1\)"),
])
def test_wrong_calls_get_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_evaluator_finds_the_error_of_a_linear_model_linear():
    x = np.random.default_rng(0).standard_normal((700, 4)).astype(np.float32)
    dataset = data.from_arrays(x[:500], test_x=x[500:])
    mixing = jnp.asarray(np.random.default_rng(1).standard_normal((4, 4)), jnp.float32)
    system = System(None, None, None, reconstruct=lambda now, x, key=None: x @ now.params)
    found = EVALUATORS["dark_matter"](system, Variables(mixing, ()), dataset, jax.random.key(0), None)
    np.testing.assert_allclose(float(found["error_r2"]), 1.0, atol=1e-5)
    assert abs(float(found["fvu_nonlinear"])) < 1e-6 < float(found["fvu"])
