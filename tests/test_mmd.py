"""Kernel distances against double loops in float64, closed forms for Gaussians, and their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxae.losses.mmd import (
    WAE_SCALES,
    energy_distance,
    hsic,
    inverse_multiquadric,
    kernel_stein_discrepancy,
    median_bandwidth,
    mmd,
    rbf,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32) + 100.0  # an offset that a careless |x|^2 + |y|^2 - 2 x.y is lost in
Y = (1.4 * RNG.normal(size=(9, 3)) + 100.5).astype(np.float32)
H, STD = 1.3, 0.8


def k_rbf(a, b, h=H):
    return np.exp(-((a - b) ** 2).sum() / (2 * h**2))


def k_imq(a, b):
    return sum(s * 2 * 3 * STD**2 / (s * 2 * 3 * STD**2 + ((a - b) ** 2).sum()) for s in WAE_SCALES)


def k_two(a, b):
    return k_rbf(a, b, 0.5) + k_rbf(a, b, 2.0)


def k_energy(a, b):
    return -np.sqrt(((a - b) ** 2).sum())


def double_loop(k, x, y, unbiased):
    x, y = x.astype(np.float64), y.astype(np.float64)

    def within(z):
        values = [k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j or not unbiased]
        return np.mean(values)

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_and_energy_distance_are_the_double_loops(unbiased):
    def all_of_them(x, y):
        return [mmd(x, y, rbf(H), unbiased), mmd(x, y, inverse_multiquadric(std=STD), unbiased),
                mmd(x, y, rbf((0.5, 2.0)), unbiased), energy_distance(x, y, unbiased)]

    want = [double_loop(k, X, Y, unbiased) for k in (k_rbf, k_imq, k_two, k_energy)]
    assert_allclose(jax.jit(all_of_them)(X, Y), want, rtol=2e-5, atol=1e-6)


def test_gradients_are_finite_differences_also_at_equal_points():
    x, y = X - 100.0, Y - 100.0
    y[0] = x[0]  # a distance of zero, whose root has no derivative

    def f(x):
        return mmd(x, jnp.asarray(y), inverse_multiquadric(), False), energy_distance(x, jnp.asarray(y))

    by_mmd, by_energy = jax.jit(jax.jacrev(f))(x)
    assert np.isfinite(by_energy).all()
    for k, gradient, unbiased in ((lambda a, b: sum(s * 6 / (s * 6 + ((a - b) ** 2).sum()) for s in WAE_SCALES),
                                   by_mmd, False), (k_energy, by_energy, True)):
        for i, j in ((3, 0), (7, 2)):
            step = np.zeros(x.shape)
            step[i, j] = 1e-4
            slope = (double_loop(k, x + step, y, unbiased) - double_loop(k, x - step, y, unbiased)) / 2e-4
            assert_allclose(gradient[i, j], slope, rtol=1e-4, atol=1e-6)
    same = jax.jit(jax.grad(lambda x: energy_distance(x, jnp.asarray(X), False)))(X)
    assert np.abs(same).max() < 1e-5  # every point has its twin: no force


def test_mmd_of_two_gaussians_is_the_closed_form_and_only_the_u_statistic_is_unbiased():
    """E k between N(0, I) and N(m, I) is (h^2 / (h^2 + 2))^(d/2) e^(-|m|^2 / (2 (h^2 + 2)))."""
    d, h, n, repeats = 3, 1.5, 50, 400
    m = np.array([0.5, -0.3, 0.2])
    inner = (h**2 / (h**2 + 2)) ** (d / 2)
    truth = 2 * inner * (1 - np.exp(-(m @ m) / (2 * (h**2 + 2))))

    def estimates(key, shift):
        x, y = jax.random.normal(key, (2, n, d))
        return mmd(x, y + shift, rbf(h)), mmd(x, y + shift, rbf(h), unbiased=False)

    many = jax.jit(jax.vmap(estimates, (0, None)))
    for shift, want in ((m, truth), (0 * m, 0.0)):
        u, v = (np.asarray(e) for e in many(jax.random.split(jax.random.key(1), repeats), jnp.asarray(shift)))
        error = u.std() / np.sqrt(repeats)
        assert abs(u.mean() - want) < 3 * error
        # The V-statistic is too large by (k(0) - E k) 2 / n.
        assert_allclose(v.mean() - u.mean(), 2 / n * (1 - inner), rtol=0.02)
        assert v.min() > 0 and (want > 0 or u.min() < 0)


def test_hsic_is_the_mmd_of_joint_and_product_and_its_u_statistic_the_sum_over_quadruples():
    n = 8
    x = RNG.normal(size=(n, 2))
    y = np.concatenate([np.sin(2 * x), RNG.normal(size=(n, 1))], 1)

    def compute(x, y):
        return [hsic(x, y, rbf(0.9), rbf(1.2), unbiased) for unbiased in (True, False)]

    u, v = jax.jit(compute)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    k = np.array([[k_rbf(a, b, 0.9) for b in x] for a in x])
    ell = np.array([[k_rbf(a, b, 1.2) for b in y] for a in y])
    pairs = [(i, i) for i in range(n)], [(i, j) for i in range(n) for j in range(n)]

    def mean_kernel(p, q):
        return np.mean([[k[a, c] * ell[b, e] for c, e in q] for a, b in p])

    joint, product = pairs
    want = mean_kernel(joint, joint) + mean_kernel(product, product) - 2 * mean_kernel(joint, product)
    assert_allclose(v, want, rtol=1e-4)
    quadruples = [k[i, j] * (ell[i, j] + ell[q, r] - 2 * ell[i, q]) for i in range(n) for j in range(n)
                  for q in range(n) for r in range(n) if len({i, j, q, r}) == 4]
    assert_allclose(u, np.mean(quadruples), rtol=1e-4)


def test_hsic_is_zero_in_expectation_for_independent_samples_and_not_for_uncorrelated_dependent_ones():
    def estimates(key):
        x, y = jax.random.normal(key, (2, 30, 1))
        kernel = rbf(1.0)
        return hsic(x, y, kernel, kernel), hsic(x, y, kernel, kernel, False), hsic(x, jnp.square(x), kernel, kernel)

    u, v, dependent = (np.asarray(e) for e in jax.jit(jax.vmap(estimates))(jax.random.split(jax.random.key(2), 300)))
    assert abs(u.mean()) < 3 * u.std() / np.sqrt(u.size) < 0.2 * v.mean()
    assert dependent.mean() > 20 * u.std() / np.sqrt(u.size)


@pytest.mark.parametrize("kernel", [rbf(1.7), inverse_multiquadric((0.5,), power=0.5)], ids=["rbf", "imq"])
def test_stein_kernel_is_its_definition_by_automatic_differentiation(kernel):
    def k(a, b):
        return kernel(a[None], b[None])[0, 0]

    def stein(a, b):  # s = -z
        by_a, by_b = jax.grad(k, 0), jax.grad(k, 1)
        trace = jnp.trace(jax.jacfwd(by_a, 1)(a, b))
        return a @ b * k(a, b) - a @ by_b(a, b) - b @ by_a(a, b) + trace

    z = jnp.asarray(X[:6] - 100.0)
    pairs = jax.jit(jax.vmap(jax.vmap(stein, (None, 0)), (0, None)))(z, z)
    got = jax.jit(lambda z: kernel_stein_discrepancy(z, kernel))(z)
    assert_allclose(got, (pairs.sum() - jnp.trace(pairs)) / 30, rtol=1e-4)


def test_stein_discrepancy_vanishes_on_the_prior_only():
    kernel = inverse_multiquadric((1.0,), power=0.5)

    def estimates(key):
        z = jax.random.normal(key, (40, 4))
        return (*(kernel_stein_discrepancy(w, kernel) for w in (z, z + 0.5, 1.3 * z, 0.7 * z)),
                kernel_stein_discrepancy(z, kernel, unbiased=False))

    u, shifted, wide, narrow, v = jax.jit(jax.vmap(estimates))(jax.random.split(jax.random.key(3), 300))
    error = u.std() / np.sqrt(u.size)
    assert abs(u.mean()) < 3 * error
    assert min(shifted.mean(), wide.mean(), narrow.mean()) > 10 * error and v.min() > 0


def test_median_bandwidth_is_the_median_of_all_pairs_and_moves_nothing():
    pooled = np.concatenate([X, Y]).astype(np.float64)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]]
    value, gradient = jax.jit(jax.value_and_grad(median_bandwidth))(X, Y)
    assert_allclose(value, np.median(distances), rtol=1e-5)
    assert not np.any(gradient)


def test_no_tensor_of_pairs_by_dimensions_is_made():
    """Value and gradient at n = 512, d = 64 take a few [n n] matrices; [n n d] would take 64 MB."""
    x = jax.ShapeDtypeStruct((512, 64), jnp.float32)
    f = jax.jit(jax.value_and_grad(lambda x, y: mmd(x, y, inverse_multiquadric())))
    assert f.lower(x, x).compile().memory_analysis().temp_size_in_bytes < 40e6


def test_bad_input_is_one_clear_error():
    with pytest.raises(ValueError, match="of one dimension"):
        mmd(jnp.zeros((4, 2)), jnp.zeros((4, 3)), rbf(1.0))
    with pytest.raises(ValueError, match="at least 2"):
        mmd(jnp.zeros((1, 2)), jnp.zeros((4, 2)), rbf(1.0))
    with pytest.raises(ValueError, match="at least 4"):
        hsic(jnp.zeros((3, 2)), jnp.zeros((3, 2)), rbf(1.0), rbf(1.0))
