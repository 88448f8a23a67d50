"""Log-probabilities, KLs and samplers against scipy, quadrature, float64 and moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from jaxae import distributions as dist

LEVELS = np.arange(256) / 255.0


def exact_discretized_logistic(x, mean, scale):
    """The bin's probability in float64, differences taken on the side of the tail where digits are kept."""
    low = np.where(x <= 0, -np.inf, (x - mean - 0.5 / 255) / scale)
    high = np.where(x >= 1, np.inf, (x - mean + 0.5 / 255) / scale)
    flip = low > 0
    return scipy.special.expit(np.where(flip, -low, high)) - scipy.special.expit(np.where(flip, -high, low))


@pytest.mark.parametrize("ours, theirs", [
    (dist.normal_log_prob, scipy.stats.norm), (dist.laplace_log_prob, scipy.stats.laplace)])
def test_density_equals_scipy_and_integrates_to_one(ours, theirs):
    x = np.linspace(-4, 4, 41, dtype=np.float32)
    for mean, log_std in [(0.0, 0.0), (1.5, -1.2), (-0.3, 0.7)]:
        got = jax.jit(ours)(x, mean, log_std)
        np.testing.assert_allclose(got, theirs.logpdf(x, mean, np.exp(log_std)), rtol=2e-5, atol=2e-6)
        grid = np.linspace(mean - 40, mean + 40, 400_001, dtype=np.float32)
        density = np.exp(np.asarray(jax.jit(ours)(grid, mean, log_std), np.float64))
        assert scipy.integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)


def test_bernoulli_equals_scipy_on_bits_and_cross_entropy_between():
    logits = np.array([-90.0, -3.0, 0.0, 2.0, 90.0], np.float32)
    for bit in (0.0, 1.0):
        want = scipy.special.log_expit((2 * bit - 1) * logits.astype(np.float64))
        np.testing.assert_allclose(jax.jit(dist.bernoulli_log_prob)(bit, logits), want, rtol=1e-5, atol=1e-6)
    p = scipy.special.expit(logits[1:4].astype(np.float64))
    want = 0.3 * np.log(p) + 0.7 * np.log1p(-p)
    np.testing.assert_allclose(jax.jit(dist.bernoulli_log_prob)(0.3, logits[1:4]), want, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda v: dist.bernoulli_log_prob(1.0, v).sum())(logits * 1e4)).all()


def test_categorical_log_prob_normalizes_and_refuses_codes_outside():
    logits = jax.random.normal(jax.random.key(0), (3, 5)) * 4
    log_p = jnp.stack([jax.jit(dist.categorical_log_prob)(jnp.full(3, i), logits) for i in range(5)], -1)
    np.testing.assert_allclose(log_p, scipy.special.log_softmax(np.asarray(logits), -1), rtol=1e-5, atol=1e-6)
    assert np.isnan(jax.jit(dist.categorical_log_prob)(jnp.array([-1, 5, 9]), logits)).all()


@pytest.mark.parametrize("log_scale", [-60.0, -12.0, dist.LOG_SCALE_FLOOR, -3.0, 0.0, 10.0, 60.0])
@pytest.mark.parametrize("mean", [0.0, 0.31, 100.3 / 255, 1.0, -2.0])
def test_discretized_logistic_sums_to_one_over_the_levels(mean, log_scale):
    log_p = jax.jit(dist.discretized_logistic_log_prob)(LEVELS.astype(np.float32), mean, log_scale)
    assert np.isfinite(log_p).all()
    assert np.exp(np.asarray(log_p, np.float64)).sum() == pytest.approx(1.0, abs=3e-5)


@pytest.mark.parametrize("log_scale", [dist.LOG_SCALE_FLOOR, -5.0, -2.0, 1.0, 8.0])
def test_discretized_logistic_equals_float64_in_center_and_tails(log_scale):
    mean = np.float32(0.372)
    scale = np.exp(np.float64(np.float32(log_scale)))
    p = exact_discretized_logistic(LEVELS, np.float64(mean), scale)
    got = jax.jit(dist.discretized_logistic_log_prob)(LEVELS.astype(np.float32), mean, np.float32(log_scale))
    held = p > 1e-290
    assert held.sum() > 150  # the others are below the range of float64
    np.testing.assert_allclose(np.asarray(got)[held], np.log(p[held]), rtol=1e-5, atol=2e-4)


def test_discretized_logistic_takes_other_grids_and_rounds_to_them():
    four = jnp.arange(4) / 3.0
    log_p = jax.jit(lambda x: dist.discretized_logistic_log_prob(x, 0.4, -1.0, levels=4))
    assert jnp.exp(log_p(four)).sum() == pytest.approx(1.0, abs=1e-6)
    want = scipy.special.expit((0.5 - 0.4) / np.exp(-1)) - scipy.special.expit((1 / 6 - 0.4) / np.exp(-1))
    assert jnp.exp(log_p(four))[1] == pytest.approx(want, rel=1e-5)
    assert (log_p(four + jnp.array([0.1, -0.1, 0.1, -0.1])) == log_p(four)).all()


def test_gradients_equal_finite_differences():
    key = jax.random.key(1)
    a, b, c = jax.random.normal(key, (3, 7))
    x = jnp.array([0, 1, 80, 128, 200, 254, 255]) / 255.0
    for f, args in [
        (dist.normal_log_prob, (a, b, 0.3 * c)),
        (dist.laplace_log_prob, (a + 5, b, 0.3 * c)),
        (dist.bernoulli_log_prob, (x, b)),
        (lambda m, s: dist.discretized_logistic_log_prob(x, m, s), (0.5 + 0.1 * a, -2.0 + 0.3 * b)),
        (lambda v, m, s: dist.discretized_logistic_mixture_log_prob(x[:2], v, m, s),
         (jnp.stack([a, b])[:, :3], jnp.stack([b, c])[:, :3], 0.3 * jnp.stack([c, a])[:, :3] - 1)),
        (dist.normal_kl, (a, 0.3 * b, c, 0.3 * a)),
        (dist.categorical_kl, (a, b)),
    ]:
        check_grads(jax.jit(f), args, order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("log_scale", [-60.0, -20.0, dist.LOG_SCALE_FLOOR, 0.0, 60.0])
def test_discretized_logistic_gradients_stay_finite_at_tiny_and_huge_scales(log_scale):
    def loss(mean, log_scale):
        return dist.discretized_logistic_log_prob(LEVELS.astype(np.float32), mean, log_scale).sum()

    for mean in (0.0, 0.5, 1.0, 128 / 255, 128.5 / 255):
        assert np.isfinite(jax.jit(jax.grad(loss, (0, 1)))(mean, log_scale)).all()


def test_mixture_is_the_weighted_sum_and_one_component_is_the_plain_one():
    logits = jnp.array([0.3, -1.0, 2.0])
    mean, log_scale = jnp.array([0.1, 0.5, 0.9]), jnp.array([-3.0, -1.0, -5.0])
    x = LEVELS.astype(np.float32)
    weights = scipy.special.softmax(np.asarray(logits, np.float64))
    scales = np.exp(np.asarray(log_scale, np.float64))
    want = sum(w * exact_discretized_logistic(LEVELS, np.float64(m), s)
               for w, m, s in zip(weights, np.asarray(mean), scales, strict=True))
    mixture = jax.jit(dist.discretized_logistic_mixture_log_prob)
    np.testing.assert_allclose(mixture(x, logits, mean, log_scale), np.log(want), atol=2e-4, rtol=1e-5)
    one = mixture(x, logits[:1], mean[:1], log_scale[:1])
    np.testing.assert_allclose(one, dist.discretized_logistic_log_prob(x, mean[0], log_scale[0]), rtol=1e-6)


def test_normal_kl_equals_quadrature():
    for args in [(0.7, -0.5, 0.0, 0.0), (-1.0, 0.4, 0.5, -0.2), (0.0, 0.0, 0.0, 0.0)]:
        p, q = scipy.stats.norm(args[0], np.exp(args[1])), scipy.stats.norm(args[2], np.exp(args[3]))
        want, _ = scipy.integrate.quad(lambda z, p=p, q=q: p.pdf(z) * (p.logpdf(z) - q.logpdf(z)), -20, 20)
        assert jax.jit(dist.normal_kl)(*args) == pytest.approx(want, rel=1e-5, abs=1e-8)
    assert dist.normal_kl(0.7, -0.5) == dist.normal_kl(0.7, -0.5, 0.0, 0.0)
    # u^2 for a small u = log std: the naive exp(2u) - 1 - 2u has no digit left here
    assert jax.jit(dist.normal_kl)(0.0, np.float32(1e-4)) == pytest.approx(1e-8, rel=2e-2)


def test_categorical_kl_equals_the_sum_and_takes_zero_probabilities():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3])
    want = np.sum(p * np.log(p / q))
    assert jax.jit(dist.categorical_kl)(np.log(p) + 3, np.log(q) - 1) == pytest.approx(want, rel=1e-5)
    assert dist.categorical_kl(jnp.log(p)) == pytest.approx(np.log(3) - scipy.stats.entropy(p), rel=1e-5)
    certain = jnp.array([0.0, -jnp.inf, -jnp.inf])
    assert jax.jit(dist.categorical_kl)(certain, jnp.log(q)) == pytest.approx(-np.log(0.6), rel=1e-5)
    assert np.isfinite(jax.grad(dist.categorical_kl)(certain)).all()


def test_samplers_follow_their_laws():
    n = 200_000
    keys = jax.random.split(jax.random.key(3), 4)
    normal = jax.jit(dist.normal_sample)(keys[0], jnp.full(n, 1.5), -0.7)
    assert scipy.stats.kstest(np.asarray(normal), scipy.stats.norm(1.5, np.exp(-0.7)).cdf).pvalue > 1e-3
    bits = jax.jit(dist.bernoulli_sample)(keys[1], jnp.full(n, -0.8))
    assert set(np.unique(bits)) == {0.0, 1.0}
    p = scipy.special.expit(-0.8)
    assert abs(bits.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    counts = np.bincount(jax.jit(dist.categorical_sample)(keys[2], jnp.tile(logits, (n, 1))), minlength=3)
    assert scipy.stats.chisquare(counts, n * np.array([0.1, 0.2, 0.7])).pvalue > 1e-3
    pixels = jax.jit(dist.discretized_logistic_sample)(keys[3], jnp.full(n, 0.04), -3.0)
    counts = np.bincount(np.round(np.asarray(pixels) * 255).astype(int), minlength=256)
    p = exact_discretized_logistic(LEVELS, 0.04, np.exp(-3.0))
    likely = p * n > 20
    counts, p = np.append(counts[likely], counts[~likely].sum()), np.append(p[likely], p[~likely].sum())
    assert scipy.stats.chisquare(counts, n * p / p.sum()).pvalue > 1e-3


@pytest.mark.parametrize("sample", [
    lambda key, v, axis: dist.normal_sample(key, v, -0.5, axis),
    dist.bernoulli_sample,
    dist.categorical_sample,
    lambda key, v, axis: dist.discretized_logistic_sample(key, v, -3.0, axis_name=axis)])
def test_eight_replicas_draw_what_one_device_draws(sample):
    key, x = jax.random.key(4), jax.random.normal(jax.random.key(5), (16, 3))
    whole = sample(key, x, None)
    parts = jax.jit(jax.vmap(lambda part: sample(key, part, "data"), axis_name="data"))(x.reshape(8, 2, 3))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-6)


def test_sum_event_keeps_the_leading_axes():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(dist.sum_event(x), x.reshape(2, -1).sum(1))
    np.testing.assert_array_equal(dist.sum_event(x, 2), x.sum(-1))
    assert dist.sum_event(x, 3).shape == x.shape


def test_bits_per_dim_of_uniform_data_are_eight():
    assert dist.bits_per_dim(784 * np.log(256.0), 784) == pytest.approx(8.0)  # probability 256^-d
    assert dist.bits_per_dim(0.0, 784, levels=256) == pytest.approx(8.0)  # density 1 on [0, 1]^d


def test_soft_floor_is_above_the_floor_close_to_the_identity_and_never_flat():
    x = jnp.array([-30.0, -8.0, 0.0, 5.0])
    y = dist.soft_floor(x, -6.0)
    assert (y >= -6.0).all() and (y[2:] - x[2:] < 3e-3).all()
    assert (jax.vmap(jax.grad(lambda v: dist.soft_floor(v, -6.0)))(x) > 0).all()


def floored_exp(x, floor):
    return np.exp(floor) * (1 + np.exp(x - floor))


def _params(name, shape, key):
    *lead, c = shape
    return jax.random.normal(key, (*lead, dist.likelihood(name).channels * c))


NAMES = ["bernoulli", "gaussian", "gaussian_learned", "discretized_logistic"]


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 6)])
@pytest.mark.parametrize("name", NAMES)
def test_likelihood_wires_its_channels_to_the_elementwise_law(name, shape):
    params = _params(name, shape, jax.random.key(0))
    x = (jax.random.uniform(jax.random.key(1), shape) > 0.5).astype(jnp.float32)
    c = shape[-1]
    first, second = np.asarray(params[..., :c], np.float64), np.asarray(params[..., c:], np.float64)
    want = {
        "bernoulli": lambda: scipy.special.log_expit((2 * np.asarray(x) - 1) * first),
        "gaussian": lambda: scipy.stats.norm.logpdf(x, first),
        "gaussian_learned": lambda: scipy.stats.norm.logpdf(
            x, first, floored_exp(second, dist.LOG_STD_FLOOR)),
        "discretized_logistic": lambda: np.log(exact_discretized_logistic(
            np.asarray(x), first, floored_exp(second, dist.LOG_SCALE_FLOOR))),
    }[name]().reshape(2, -1).sum(1)
    np.testing.assert_allclose(jax.jit(dist.likelihood(name).log_prob)(x, params), want, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_mean_is_the_average_of_its_samples(name):
    model = dist.likelihood(name, scale=0.2)
    params = jnp.array([[0.3, 0.6]]) if model.channels == 1 else jnp.array([[0.3, 0.6, -4.0, -5.0]])
    draws = jax.jit(model.sample)(jax.random.key(2), jnp.tile(params, (50_000, 1)))
    assert draws.shape == (50_000, 2)
    standard_error = draws.std(0) / np.sqrt(50_000)
    np.testing.assert_allclose(draws.mean(0), model.mean(params)[0], atol=float(4.5 * standard_error.max()))


def test_gaussian_likelihood_includes_scale_and_constant():
    x, params = jnp.array([[0.2, 0.9]]), jnp.array([[0.0, 1.0]])
    want = scipy.stats.norm.logpdf(x, params, 0.1).sum()
    got = jax.jit(dist.likelihood("gaussian", scale=0.1).log_prob)(x, params)
    assert got[0] == pytest.approx(want, rel=1e-5)


def test_likelihoods_compute_in_float32_from_bfloat16_outputs():
    for name in NAMES:
        params = _params(name, (2, 50), jax.random.key(0)).astype(jnp.bfloat16)
        model, x = dist.likelihood(name), jnp.ones((2, 50))
        got = jax.jit(model.log_prob)(x, params)
        assert got.dtype == model.mean(params).dtype == jnp.float32
        np.testing.assert_allclose(got, jax.jit(model.log_prob)(x, params.astype(jnp.float32)), rtol=1e-6)


def test_wrong_use_gets_one_clear_error():
    with pytest.raises(ValueError, match="bernoulli, gaussian, gaussian_learned, discretized_logistic"):
        dist.likelihood("poisson")
    with pytest.raises(ValueError, match="not a likelihood"):
        dist.likelihood("mse")
    with pytest.raises(ValueError, match="scale"):
        dist.likelihood("gaussian", scale=0.0)
    with pytest.raises(ValueError, match="2 per channel"):
        dist.likelihood("gaussian_learned").log_prob(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
