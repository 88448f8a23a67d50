"""KL and 2-Wasserstein between Gaussians, and the von Mises-Fisher distribution, against quadrature and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose

from jaxae.losses.elbo import gaussian_kl
from jaxae.losses.gaussian import cholesky_kl, gaussian_wasserstein
from jaxae.losses.von_mises_fisher import vmf_kl, vmf_log_normalizer, vmf_log_prob, vmf_mean_length, vmf_sample

RNG = np.random.default_rng(0)
kl, w2 = jax.jit(cholesky_kl), jax.jit(gaussian_wasserstein)


def gaussians(n, d):
    factor = np.tril(0.5 * RNG.normal(size=(n, d, d)), -1) + np.exp(0.4 * RNG.normal(size=(n, d, 1))) * np.eye(d)
    return jnp.asarray(RNG.normal(size=(n, d)), jnp.float32), jnp.asarray(factor, jnp.float32)


def test_kl_of_correlated_gaussians_is_the_integral():
    (mean, mean2), (factor, factor2) = gaussians(2, 2)
    grid = np.linspace(-9, 9, 401)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    p, q = (scipy.stats.multivariate_normal(m, np.asarray(f) @ np.asarray(f).T).logpdf(points)
            for m, f in ((mean, factor), (mean2, factor2)))
    standard = scipy.stats.norm.logpdf(points).sum(-1)
    for other, arguments in ((q, (mean2[None], factor2[None])), (standard, ())):
        want = scipy.integrate.simpson(scipy.integrate.simpson(np.exp(p) * (p - other), x=grid), x=grid)
        assert_allclose(kl(mean[None], factor[None], *arguments)[0], want, rtol=1e-5)


def test_kl_of_many_to_one_equals_each_and_the_diagonal_form():
    mean, factor = gaussians(3, 4)
    mean2, factor2 = gaussians(1, 4)
    each = [kl(mean[i:i + 1], factor[i:i + 1], mean2, factor2)[0] for i in range(3)]
    assert_allclose(kl(mean, factor, mean2, factor2), each, rtol=1e-6)
    log_std = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2))
    diagonal = jax.vmap(jnp.diag)(jnp.exp(log_std))
    assert_allclose(kl(mean, diagonal), gaussian_kl(mean, log_std), rtol=1e-5)
    assert_allclose(kl(mean, factor, mean, factor), 0.0, atol=2e-6)
    by_factor = jax.jit(jax.grad(lambda f: cholesky_kl(mean, f, mean2, factor2).sum()))(factor)
    assert not np.triu(np.asarray(by_factor[0]), 1).any() and np.isfinite(by_factor).all()
    with pytest.raises(ValueError, match="vmf_sample wants"):
        vmf_sample(jax.random.key(0), mean[:, :1], mean[:, 0])


def test_wasserstein_is_the_bures_formula_with_matrix_roots():
    mean, factor = gaussians(3, 4)
    mean2, factor2 = gaussians(3, 4)
    covariance, covariance2 = (np.einsum("nij,nkj->nik", f, f).astype(np.float64) for f in (factor, factor2))
    standard, between = [], []
    for i in range(3):
        root = scipy.linalg.sqrtm(covariance[i]).real
        standard.append((mean[i] ** 2).sum() + ((root - np.eye(4)) ** 2).sum())
        cross = scipy.linalg.sqrtm(root @ covariance2[i] @ root).real
        between.append(((mean[i] - mean2[i]) ** 2).sum() + np.trace(covariance[i] + covariance2[i] - 2 * cross))
    assert_allclose(w2(mean, factor), standard, rtol=1e-5)
    assert_allclose(w2(mean, factor, mean2, factor2), between, rtol=1e-4)
    # |L - I|_F^2 is an upper bound, and exact for standard deviations.
    bound = (mean**2).sum(1) + ((factor - jnp.eye(4)) ** 2).sum((1, 2))
    assert (w2(mean, factor) < bound - 1e-3).all()
    std, std2 = (jnp.diagonal(f, axis1=1, axis2=2) for f in (factor, factor2))
    diagonal, diagonal2 = jax.vmap(jnp.diag)(std), jax.vmap(jnp.diag)(std2)
    assert_allclose(w2(mean, std, mean2, std2), w2(mean, diagonal, mean2, diagonal2), rtol=1e-4)
    assert_allclose(w2(mean, std), w2(mean, diagonal), rtol=1e-5)


def test_wasserstein_equals_the_distance_of_quantiles_in_one_dimension():
    def cost(u):
        return (scipy.stats.norm.ppf(u, 0.3, 1.7) - scipy.stats.norm.ppf(u, -1.0, 0.4)) ** 2

    want = scipy.integrate.quad(cost, 0, 1)[0]
    one, two = (jnp.full((1, 1), 0.3), jnp.full((1, 1), 1.7)), (jnp.full((1, 1), -1.0), jnp.full((1, 1), 0.4))
    assert_allclose(w2(*one, *two)[0], want, rtol=1e-4)


def test_wasserstein_gradient_is_finite_for_equal_singular_values_and_right_elsewhere():
    mean, factor = gaussians(1, 3)
    gradient = jax.jit(jax.grad(lambda f: gaussian_wasserstein(mean, f).sum()))
    assert np.abs(gradient(jnp.eye(3)[None])).max() < 1e-5
    assert_allclose(gradient(2.0 * jnp.eye(3)[None]), 2.0 * jnp.eye(3)[None], atol=1e-5)
    root = scipy.linalg.sqrtm(np.asarray(factor[0] @ factor[0].T)).real  # d/dL = 2 (I - Sigma^(-1/2)) L
    assert_allclose(gradient(factor)[0], 2 * (np.eye(3) - np.linalg.inv(root)) @ np.asarray(factor[0]), rtol=1e-4,
                    atol=1e-5)


# ---------------------------------------------------------------- von Mises-Fisher

KAPPA = np.array([0.01, 0.3, 1.0, 5.0, 40.0, 300.0])


def bessel(kappa, dim):
    """A, log C and the KL in float64, or NaN where scipy's Bessel function underflows."""
    v = dim / 2 - 1
    with np.errstate(all="ignore"):
        length = scipy.special.ive(v + 1, kappa) / scipy.special.ive(v, kappa)
        log_c = v * np.log(kappa) - dim / 2 * np.log(2 * np.pi) - np.log(scipy.special.ive(v, kappa)) - kappa
    area = np.log(2) + dim / 2 * np.log(np.pi) - scipy.special.gammaln(dim / 2)
    return length, log_c, kappa * length + log_c + area


@pytest.mark.parametrize("dim", [2, 3, 10, 257])
def test_vmf_statistics_are_those_of_scipys_bessel_functions(dim):
    length, log_c, divergence = bessel(KAPPA, dim)

    def compute(kappa):
        value, slope = jax.vmap(jax.value_and_grad(lambda k: vmf_kl(k, dim)))(kappa)
        return vmf_mean_length(kappa, dim), vmf_log_normalizer(kappa, dim), value, slope

    got = jax.jit(compute)(jnp.asarray(KAPPA, jnp.float32))
    known = np.isfinite(log_c) & np.isfinite(length)
    assert known.sum() >= 3
    assert_allclose(got[0][known], length[known], rtol=1e-6)
    assert_allclose(got[1][known], log_c[known], rtol=1e-6, atol=2e-5)
    well = known & (divergence > 1e-3)  # below, the difference of Bessel functions has lost its digits even in float64
    assert_allclose(got[2][well], divergence[well], rtol=1e-5)
    by_kappa = KAPPA * (1 - length**2 - (dim - 1) / KAPPA * length)  # kappa A'
    assert_allclose(got[3][well], by_kappa[well], rtol=2e-5)


@pytest.mark.parametrize("dim", [2, 2000])
def test_vmf_kl_has_its_limits_at_both_ends(dim):
    def compute(kappa):
        return jax.vmap(jax.value_and_grad(lambda k: vmf_kl(k, dim)))(kappa)

    value, slope = jax.jit(compute)(jnp.array([0.0, 1e-4, 1e-2, 1e7]))
    assert value[0] == 0.0 and slope[0] == 0.0
    assert_allclose(value[1:3], np.array([1e-4, 1e-2]) ** 2 / (2 * dim), rtol=1e-4)
    assert_allclose(slope[1:3], np.array([1e-4, 1e-2]) / dim, rtol=1e-4)
    area = np.log(2) + dim / 2 * np.log(np.pi) - scipy.special.gammaln(dim / 2)
    # A Gaussian of variance 1 / kappa on the tangent space.
    assert_allclose(value[3], (dim - 1) / 2 * (np.log(1e7) - np.log(2 * np.pi) - 1) + area, rtol=2e-3)
    assert_allclose(slope[3], (dim - 1) / 2 / 1e7, rtol=1e-3)


def test_vmf_density_integrates_to_one_and_gives_the_kl_on_the_circle():
    angle = np.linspace(-np.pi, np.pi, 2001)
    points = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
    log_p = np.asarray(jax.jit(vmf_log_prob)(points, jnp.array([0.6, 0.8]), jnp.float32(3.0)), np.float64)
    assert_allclose(log_p, scipy.stats.vonmises(3.0, np.arctan2(0.8, 0.6)).logpdf(angle), atol=1e-5)
    assert_allclose(scipy.integrate.simpson(np.exp(log_p) * (log_p + np.log(2 * np.pi)), x=angle),
                    vmf_kl(jnp.array(3.0), 2), rtol=1e-5)
    with pytest.raises(ValueError, match="d >= 2"):
        vmf_kl(jnp.array(1.0), 1)


@pytest.mark.parametrize("dim", [2, 20])
def test_vmf_samples_have_the_law_of_the_density_and_pathwise_gradients_of_its_moments(dim):
    n, kappas = 8000, jnp.array([0.0, 2.0, 60.0])
    centre = np.asarray(RNG.normal(size=dim))
    mean = jnp.asarray(np.tile(centre / np.linalg.norm(centre), (n, 1)), jnp.float32)

    def draws(key, kappa):
        return jax.jvp(lambda k: vmf_sample(key, mean, k), (jnp.full(n, kappa),), (jnp.ones(n),))

    x, moved = jax.jit(jax.vmap(draws))(jax.random.split(jax.random.key(dim), 3), kappas)
    x, moved = np.asarray(x, np.float64), np.asarray(moved, np.float64)
    assert_allclose((x**2).sum(-1), 1.0, atol=2e-6)
    for k, kappa in enumerate(np.asarray(kappas)):
        w, along = x[k] @ np.asarray(mean[0]), moved[k] @ np.asarray(mean[0])
        length, slope = (float(f(jnp.float32(kappa))) for f in (
            lambda k: vmf_mean_length(k, dim), jax.grad(lambda k: vmf_mean_length(k, dim))))
        assert abs(w.mean() - length) < 4 * w.std() / np.sqrt(n)
        assert_allclose(w.var(), slope, rtol=0.05)  # A' is the variance of w
        assert abs(along.mean() - slope) < 4 * along.std() / np.sqrt(n)  # d E[w] / d kappa
        # The whole law of w, by Kolmogorov and Smirnov.
        grid = np.linspace(0, np.pi, 20001)
        density = np.sin(grid) ** (dim - 2) * np.exp(kappa * (np.cos(grid) - 1))
        distribution = scipy.integrate.cumulative_trapezoid(density, grid, initial=0)
        angle = np.arccos(np.clip(w, -1, 1))
        uniform = np.interp(angle, grid, distribution / distribution[-1])
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-3
        # Around the mean direction nothing is preferred.
        across = x[k] - w[:, None] * np.asarray(mean[0])
        spread = across.T @ across / n
        assert_allclose(spread, (1 - (w**2).mean()) / (dim - 1) * (np.eye(dim) - np.outer(mean[0], mean[0])),
                        atol=5 / np.sqrt(n) * (1 - (w**2).mean()))


def test_vmf_sample_moves_with_kappa_as_its_quantile_and_turns_with_the_mean():
    """On S^2 the distribution of w is F = (e^(k w) - e^-k) / (e^k - e^-k): dw/dk = -dF/dk / F' point by point."""
    n = 64
    mean = jnp.tile(jnp.array([[0.0, 1.0, 0.0]]), (n, 1))
    kappa = jnp.linspace(0.2, 30.0, n)
    turn, still = np.array([0.6, 0.0, -0.8]), jnp.zeros(n)
    turns = jnp.tile(jnp.asarray(turn, jnp.float32), (n, 1))

    def moves(by_mean, by_kappa):
        return jax.jvp(lambda m, k: vmf_sample(jax.random.key(0), m, k), (mean, kappa), (by_mean, by_kappa))

    moves = jax.jit(moves)
    (x, moved), (_, by_mean) = moves(0.0 * turns, still + 1.0), moves(turns, still)
    w, k = np.asarray(x[:, 1], np.float64), np.asarray(kappa, np.float64)

    def distribution(k):
        return np.expm1(k * (w + 1)) / np.expm1(2 * k)

    want = -(distribution(k + 1e-4) - distribution(k - 1e-4)) / 2e-4 / (k * np.exp(k * (w + 1)) / np.expm1(2 * k))
    assert_allclose(moved[:, 1], want, rtol=2e-3, atol=2e-5)
    x = np.asarray(x, np.float64)
    assert_allclose(by_mean, x[:, 1:2] * turn - (x @ turn)[:, None] * np.asarray(mean), atol=1e-6)


def test_vmf_gradient_in_the_mean_is_that_of_the_expectation():
    """E (a.x)^2 = (1 - E w^2) / (d - 1) (|a|^2 - (a.m)^2) + E w^2 (a.m)^2, with E w^2 = 1 - (d - 1) A / kappa."""
    n, dim, kappa, a = 20000, 3, 4.0, np.array([0.5, 1.0, -0.3])
    second = 1 - (dim - 1) * bessel(np.array(kappa), dim)[0] / kappa

    def gradient(mean):
        def squared(m):
            return (vmf_sample(jax.random.key(1), m, jnp.full(n, kappa)) @ jnp.asarray(a, jnp.float32)) ** 2

        return jax.jvp(squared, (mean,), (jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (n, 1)),))[1]

    each = np.asarray(jax.jit(gradient)(jnp.tile(jnp.array([[0.0, 0.8, 0.6]]), (n, 1))), np.float64)
    along = 2 * (a @ np.array([0.0, 0.8, 0.6])) * a[0]  # d (a.m)^2
    assert abs(each.mean() - (second - (1 - second) / (dim - 1)) * along) < 4 * each.std() / np.sqrt(n)
    assert abs(each.mean()) > 20 * each.std() / np.sqrt(n)
