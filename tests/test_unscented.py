"""Sigma points and the unscented autoencoder's penalties against moments, Jacobians and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

from jaxae.losses.unscented import (
    cholesky_from_correlations,
    scaled_gradient_penalty,
    select_sigma,
    sigma_points,
    sigma_reconstruction,
    wasserstein_to_standard,
)

N, D = 5, 4
RNG = np.random.default_rng(0)
MEAN = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
STD = jnp.asarray(np.exp(0.5 * RNG.normal(size=(N, D))), jnp.float32)
CHOLESKY = jnp.asarray(np.tril(RNG.normal(size=(N, D, D)), -1) + np.exp(RNG.normal(size=(N, 1, D))) * np.eye(D),
                       jnp.float32)
COVARIANCE = np.einsum("nij,nkj->nik", CHOLESKY, CHOLESKY)
OUT = jnp.asarray(RNG.normal(size=(D, 6)), jnp.float32)
POINTS = jax.jit(sigma_points)(MEAN, STD).points


def decode(z):
    return jnp.sin(z @ OUT).reshape(-1, 2, 3) * 2.0


@pytest.mark.parametrize("kappa", [1e-3, 1.0, -2.0])
def test_weighted_moments_are_those_of_the_gaussian(kappa):
    points, weights = jax.jit(sigma_points, static_argnums=2)(MEAN, CHOLESKY, kappa)
    assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    assert_allclose(np.einsum("p,npi->ni", weights, points), MEAN, rtol=1e-4, atol=1e-4)
    centred = np.asarray(points - MEAN[:, None], np.float64)
    assert_allclose(np.einsum("p,npi,npj->nij", weights, centred, centred), COVARIANCE, rtol=1e-4, atol=1e-4)
    # Equal weights, which the unscented autoencoder uses, stretch the covariance by a known factor.
    equal = np.einsum("npi,npj->nij", centred, centred) / (2 * D + 1)
    assert_allclose(equal, COVARIANCE * 2 * (D + kappa) / (2 * D + 1), rtol=1e-4, atol=1e-4)


def test_rows_in_place_of_columns_would_be_seen():
    wrong = np.einsum("nji,njk->nik", CHOLESKY, CHOLESKY)  # L^T L
    assert np.abs(wrong - COVARIANCE).max((1, 2)).min() > 0.1


def test_expectation_of_a_quadratic_decoder_is_exact():
    a = np.asarray(RNG.normal(size=(D, D)), np.float32)
    points, weights = jax.jit(sigma_points)(MEAN, CHOLESKY)
    quadratic = jnp.einsum("npi,ij,npj->np", points, a, points) @ weights
    want = np.einsum("ni,ij,nj->n", MEAN, a, MEAN) + np.einsum("ij,nji->n", a, COVARIANCE)
    assert_allclose(quadratic, want, rtol=1e-3, atol=1e-3)


def test_standard_deviations_are_a_diagonal_factor():
    diagonal = sigma_points(MEAN, jax.vmap(jnp.diag)(STD))
    jax.tree.map(partial(assert_allclose, rtol=1e-6), sigma_points(MEAN, STD), diagonal)


def indices(chosen):
    """Which sigma point each chosen one is, `[n k]`."""
    distance = np.abs(np.asarray(chosen)[:, :, None] - np.asarray(POINTS)[:, None]).sum(-1)
    assert distance.min(-1).max() == 0
    return distance.argmin(-1)


@pytest.mark.parametrize("method, k", [("random", 4), ("pairs", 4), ("mean_pairs", 5)])
def test_random_selections_are_uniform_over_what_they_choose_from(method, k):
    repeats = 600
    draw = jax.jit(jax.vmap(lambda key: select_sigma(key, POINTS, STD, k, method)))
    index = np.stack([indices(c) for c in np.asarray(draw(jax.random.split(jax.random.key(0), repeats)))])
    assert (np.diff(np.sort(index, -1), axis=-1) > 0).all()  # all different
    assert (index[:, 0] != index[:, 1]).any()  # every example draws for itself
    counts = np.bincount(index.ravel(), minlength=2 * D + 1)
    if method != "random":
        pairs = index[..., k % 2:]
        half = k // 2
        assert (pairs[..., :half] + D == pairs[..., half:]).all()
        assert (index[..., :k % 2] == 0).all()
        counts = counts[1:]
    each = counts.sum() / counts.size if method == "random" else repeats * N * half / D
    assert np.abs(counts - each).max() < 5 * np.sqrt(each)


@pytest.mark.parametrize("k", [4, 5])
def test_largest_and_smallest_take_the_axes_in_order_of_size(k):
    for method, sign in (("largest", -1), ("smallest", 1)):
        chosen = jax.jit(select_sigma, static_argnums=(3, 4))(jax.random.key(0), POINTS, STD, k, method)
        axes = np.argsort(sign * np.asarray(STD), 1)[:, :2]
        mean = np.zeros((N, k - 4), int)
        np.testing.assert_array_equal(indices(chosen), np.concatenate([mean, axes + 1, axes + 1 + D], 1))


def test_gradients_reach_mean_and_std_through_chosen_points():
    def f(mean, std):
        chosen = select_sigma(jax.random.key(1), sigma_points(mean, std).points, std, 3, "mean_pairs")
        return jnp.square(chosen).sum()

    by_mean, by_std = jax.jit(jax.grad(f, (0, 1)))(MEAN, STD)
    assert_allclose(by_mean, 6 * MEAN, rtol=1e-4)
    assert ((np.abs(by_std) > 0).sum(1) == 1).all()  # one pair, one axis
    assert_allclose(by_std.sum(1), 4 * (D + 1e-3) * (STD * (by_std != 0)).sum(1), rtol=1e-4)


def test_cholesky_from_correlations_is_entrywise_the_definition_and_a_cholesky_factor():
    log_std, r = jnp.log(STD), jnp.tanh(jnp.asarray(RNG.normal(size=(N, 6)), jnp.float32))
    factor = np.asarray(jax.jit(cholesky_from_correlations)(log_std, r))
    want, at = np.zeros((N, D, D)), 0
    for i in range(D):
        want[:, i, i] = STD[:, i]
        for j in range(i):
            want[:, i, j] = r[:, at] * STD[:, i] * STD[:, j]
            at += 1
    assert_allclose(factor, want, rtol=1e-5)
    assert_allclose(np.linalg.cholesky(want @ want.transpose(0, 2, 1)), want, rtol=1e-5, atol=1e-6)


def test_wasserstein_distance_is_exact_for_a_diagonal_and_above_it_for_a_factor():
    def distance(mean, covariance):
        root = scipy.linalg.sqrtm(covariance).real
        return np.sum(np.asarray(mean) ** 2) + np.trace(covariance + np.eye(D) - 2 * root)

    exact = [distance(m, np.diag(np.asarray(s, np.float64) ** 2)) for m, s in zip(MEAN, STD, strict=True)]
    assert_allclose(jax.jit(wasserstein_to_standard)(MEAN, STD), exact, rtol=1e-4)
    above = jax.jit(wasserstein_to_standard)(MEAN, CHOLESKY)
    assert (np.asarray(above) > [distance(m, c) for m, c in zip(MEAN, COVARIANCE, strict=True)]).all()
    unsquared = jax.jit(partial(wasserstein_to_standard, squared=False))
    norms = np.linalg.norm(MEAN, axis=1) + np.linalg.norm(CHOLESKY - np.eye(D), axis=(1, 2))
    assert_allclose(unsquared(MEAN, CHOLESKY), norms, rtol=1e-5)
    at_standard = jax.jit(jax.grad(lambda m, s: unsquared(m, s).sum(), (0, 1)))(jnp.zeros((1, 3)), jnp.ones((1, 3)))
    assert not np.any(np.asarray(at_standard))  # and not NaN


def test_sigma_reconstruction_goes_from_the_error_of_the_mean_to_the_mean_of_the_errors():
    x, decoded = RNG.normal(size=(N, 2, 3)).astype(np.float32), RNG.normal(size=(N, 7, 2, 3)).astype(np.float32)
    of_mean = ((x - decoded.mean(1)) ** 2).sum((1, 2))
    each = ((x[:, None] - decoded) ** 2).sum((2, 3)).mean(1)
    f = jax.jit(sigma_reconstruction)
    assert_allclose(f(jnp.asarray(x), jnp.asarray(decoded)), of_mean, rtol=1e-5)
    assert_allclose(f(jnp.asarray(x), jnp.asarray(decoded), 1.0), each, rtol=1e-5)


JACOBIANS = np.asarray(jax.jit(jax.vmap(jax.jacfwd(lambda z: decode(z[None])[0].ravel())))(MEAN), np.float64)


def test_gradient_penalty_is_the_largest_eigenvalue_times_the_norm_of_the_jacobian():
    frobenius = (JACOBIANS**2).sum((1, 2))
    largest = np.linalg.eigvalsh(COVARIANCE)[:, -1]
    assert (largest > 1.05 * COVARIANCE.max((1, 2))).any()  # the largest entry is another number
    f = jax.jit(partial(scaled_gradient_penalty, decode, ceiling=1e6))
    assert_allclose(f(MEAN, CHOLESKY), largest * frobenius, rtol=1e-4)
    assert_allclose(f(MEAN, STD), np.asarray(STD).max(1) ** 2 * frobenius, rtol=1e-4)
    # It bounds the spread of decoded noise to first order.
    assert (f(MEAN, CHOLESKY) > np.einsum("nai,nij,naj->n", JACOBIANS, COVARIANCE, JACOBIANS)).all()
    clipped = jax.jit(partial(scaled_gradient_penalty, decode, ceiling=0.5))(MEAN, 10.0 * STD)
    assert_allclose(clipped, 0.5 * frobenius, rtol=1e-4)


def test_hutchinsons_estimate_is_unbiased_and_the_summed_gradient_is_the_published_one():
    frobenius = (JACOBIANS**2).sum((1, 2))
    estimate = jax.jit(jax.vmap(lambda key: scaled_gradient_penalty(decode, MEAN, jnp.ones_like(MEAN), key=key,
                                                                    probes=2)))
    draws = np.asarray(estimate(jax.random.split(jax.random.key(2), 2000)), np.float64)
    standard_error = draws.std(0) / np.sqrt(2000)
    assert (np.abs(draws.mean(0) - frobenius) / standard_error).max() < 4 and standard_error.max() > 0
    # Var(e' A e) = 2 sum_{i != j} A_ij^2 for signs e, halved by two probes.
    gram = np.einsum("nai,naj->nij", JACOBIANS, JACOBIANS)
    off = (gram**2).sum((1, 2)) - (np.diagonal(gram, axis1=1, axis2=2) ** 2).sum(1)
    assert_allclose(draws.var(0), off, rtol=0.2)
    published = jax.jit(partial(scaled_gradient_penalty, decode, norm="sum", squared=False))(MEAN, jnp.ones((N, D)))
    assert_allclose(published, np.linalg.norm(JACOBIANS.sum(1), axis=1), rtol=1e-4)


def test_the_penalty_differentiates_where_eigenvalues_are_equal():
    def f(mean, factor):
        return scaled_gradient_penalty(decode, mean, factor).sum()

    by_mean, by_factor = jax.jit(jax.grad(f, (0, 1)))(MEAN, jnp.broadcast_to(jnp.eye(D), (N, D, D)))
    assert np.isfinite(by_mean).all() and np.isfinite(by_factor).all()
    step = 1e-2
    at = jax.jit(f)
    slope = (at(MEAN.at[0, 0].add(step), CHOLESKY) - at(MEAN.at[0, 0].add(-step), CHOLESKY)) / (2 * step)
    assert_allclose(jax.jit(jax.grad(f))(MEAN, CHOLESKY)[0, 0], slope, rtol=2e-2)


@pytest.mark.parametrize("what", ["random", "pairs", "penalty"])
def test_one_device_is_eight(what):
    n, key = 16, jax.random.key(3)
    mean, std = jnp.linspace(-1, 1, n * D).reshape(n, D), jnp.linspace(0.5, 2, n * D).reshape(n, D)

    def step(mean, std, axis_name=None):
        def loss(mean):
            if what == "penalty":
                each = scaled_gradient_penalty(decode, mean, std, key=key, axis_name=axis_name)
            else:
                chosen = select_sigma(key, sigma_points(mean, std).points, std, 2, what, axis_name)
                each = jnp.square(decode(chosen.reshape(-1, D))).reshape(mean.shape[0], -1).sum(1)
            return each.mean(), each
        gradient, each = jax.grad(loss, has_aux=True)(mean)
        return gradient * mean.shape[0], each  # of each example's own, since none sees another

    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("d")
    one = jax.jit(step)(mean, std)
    spread = jax.jit(step)(*jax.device_put((mean, std), NamedSharding(mesh, rows)))
    mapped = jax.jit(jax.shard_map(lambda m, s: step(m, s, "d"), mesh=mesh, in_specs=rows, out_specs=rows))(mean, std)
    replicas = jax.pmap(lambda m, s: step(m, s, "d"), "d")(mean.reshape(8, 2, D), std.reshape(8, 2, D))
    pmapped = replicas[0].reshape(n, D), replicas[1].reshape(n)
    for other in (spread, mapped, pmapped):
        jax.tree.map(partial(assert_allclose, rtol=1e-4, atol=1e-5), other, one)


def test_bad_input_is_told_what_to_do():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="kappa > -4"):
        sigma_points(MEAN, STD, -4.0)
    with pytest.raises(ValueError, match="got \\(5, 3\\)"):
        sigma_points(MEAN, jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="choose one of random, pairs"):
        select_sigma(key, POINTS, STD, 2, "median")
    for method, k in (("pairs", 3), ("mean_pairs", 2), ("random", 10), ("largest", 0)):
        with pytest.raises(ValueError, match="even for pairs, odd for mean_pairs"):
            select_sigma(key, POINTS, STD, k, method)
    with pytest.raises(ValueError, match="want 6 correlations"):
        cholesky_from_correlations(STD, jnp.ones((N, 4)))
    with pytest.raises(ValueError, match="'sum' or 'jacobian'"):
        scaled_gradient_penalty(decode, MEAN, STD, "spectral")
    with pytest.raises(ValueError, match="\\[n k ...\\]"):
        sigma_reconstruction(jnp.ones((2, 3)), jnp.ones((2, 3)))
