"""The bounds against the exact likelihood of a linear-Gaussian model, and the weight of the import."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats

from jaxae.distributions import normal_log_prob
from jaxae.losses import bits_per_dim, elbo, gaussian_kl, iwae_bound

# z ~ N(0, 1), x | z ~ N(2 z, .5^2): x ~ N(0, 4.25), posterior N(2 x / 4.25, .25 / 4.25)
X = jnp.array([-1.0, 0.3, 4.0])
POSTERIOR_MEAN, POSTERIOR_LOG_STD = 2 * X / 4.25, 0.5 * np.log(0.25 / 4.25)
LOG_PX = scipy.stats.norm.logpdf(np.asarray(X), 0, np.sqrt(4.25))


def log_weights(key, k, mean, log_std):
    z = mean + jnp.exp(log_std) * jax.random.normal(key, (k, X.size))
    return (normal_log_prob(X, 2 * z, np.log(0.5)) + normal_log_prob(z, 0.0, 0.0)
            - normal_log_prob(z, mean, log_std))


def analytic_elbo(mean, log_std):
    """E log p(x | z) in closed form, minus the KL."""
    log_px = normal_log_prob(X, 2 * mean, np.log(0.5)) - 0.5 * (2 * jnp.exp(log_std) / 0.5) ** 2
    return elbo(log_px, gaussian_kl(mean[:, None], jnp.full((X.size, 1), log_std)))


def test_elbo_equals_log_likelihood_at_the_posterior_and_is_below_it_elsewhere():
    np.testing.assert_allclose(jax.jit(analytic_elbo)(POSTERIOR_MEAN, POSTERIOR_LOG_STD), LOG_PX, rtol=1e-5)
    for shift, widen in [(0.3, 0.0), (0.0, 0.5), (-0.2, -0.5)]:
        gap = LOG_PX - jax.jit(analytic_elbo)(POSTERIOR_MEAN + shift, POSTERIOR_LOG_STD + widen)
        # log p(x) - ELBO is KL(q || posterior)
        want = 0.5 * (np.exp(2 * widen) - 1 - 2 * widen + (shift * np.exp(-POSTERIOR_LOG_STD)) ** 2)
        np.testing.assert_allclose(gap, want, rtol=1e-4)


def test_beta_scales_only_the_kl_and_may_be_traced():
    log_px, kl = jnp.array([-5.0, -7.0]), jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.jit(elbo)(log_px, kl, jnp.array(4.0)), [-9.0, -15.0])
    assert jax.grad(lambda beta: elbo(log_px, kl, beta).sum())(2.0) == -3.0


def test_gaussian_kl_equals_quadrature_and_sums_all_event_axes():
    mean, log_std = np.array([0.5, -1.0, 0.0]), np.array([0.2, -0.9, 0.0])
    want = 0.0
    for m, s in zip(mean, log_std, strict=True):
        q, p = scipy.stats.norm(m, np.exp(s)), scipy.stats.norm()
        want += scipy.integrate.quad(lambda z, p=p, q=q: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -15, 15)[0]
    mean, log_std = jnp.asarray([mean, -mean], jnp.float32), jnp.asarray([log_std, log_std], jnp.float32)
    np.testing.assert_allclose(jax.jit(gaussian_kl)(mean, log_std), [want, want], rtol=1e-5)
    maps = gaussian_kl(mean.reshape(2, 1, 3, 1), log_std.reshape(2, 1, 3, 1))
    np.testing.assert_allclose(maps, [want, want], rtol=1e-5)


def test_iwae_bound_equals_the_mean_of_the_weights():
    log_w = jax.random.normal(jax.random.key(0), (6, 4)) * 3
    want = np.log(np.exp(np.asarray(log_w, np.float64)).mean(0))
    np.testing.assert_allclose(jax.jit(iwae_bound)(log_w), want, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(iwae_bound)(log_w - 500.0), want - 500.0, rtol=1e-6)
    np.testing.assert_array_equal(iwae_bound(log_w[:1]), log_w[0])
    weights = jax.grad(lambda v: iwae_bound(v).sum())(log_w)
    np.testing.assert_allclose(weights, jax.nn.softmax(log_w, 0), rtol=1e-5)


def test_iwae_bound_rises_with_k_from_the_elbo_to_the_log_likelihood():
    mean, log_std = POSTERIOR_MEAN + 0.15, POSTERIOR_LOG_STD + 0.3
    log_w = jax.jit(log_weights, static_argnums=1)(jax.random.key(1), 64 * 4096, mean, log_std)
    bounds = [iwae_bound(log_w.reshape(k, -1)).reshape(-1, X.size).mean(0) for k in (1, 4, 16, 64)]
    np.testing.assert_allclose(bounds[0], analytic_elbo(mean, log_std), atol=0.02)
    for lower, higher in zip(bounds, bounds[1:], strict=False):
        assert (higher > lower).all()
    assert (bounds[-1] < LOG_PX + 1e-3).all()
    np.testing.assert_allclose(bounds[-1], LOG_PX, atol=0.02)


def test_bits_per_dim_is_the_one_of_the_distributions():
    np.testing.assert_allclose(bits_per_dim(jnp.array([3072 * np.log(2.0)]), 3072), [1.0], rtol=1e-6)


def test_importing_the_pure_parts_loads_nothing_heavy():
    heavy = "tensorflow_datasets tensorflow orbax grain matplotlib sklearn flax optax chex".split()
    code = f"import jaxae.losses, jaxae.metrics, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_losses_costs_little_more_than_jax():
    def seconds(module):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - start

    seconds("jaxae.losses")  # writes the byte code
    pairs = [(seconds("jax"), seconds("jaxae.losses")) for _ in range(3)]
    assert min(b for _, b in pairs) < 1.5 * min(a for a, _ in pairs)
