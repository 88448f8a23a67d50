"""Capacities, re-weighted bounds and moment penalties against exact models; coupled losses on eight devices and one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxae.distributions import categorical_kl
from jaxae.losses.capacity import capacity_loss, joint_capacity_loss, linear_capacity, reverse_water_filling
from jaxae.losses.elbo import elbo
from jaxae.losses.mmd import (
    energy_distance,
    hsic,
    inverse_multiquadric,
    kernel_stein_discrepancy,
    median_bandwidth,
    mmd,
    rbf,
)
from jaxae.losses.moments import aggregate_moments, dip_penalty, individual_variance_kl, population_kl
from jaxae.losses.total_correlation import beta_tc_kl, decompose_kl, permute_dims
from jaxae.losses.von_mises_fisher import vmf_sample
from jaxae.losses.weighted_bounds import autogen_bound, infovae_loss

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------- re-weighted bounds

@pytest.mark.parametrize("alpha, lam", [(0.0, 1.0), (0.5, 3.0), (1.0, 1000.0), (-1.0, 2.0)])
def test_infovae_is_its_definition_on_a_finite_grid(alpha, lam):
    """-lam KL(q(z) || p) - E_q(z) KL(q(x | z) || p(x | z)) + alpha I, up to the entropy of the data."""
    data = RNG.dirichlet(np.ones(5))  # p_D(x)
    q = RNG.dirichlet(np.ones(4), 5)  # q(z | x)
    prior, decoder = RNG.dirichlet(np.ones(4)), RNG.dirichlet(np.ones(5), 4)  # p(z), p(x | z)
    joint = data[:, None] * q
    q_z = joint.sum(0)
    posterior = joint / q_z  # q(x | z)
    information = (joint * np.log(q / q_z)).sum()
    match = (q_z * np.log(q_z / prior)).sum()
    definition = (lam * match + (joint * np.log(posterior / decoder.T)).sum() - alpha * information)
    entropy = -(data * np.log(data)).sum()

    log_px = jnp.asarray((q * np.log(decoder.T)).sum(1), jnp.float32)
    kl = jnp.asarray((q * np.log(q / prior)).sum(1), jnp.float32)
    loss = jax.jit(infovae_loss)(log_px, kl, match, alpha, lam)
    assert_allclose(data @ loss, definition + entropy, rtol=1e-5)
    if (alpha, lam) == (0.0, 1.0):
        assert_allclose(loss, -elbo(log_px, kl), rtol=1e-6)


def test_autogen_bounds_the_likelihood_of_all_copies_and_touches_it_at_its_own_posterior():
    w, noise, x = RNG.normal(size=(3, 2)), 0.7, RNG.normal(size=3)

    def bound(m, precision, mean):
        covariance = np.linalg.inv(precision)
        error = ((x - w @ mean) ** 2).sum() + np.trace(w @ covariance @ w.T)
        log_px = -1.5 * np.log(2 * np.pi * noise**2) - error / (2 * noise**2)
        kl = 0.5 * (np.trace(covariance) + mean @ mean - 2 + np.linalg.slogdet(precision)[1])
        return float(jax.jit(autogen_bound)(jnp.array([log_px]), jnp.array([kl]), m)[0])

    def posterior(m):
        precision = np.eye(2) + (1 + m) * w.T @ w / noise**2
        return precision, np.linalg.solve(precision, (1 + m) * w.T @ x / noise**2)

    for m in (0, 1, 2):
        copies = np.tile(w, (1 + m, 1))
        truth = scipy.stats.multivariate_normal(np.zeros(3 * (1 + m)), copies @ copies.T
                                                + noise**2 * np.eye(3 * (1 + m))).logpdf(np.tile(x, 1 + m))
        assert_allclose(bound(m, *posterior(m)), truth, rtol=1e-5)
        if m:
            assert bound(m, *posterior(0)) < truth - 1e-2


# ---------------------------------------------------------------- capacities

def test_water_filling_is_the_optimum_of_a_search_over_rates():
    fill = jax.jit(reverse_water_filling)
    known = fill(jnp.array([4.0, 1.0, 0.25]), 1.5)
    assert_allclose([known.distortion, known.level], [1.1425, 0.4463], atol=5e-5)
    variances = np.array([0.3, 2.0, 5.0])
    for rate in (0.0, 0.2, 1.0, 4.0):
        found = fill(jnp.asarray(variances, jnp.float32), rate)
        a, b = np.meshgrid(*[np.linspace(0, rate, 401)] * 2)
        rates = np.stack([a, b, rate - a - b])
        errors = np.where(rates.min(0) >= -1e-9, (variances[:, None, None] * np.exp(-2 * rates)).sum(0), np.inf)
        assert_allclose(found.distortion, errors.min(), rtol=2e-3)
        assert found.distortion < errors.min() * (1 + 1e-5)
        assert_allclose(found.rates.sum(), rate, atol=1e-5)
        assert_allclose((variances * np.exp(-2 * np.asarray(found.rates))).sum(), found.distortion, rtol=1e-5)
    # The slope of the curve: one more nat takes 2 * level off the error.
    assert_allclose(jax.jit(jax.grad(lambda r: reverse_water_filling(jnp.asarray(variances), r).distortion))(1.0),
                    -2 * fill(jnp.asarray(variances), 1.0).level, rtol=1e-5)


def test_a_linear_autoencoder_under_a_growing_capacity_reaches_the_rate_distortion_curve():
    """Exact in expectation: encoder diag(a) x + s e, decoder diag(c) z; only the loss drives it, from all over."""
    variances, capacity, steps = jnp.array([4.0, 1.0, 0.25]), 1.5, 4000

    def loss(params, step):
        a, log_s, c = params
        error = variances * jnp.square(1 - c * a) + jnp.square(c) * jnp.exp(2 * log_s)
        kl = 0.5 * (variances * a**2 + jnp.exp(2 * log_s) - 1 - 2 * log_s)
        target = linear_capacity(step, 0.0, capacity, steps // 2)
        return capacity_loss(error.sum(keepdims=True), kl[None], target, gamma=10.0).loss, (error.sum(), kl.sum())

    def update(state, step):
        params, first, second = state
        gradient = jax.grad(lambda p: loss(p, step)[0])(params)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2  # Adam
        rate = 0.01 * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
        return (params - rate * first / (jnp.sqrt(second) + 1e-8), first, second), None

    start = jnp.array([[0.1, 0.1, 0.1], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    (params, *_), _ = jax.jit(lambda s: jax.lax.scan(update, s, jnp.arange(steps)))((start, 0 * start, 0 * start))
    _, (error, kl) = loss(params, steps)
    assert_allclose(kl, capacity, atol=0.01)
    assert_allclose(error, reverse_water_filling(variances, capacity).distortion, rtol=0.02)


def test_absolute_value_is_of_the_mean_and_sum_and_per_example_on_request():
    rec, kl = jnp.array([3.0, 5.0]), jnp.array([[1.0, 0.0], [0.0, 5.0]])
    batch = jax.jit(capacity_loss)(rec, kl, 3.0, 10.0)
    assert_allclose(batch.loss, 4.0)
    assert_allclose(batch.kl, [0.5, 2.5])
    assert_allclose(jax.jit(capacity_loss, static_argnames="reduce")(rec, kl, 3.0, 10.0, reduce="example").loss,
                    4.0 + 10 * 2.0)
    by_kl = jax.grad(lambda kl: capacity_loss(rec, kl, 10.0, 10.0).loss)(kl)
    assert_allclose(by_kl, -5.0)  # below the target: the KL is pushed up


def test_joint_capacity_caps_the_discrete_channel_at_what_it_can_hold():
    logits = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    alpha = np.asarray(jax.nn.softmax(logits))
    discrete = jax.jit(categorical_kl)(logits)
    assert_allclose(discrete, np.log(3) + (alpha * np.log(alpha)).sum(1), rtol=1e-5, atol=1e-6)
    rec, continuous = jnp.arange(4.0), jnp.full(4, 2.0)
    loss = jax.jit(lambda c: joint_capacity_loss(rec, continuous, discrete, 5.0, c, 30.0, 20.0, (3,)))
    assert_allclose(loss(0.5), 1.5 + 30 * 3.0 + 20 * abs(discrete.mean() - 0.5), rtol=1e-5)
    assert_allclose(loss(50.0), 1.5 + 30 * 3.0 + 20 * (np.log(3) - discrete.mean()), rtol=1e-5)
    with pytest.raises(ValueError, match="number of classes"):
        joint_capacity_loss(rec, continuous, discrete, 5.0, 5.0, 30.0, 20.0, ())


# ---------------------------------------------------------------- moments

MEAN, LOG_STD = (jnp.asarray(s * RNG.normal(size=(50, 3)) + 0.2, jnp.float32) for s in (1.5, 0.4))


def test_moments_are_those_of_the_mixture_of_posteriors():
    draws = np.asarray(MEAN) + np.exp(LOG_STD) * np.random.default_rng(1).normal(size=(20000, 50, 3))
    found = jax.jit(aggregate_moments)(MEAN, LOG_STD)
    assert_allclose(found.mean, draws.reshape(-1, 3).mean(0), atol=0.01)
    assert_allclose(found.covariance, np.cov(draws.reshape(-1, 3).T), atol=0.02)
    assert_allclose(jax.jit(aggregate_moments)(MEAN).covariance, np.cov(np.asarray(MEAN).T, bias=True), rtol=1e-5)


def test_population_kl_is_the_kl_of_the_batchs_gaussian_and_zero_only_at_the_standard_one():
    kl = jax.jit(population_kl, static_argnames="full_covariance")
    mean = np.asarray(MEAN, np.float64)
    within = np.exp(2 * np.asarray(LOG_STD, np.float64)).mean(0)
    m, v, c = mean.mean(0), mean.var(0), np.cov(mean.T, bias=True)

    def diagonal(v):
        return 0.5 * (v + m**2 - 1 - np.log(v)).sum()

    def full(c):
        return 0.5 * (np.trace(c) + m @ m - 3 - np.linalg.slogdet(c)[1])

    assert_allclose(kl(MEAN), diagonal(v), rtol=1e-5)
    assert_allclose(kl(MEAN, LOG_STD), diagonal(v + within), rtol=1e-5)
    assert_allclose(kl(MEAN, full_covariance=True), full(c), rtol=1e-5)
    assert_allclose(kl(MEAN, LOG_STD, full_covariance=True), full(c + np.diag(within)), rtol=1e-5)
    white = jnp.asarray((mean - m) @ np.linalg.inv(np.linalg.cholesky(c)).T, jnp.float32)
    scaled = white @ jnp.array([[1.0, 0.9, 0.0], [0.0, 0.19**0.5, 0.0], [0.0, 0.0, 1.0]])  # unit variances, correlated
    for value in (kl(white), kl(white, full_covariance=True), kl(scaled)):
        assert abs(value) < 1e-5
    assert_allclose(kl(scaled, full_covariance=True), -0.5 * np.log(0.19), rtol=1e-4)
    assert min(kl(white + 0.1), kl(1.1 * white), kl(0.9 * white)) > 5e-3
    assert np.isfinite(jax.jit(jax.value_and_grad(population_kl))(jnp.zeros((4, 2)))[0])
    with pytest.raises(ValueError, match="singular"):
        kl(MEAN[:3], full_covariance=True)


def test_individual_variance_kl_is_least_at_unit_variance_with_the_papers_gradient():
    log_variance = jnp.linspace(-4.0, 2.0, 13)[:, None]
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(
        lambda v: individual_variance_kl(0.5 * v[None], 0.1)[0])))(log_variance)
    assert_allclose(gradient, -0.1 * (1 - jnp.exp(log_variance)), rtol=1e-5, atol=1e-7)
    assert value.argmin() == 8 and value[8] == 0.0


def test_dip_penalties_are_the_papers_sums_and_vanish_on_white_codes():
    penalty = jax.jit(dip_penalty)
    mean, variance = np.asarray(MEAN, np.float64), np.exp(2 * np.asarray(LOG_STD, np.float64))
    one = np.cov(mean.T, bias=True)
    for c, arguments in ((one, (MEAN,)), (one + np.diag(variance.mean(0)), (MEAN, LOG_STD))):
        want = sum((3.0 if i != j else 7.0) * (c[i, j] - (i == j)) ** 2 for i in range(3) for j in range(3))
        assert_allclose(penalty(*arguments, off_diagonal=3.0, diagonal=7.0), want, rtol=1e-5)
    white = (mean - mean.mean(0)) @ np.linalg.inv(np.linalg.cholesky(one)).T
    assert penalty(jnp.asarray(white, jnp.float32)) < 1e-8


# ---------------------------------------------------------------- eight devices and one

def coupled(theta, x, y, axis_name=None):
    """Every coupled loss as a function of shared parameters and a batch; what is per example is averaged."""
    z = jnp.tanh(x @ theta) + 0.5 * x
    log_std = 0.3 * jnp.sin(x @ theta)
    kernel = inverse_multiquadric((1.0,))
    shuffled = permute_dims(jax.random.key(1), z, axis_name)
    direction = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    on_sphere = vmf_sample(jax.random.key(2), direction, jnp.exp(x[:, 0] * theta[0, 0]), axis_name)
    capacity = capacity_loss(z[:, 0] ** 2, z**2, 3.0, 2.0, "batch", axis_name)
    per_example = [beta_tc_kl(decompose_kl(z, x, log_std, 100, axis_name=axis_name)),
                   shuffled[:, 0] * shuffled[:, 1] * y[:, 0], on_sphere[:, 0] * on_sphere[:, 1]]
    return jnp.stack([v.mean() for v in per_example]), jnp.stack([
        mmd(z, y, kernel, True, axis_name), energy_distance(z, y, False, axis_name), median_bandwidth(z, y, axis_name),
        hsic(z, x, kernel, kernel, True, axis_name), kernel_stein_discrepancy(z, rbf(1.5), True, axis_name),
        capacity.loss, *capacity.kl,
        capacity_loss(z[:, 0] ** 2, z**2, 3.0, 2.0, "example", axis_name).loss,
        joint_capacity_loss(z[:, 0], z[:, 1] ** 2, z[:, 2] ** 2, 0.5, 0.5, 2.0, 3.0, (4,), axis_name),
        population_kl(z, log_std, axis_name=axis_name), population_kl(z, None, True, axis_name=axis_name),
        dip_penalty(z, log_std, 0.1, 0.1, axis_name),
    ])


def test_eight_devices_give_the_values_and_gradients_of_one():
    keys = jax.random.split(jax.random.key(0), 3)
    theta = jax.random.normal(keys[0], (3, 3))
    x, y = jax.random.normal(keys[1], (2, 16, 3))
    weights = jax.random.normal(keys[2], (17,))

    def both(theta, x, y, axis_name=None):
        def weighted(theta):
            values = coupled(theta, x, y, axis_name)
            return weights @ jnp.concatenate(values), values

        gradient, values = jax.grad(weighted, has_aux=True)(theta)
        return values, gradient

    (means, whole), gradient = jax.jit(both)(theta, x, y)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.jit(both)(theta, *jax.device_put((x, y), NamedSharding(mesh, PartitionSpec("d"))))
    replicas = jax.pmap(lambda *a: both(*a, "d"), "d", in_axes=(None, 0, 0))(
        theta, x.reshape(8, 2, 3), y.reshape(8, 2, 3))
    (each_mean, each_whole), each_gradient = replicas
    for values, by_theta in (spread, ((each_mean.mean(0), each_whole[5]), each_gradient.mean(0))):
        assert_allclose(values[0], means, rtol=1e-5, atol=1e-6)
        assert_allclose(values[1], whole, rtol=1e-5, atol=1e-6)
        assert_allclose(by_theta, gradient, rtol=1e-5, atol=1e-5)
    assert_allclose(each_whole, np.broadcast_to(whole, each_whole.shape), rtol=1e-5, atol=1e-6)
