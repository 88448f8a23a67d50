"""Posteriors and fixed priors against quadrature, scipy and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxae import priors
from jaxae.systems.categorical import joint_posterior
from jaxae.systems.posteriors import correlated, full, posterior

OUT = {"diagonal": 4, "full": 5, "correlated": 5}  # and by own tests: mixture, planar, iaf


@pytest.mark.parametrize("kind", list(OUT))
def test_gaussian_posteriors_know_their_density_draws_and_divergence(kind):
    family = {"full": full(2), "correlated": correlated(2)}.get(kind) or posterior(kind, 2)
    assert family.outputs == OUT[kind]
    out = 0.5 * jax.random.normal(jax.random.key(3), (1, OUT[kind]))
    draws = np.asarray(jax.jit(family.sample)(jnp.repeat(out, 200_000, 0), jax.random.key(1)))
    covariance = np.cov(draws.T)
    np.testing.assert_allclose(draws.mean(0), family.mean(out)[0], atol=0.01)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), np.exp(family.log_std(out)[0]), rtol=0.01)
    if kind != "diagonal":
        factor = np.asarray(family.factor(out)[0])
        np.testing.assert_allclose(factor @ factor.T, covariance, rtol=0.02, atol=0.02)
        assert abs(covariance[0, 1]) > 0.02
    else:
        factor = np.diag(np.exp(family.log_std(out)[0]))
    z = draws[:100]
    truth = multivariate_normal(np.asarray(family.mean(out)[0]), factor @ factor.T)
    log_q = jax.jit(family.log_prob)(jnp.repeat(out, 100, 0), z)
    np.testing.assert_allclose(log_q, truth.logpdf(z), rtol=1e-4, atol=1e-4)
    # KL to N(0, I) as the mean log ratio.
    ratio = truth.logpdf(draws) - multivariate_normal(np.zeros(2), np.eye(2)).logpdf(draws)
    np.testing.assert_allclose(family.kl(out)[0], ratio.mean(), atol=5 * ratio.std() / np.sqrt(len(ratio)))


def test_a_mixture_posterior_has_the_moments_and_the_density_of_its_draws():
    family = posterior("mixture", 2, components=3)
    out = jax.random.normal(jax.random.key(3), (1, family.outputs))
    draws = np.asarray(jax.jit(family.sample)(jnp.repeat(out, 50_000, 0), jax.random.key(1)))
    np.testing.assert_allclose(draws.mean(0), family.mean(out)[0], atol=0.03)
    np.testing.assert_allclose(draws.std(0), np.exp(family.log_std(out)[0]), rtol=0.03)
    assert_density_of_draws(draws, jax.jit(family.log_prob)(out, draws))


def assert_density_of_draws(draws, log_q):
    """E_q[p(z) / q(z)] = 1 for any density p: here one that is narrower than the draws."""
    p = multivariate_normal(draws.mean(0), 0.3 * np.cov(draws.T))
    ratio = np.exp(p.logpdf(draws) - np.asarray(log_q, np.float64))
    np.testing.assert_allclose(ratio.mean(), 1.0, atol=5 * ratio.std() / np.sqrt(len(ratio)))


@pytest.mark.parametrize("kind", ["planar", "iaf"])
def test_flow_posteriors_know_the_density_of_their_draws(kind):
    family = posterior(kind, 2, layers=3, features=(8,))
    params = jax.tree.map(lambda p: p + 0.5 * jax.random.normal(jax.random.key(9), p.shape),
                          family.init(jax.random.key(0)))
    out = 0.5 * jax.random.normal(jax.random.key(3), (1, family.outputs))

    @jax.jit
    def draw(params, out):
        bound = family.bind(params)
        return bound.draw(jnp.repeat(out, 50_000, 0), jax.random.key(1)), bound.mean(out)

    (z, log_q), mean = draw(params, out)
    assert_density_of_draws(np.asarray(z), log_q)
    assert mean.shape == (1, 2) and family.has_density
    moved = np.asarray(z) - np.asarray(out[:, :2])
    assert abs(np.corrcoef(moved.T)[0, 1]) > 0.02  # no longer independent dimensions
    with pytest.raises(ValueError, match="bind"):
        family.mean(out)


def test_categorical_posteriors_know_their_divergence_and_draw_near_one_hot_rows_at_their_probabilities():
    family = joint_posterior(0, (3, 2), temperature=0.05)
    logits = np.array([[1.0, 0.0, -1.0, 0.5, -0.5]])
    draws = np.asarray(jax.jit(family.sample)(jnp.repeat(jnp.asarray(logits, jnp.float32), 20_000, 0),
                                              jax.random.key(0)))
    q = np.concatenate([np.exp(part) / np.exp(part).sum() for part in (logits[0, :3], logits[0, 3:])])
    np.testing.assert_allclose(draws.mean(0), q, atol=0.02)
    np.testing.assert_allclose(draws[:, :3].sum(1), 1.0, rtol=1e-5)
    expected = np.log(3) + np.log(2) + (q * np.log(q)).sum()
    np.testing.assert_allclose(jax.jit(family.kl)(jnp.asarray(logits, jnp.float32)), [expected], rtol=1e-5)
    with pytest.raises(ValueError, match="categories"):
        joint_posterior(0, (), 0.5)


PLANE = {"normal": priors.standard_normal(2), "uniform": priors.uniform(2), "ring": priors.ring(0.5),
         "disk": priors.ring(0.0), "mixture": priors.circle_of_gaussians(5, 2, 2.0, 0.4)}


@pytest.mark.parametrize("name", list(PLANE))
def test_fixed_priors_integrate_to_one_and_draw_what_they_say(name):
    prior, side = PLANE[name], (np.arange(1200) + 0.5) / 100 - 6
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    density = np.exp(jax.jit(lambda z: prior.log_prob((), z))(grid))
    cell = (side[1] - side[0]) ** 2
    np.testing.assert_allclose(density.sum() * cell, 1.0, rtol=0.01)
    draws = np.asarray(jax.jit(lambda key: prior.sample((), key, 50_000))(jax.random.key(0)))
    assert np.isfinite(prior.log_prob((), draws)).all()
    # Mass of a quadrant's part and second moments, by draws and by the density.
    inside = (grid[:, 0] > 0.2) & (grid[:, 1] > 0.1)
    np.testing.assert_allclose(((draws[:, 0] > 0.2) & (draws[:, 1] > 0.1)).mean(), density[inside].sum() * cell,
                               atol=0.01)
    np.testing.assert_allclose((draws**2).mean(0), (density[:, None] * grid**2).sum(0) * cell, rtol=0.03)


def test_hypersphere_draws_are_uniform_and_its_density_is_one_over_the_area():
    prior = priors.hypersphere(3)
    z = np.asarray(prior.sample((), jax.random.key(0), 50_000))
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(3) / 3, atol=0.01)
    np.testing.assert_allclose(prior.log_prob((), z[:2]), -np.log(4 * np.pi), rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: priors.ring(1.0), lambda: priors.circle_of_gaussians(0),
                                  lambda: posterior("laplace", 2)])
def test_what_makes_no_distribution_is_refused(make):
    with pytest.raises(ValueError, match="inner|components|posterior"):
        make()
