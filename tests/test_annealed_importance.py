"""Annealed importance sampling against normalisers that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxae.inference import annealed_importance_sampling, annealed_log_likelihood


def test_log_likelihood_of_a_linear_decoder_is_the_closed_form():
    rng = np.random.default_rng(0)
    loading, scale = rng.normal(size=(6, 3)).astype(np.float32), 0.3
    x = rng.multivariate_normal(np.zeros(6), loading @ loading.T + scale**2 * np.eye(6), size=4).astype(np.float32)
    every = jnp.tile(x, (64, 1))

    def log_px(z):
        error = (every - z @ loading.T) / scale
        return -0.5 * jnp.sum(error**2, -1) - 6 * (jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi))

    got = jax.jit(lambda key: annealed_log_likelihood(key, log_px, 4, 3, 64, 1000, 5))(jax.random.key(0))
    truth = multivariate_normal(np.zeros(6), loading @ loading.T + scale**2 * np.eye(6)).logpdf(x)
    np.testing.assert_allclose(got, truth, atol=0.15)


def test_the_mean_weight_is_the_ratio_of_normalisers_even_on_a_short_path():
    """N(0, 1) to 3 exp(-(z - 1)^2 / (2 0.5^2)) in 8 temperatures, unadapted: unbiased, and exact draws reweighted."""
    n = 40_000

    @jax.jit
    def run(key):
        first, second = jax.random.split(key)
        return annealed_importance_sampling(
            second, jax.random.normal(first, (n, 1)), lambda z: -0.5 * z[:, 0] ** 2,
            lambda z: jnp.log(3.0) - 0.5 * ((z[:, 0] - 1.0) / 0.5) ** 2, steps=8, leapfrog=3, step_size=0.3,
            adapt=False)

    found = run(jax.random.key(1))
    weights = np.exp(np.asarray(found.log_weights, np.float64))
    assert abs(weights.mean() - 1.5) < 5 * weights.std() / np.sqrt(n)
    assert weights.std() > 0.1 and 0.5 < float(found.acceptance) < 1.0
    z = np.asarray(found.z)[:, 0]
    np.testing.assert_allclose(np.average(z, weights=weights), 1.0, atol=0.03)
    np.testing.assert_allclose(np.average((z - 1.0) ** 2, weights=weights), 0.25, rtol=0.08)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="steps >= 1"):
        annealed_importance_sampling(jax.random.key(0), jnp.zeros((2, 1)), jnp.ravel, jnp.ravel, steps=0)
