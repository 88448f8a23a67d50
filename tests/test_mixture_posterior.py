"""Mixtures of diagonal Gaussians: density, draws and the gradient of draws against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxae import priors
from jaxae.priors import DiagonalMixture, diagonal_mixture_log_prob, diagonal_mixture_sample

PARAMETERS = DiagonalMixture(jnp.array([0.3, -0.5, 0.1]),
                             jnp.array([[-1.0, 0.5], [0.8, 1.5], [2.0, -1.0]]),
                             jnp.array([[-0.5, 0.1], [0.2, -0.7], [-0.3, -0.2]]))


def spread(mixture, n):
    return jax.tree.map(lambda part: jnp.broadcast_to(part, (n, *part.shape)), mixture)


def test_density_is_the_weighted_sum():
    z = jax.random.normal(jax.random.key(0), (20, 2))
    weights = np.exp(PARAMETERS.logits) / np.exp(PARAMETERS.logits).sum()
    each = norm.pdf(np.asarray(z)[:, None], PARAMETERS.means, np.exp(PARAMETERS.log_std)).prod(-1)
    np.testing.assert_allclose(jax.jit(diagonal_mixture_log_prob)(z, PARAMETERS), np.log(each @ weights), rtol=1e-5)


def test_gradient_of_an_expectation_is_exact_through_draws():
    """d/dphi E[f(z)] of a function of both dimensions, against the closed form of the expectation's derivative."""
    n = 50_000

    def by_draws(mixture, key):
        z = diagonal_mixture_sample(key, spread(mixture, n))
        return jnp.mean(z[:, 0] ** 2 + z[:, 0] * z[:, 1] + jnp.sin(z[:, 1]))

    def exact(mixture):
        weights, std = jax.nn.softmax(mixture.logits), jnp.exp(mixture.log_std)
        first, second = mixture.means.T
        each = first**2 + std[:, 0]**2 + first * second + jnp.exp(-0.5 * std[:, 1]**2) * jnp.sin(second)
        return weights @ each

    # Eight estimates of 50,000 draws each give their own standard errors.
    gradient = jax.jit(jax.grad(by_draws))
    rows = [gradient(PARAMETERS, key) for key in jax.random.split(jax.random.key(1), 8)]
    estimates = jax.tree.map(lambda *parts: np.stack(parts), *rows)
    truth = jax.grad(exact)(PARAMETERS)
    for estimate, value in zip(estimates, truth, strict=True):
        error = np.abs(estimate.mean(0) - value)
        assert (error < 4 * estimate.std(0) / np.sqrt(7) + 1e-3).all()


def test_draws_have_the_mixtures_moments_and_do_not_depend_on_devices():
    n = 40_000
    z = jax.jit(diagonal_mixture_sample)(jax.random.key(2), spread(PARAMETERS, n))
    weights = np.asarray(jax.nn.softmax(PARAMETERS.logits))
    mean = weights @ PARAMETERS.means
    second = weights @ (PARAMETERS.means**2 + np.exp(2 * PARAMETERS.log_std))
    np.testing.assert_allclose(z.mean(0), mean, atol=0.03)
    np.testing.assert_allclose((z**2).mean(0), second, rtol=0.02)
    eight = jax.pmap(lambda part: diagonal_mixture_sample(jax.random.key(2), part, "i"), axis_name="i")(
        jax.tree.map(lambda part: part.reshape(8, n // 8, *part.shape[1:]), spread(PARAMETERS, n)))
    np.testing.assert_allclose(eight.reshape(n, 2), z, atol=1e-5)


def test_trained_prior_is_a_density_with_its_own_sampler():
    prior = priors.diagonal_mixture(3, 2)
    params = prior.init(jax.random.key(0), None)
    side = (np.arange(600) + 0.5) / 30 - 10
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    density = np.exp(jax.jit(prior.log_prob)(params, grid))
    np.testing.assert_allclose(density.sum() * (side[1] - side[0])**2, 1.0, rtol=1e-3)
    z = np.asarray(jax.jit(prior.sample, static_argnums=2)(params, jax.random.key(1), 40_000))
    np.testing.assert_allclose(z.mean(0), density @ grid / density.sum(), atol=0.03)


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 component"):
        priors.diagonal_mixture(0, 2)
