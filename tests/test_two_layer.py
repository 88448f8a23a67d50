"""The importance-weighted autoencoder of two stochastic layers against the likelihood of a linear-Gaussian model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxae import systems
from jaxae.systems.base import variables
from jaxae.systems.gaussian import two_layer_iwae
from jaxae.train.config import base

SCALE, NOISE = 0.6, 0.5  # standard deviations of x given h1, and of h1 given h2
LOADING = np.array([[1.0, -0.5], [0.3, 0.8], [0.7, 0.2]])  # h1 [2] -> x [3]
LINK = np.array([[0.9], [-0.4]])  # h2 [1] -> h1 [2]
SHIFT = np.array([0.2, -0.1, 0.4])


def affine(matrix, bias, log_std):
    """Parameters of a layer that gives (matrix @ h + bias, log_std)."""
    width = len(log_std)
    return {"dense0": {"kernel": jnp.asarray(np.concatenate([matrix.T, np.zeros((matrix.shape[1], width))], 1)),
                       "bias": jnp.asarray(np.concatenate([bias, log_std]))}}


@pytest.fixture(scope="module")
def model():
    """The system, its parameters, data and log p(x); q(h1 | x) and q(h2 | h1) are a little wider than they should."""
    config = base()
    config.system, config.model = "gaussian.two_layer_iwae", two_layer_iwae.defaults()
    config.model.update(dict(features=(), between=(), latents=(2, 1), likelihood="gaussian", scale=SCALE, samples=5))
    prior1 = LINK @ LINK.T + NOISE**2 * np.eye(2)  # covariance of h1
    total = LOADING @ prior1 @ LOADING.T + SCALE**2 * np.eye(3)  # of x
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(SHIFT, total, size=6)
    gain = prior1 @ LOADING.T @ np.linalg.inv(total)
    std1 = 1.1 * np.sqrt(np.diag(prior1 - gain @ LOADING @ prior1))
    gain2 = LINK.T @ np.linalg.inv(prior1)
    std2 = 1.1 * np.sqrt(np.diag(np.eye(1) - gain2 @ LINK))
    params = {"encoder": {"mlp": affine(gain, -gain @ SHIFT, np.log(std1))},
              "upper": affine(gain2, np.zeros(1), np.log(std2)),
              "lower": affine(LINK, np.zeros(2), np.full(2, np.log(NOISE))),
              "decoder": {"mlp": {"dense0": {"kernel": jnp.asarray(LOADING.T), "bias": jnp.asarray(SHIFT)}}}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    batch = {"x": jnp.asarray(x, jnp.float32)}
    system = systems.build(config, batch)
    state = system.init(jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, params)
    return system, state._replace(params=params), batch, multivariate_normal(SHIFT, total).logpdf(x)


def test_bound_of_five_thousand_samples_is_the_log_likelihood(model):
    system, state, batch, log_px = model
    weights = jax.jit(lambda key: system.log_weights(variables(state), key, batch["x"], 5000))(jax.random.key(1))
    np.testing.assert_allclose(jax.nn.logsumexp(weights, axis=0) - np.log(5000), log_px, atol=0.03)
    assert float((weights.mean(0) - log_px).max()) < -0.01  # and the ELBO is below it


def test_reported_bounds_are_ordered_below_the_log_likelihood(model):
    system, state, batch, log_px = model
    keys = jax.random.split(jax.random.key(2), 400)
    sums = jax.jit(jax.vmap(lambda key: system.summary(system.evaluate(state, batch, key))))(keys)
    elbo, bound = float(sums["elbo"].mean()), float(sums["bound"].mean())
    error = float(sums["bound"].std()) / 20
    assert elbo + 4 * error < bound < log_px.mean() + 4 * error
