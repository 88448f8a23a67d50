"""The autoregressive prior on vectors against quadrature, its own samples and a planted density."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxae.priors import masked_autoregressive


def random_params(prior, d, label=None):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((4, d)), label)
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, 0.35, p.shape)), shapes)


@pytest.mark.parametrize("label", [None, 0, 1])
def test_density_of_the_plane_integrates_to_one_and_is_that_of_the_samples(label):
    prior = masked_autoregressive(2, 3, (8,), classes=0 if label is None else 2)
    params = random_params(prior, 2, None if label is None else jnp.zeros(4, int))
    side = (np.arange(600) + 0.5) / 25 - 12
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    labels = None if label is None else jnp.full(len(grid), label)
    mass = np.exp(jax.jit(prior.log_prob)(params, grid, labels)) * 0.04**2
    np.testing.assert_allclose(mass.sum(), 1.0, atol=0.01)
    draws = np.asarray(jax.jit(prior.sample, static_argnums=2)(
        params, jax.random.key(0), 20_000, None if label is None else jnp.full(20_000, label)))
    mean = mass @ grid
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    product = draws.prod(1)
    assert abs(product.mean() - mass @ grid.prod(1)) < 5 * product.std() / np.sqrt(len(draws)) + 0.02


def test_training_reaches_the_entropy_of_a_planted_density():
    """z_1 of two Gaussians, z_2 = z_1^2 / 10 with noise."""
    def planted(key, n):
        side, first, second = jax.random.split(key, 3)
        z1 = 3.0 * jax.random.rademacher(side, (n,), jnp.float32) + 0.5 * jax.random.normal(first, (n,))
        return jnp.stack([z1, z1**2 / 10.0 + 0.1 * jax.random.normal(second, (n,))], 1)

    entropy = np.log(2) + 0.5 * np.log(2 * np.pi * np.e * 0.25) + 0.5 * np.log(2 * np.pi * np.e * 0.01)
    prior, tx = masked_autoregressive(2, 4, (32,)), optax.adam(1e-2)
    params = prior.init(jax.random.key(0), planted(jax.random.key(1), 256))

    def step(carry, key):
        params, opt = carry
        nll, gradient = jax.value_and_grad(lambda p: -prior.log_prob(p, planted(key, 256)).mean())(params)
        updates, opt = tx.update(gradient, opt)
        return (optax.apply_updates(params, updates), opt), nll

    @jax.jit
    def train(params):
        return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(jax.random.key(2), 600))[0][0]

    params = train(params)
    test = planted(jax.random.key(3), 10_000)
    nll = float(-jax.jit(prior.log_prob)(params, test).mean())
    assert entropy - 0.02 < nll < entropy + 0.12
    draws = np.asarray(prior.sample(params, jax.random.key(4), 5000))
    np.testing.assert_allclose(draws.std(0), test.std(0), rtol=0.1)


def test_what_makes_no_prior_is_refused():
    with pytest.raises(ValueError, match="components >= 1"):
        masked_autoregressive(2, 0)
    prior = masked_autoregressive(2, classes=3)
    with pytest.raises(ValueError, match="give a label"):
        prior.init(jax.random.key(0), jnp.zeros((4, 2)))
