"""Estimates of q(z) and the parts of the KL against enumeration, quadrature and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose

from jaxae.losses.total_correlation import (
    aggregate_log_density,
    beta_tc_kl,
    decompose_kl,
    density_ratio_tc,
    permute_dims,
    tc_discriminator_loss,
)

RNG = np.random.default_rng(0)
N = 6  # a data set so small that all its batches can be listed
MEAN, LOG_STD = (s * RNG.normal(size=(N, 2)).astype(np.float32) for s in (1.0, 0.3))
Z = MEAN + np.exp(LOG_STD) * RNG.normal(size=(N, 2)).astype(np.float32)
density = jax.jit(aggregate_log_density, static_argnames=("dataset_size", "estimator"))


def log_q_given(z):
    """log N(z_j; mean_k, std_k^2) for every example k and dimension j, float64."""
    return scipy.stats.norm.logpdf(z, MEAN.astype(np.float64), np.exp(LOG_STD.astype(np.float64)))


def exact(z):
    log_q = log_q_given(z)
    return (scipy.special.logsumexp(log_q.sum(1)) - np.log(N), (scipy.special.logsumexp(log_q, 0) - np.log(N)).sum())


def by_formula(batch, i, estimator):
    """q(z_i) and q(z_i1) from a batch (a list of examples), written out as in the paper."""
    q, m = np.exp(log_q_given(Z[batch[i]])[batch]), len(batch)
    big_m, total = m - 1, np.zeros(3)
    columns = np.stack([q.prod(1), q[:, 0], q[:, 1]], 1)
    for k in range(m):
        if estimator == "weighted":
            w = 1 / (N * m)
        elif k == i:
            w = 1 / N
        elif estimator == "symmetric":
            w = (N - 1) / (N * big_m)
        else:
            w = (N - big_m) / (N * big_m) if k == (i + 1) % m else 1 / big_m
        total += w * columns[k]
    return np.log(total[0]), np.log(total[1]) + np.log(total[2])


@pytest.mark.parametrize("estimator", ["weighted", "stratified", "symmetric"])
def test_estimators_are_the_papers_formulas(estimator):
    batch = [4, 0, 3, 1]
    got = density(*(jnp.asarray(a[batch]) for a in (Z, MEAN, LOG_STD)), N, estimator)
    want = np.array([by_formula(batch, i, estimator) for i in range(4)])
    assert_allclose(got.joint, want[:, 0], rtol=1e-5)
    assert_allclose(got.product, want[:, 1], rtol=1e-5)


def test_stratified_and_symmetric_average_to_the_aggregate_posterior_over_all_batches():
    """Example 0 at any place of any ordered batch of 4: the mean of the estimated q(z_0) is q(z_0)."""
    batches = [b for b in itertools.permutations(range(N), 4) if 0 in b]
    stack = [jnp.asarray(np.stack([a[list(b)] for b in batches])) for a in (Z, MEAN, LOG_STD)]
    places = np.array([b.index(0) for b in batches])
    values = {}
    for estimator in ("weighted", "stratified", "symmetric"):
        each = jax.jit(jax.vmap(lambda z, m, s, e=estimator: aggregate_log_density(z, m, s, N, e).joint))(*stack)
        values[estimator] = np.exp(np.asarray(each, np.float64))[np.arange(len(batches)), places]
    truth = np.exp(exact(Z[0])[0])
    assert_allclose(values["stratified"].mean(), truth, rtol=1e-6)
    assert_allclose(values["symmetric"].mean(), truth, rtol=1e-6)
    assert values["symmetric"].std() < values["stratified"].std()
    assert values["weighted"].mean() < 0.7 * truth


def test_symmetric_is_exact_on_the_whole_data_set_and_the_parts_average_to_their_integrals():
    want = np.array([exact(z) for z in Z])
    got = density(Z, MEAN, LOG_STD, N, "symmetric")
    assert_allclose(np.stack(got, 1), want, rtol=1e-5)

    # Expectations over z ~ q(z | x), by quadrature of the entropies of the mixture and its marginals.
    grid = np.linspace(-6, 6, 401)
    first, second = np.exp(log_q_given(np.stack([grid, grid], 1)[:, None])).transpose(2, 1, 0)  # [N, grid]
    joint = first.T @ second / N
    marginals = [scipy.integrate.simpson(joint, x=grid, axis=1 - j) for j in (0, 1)]

    def entropy_term(p, *dims):
        value = p * np.log(np.maximum(p, 1e-300))
        for _ in dims:
            value = scipy.integrate.simpson(value, x=grid)
        return value

    log_joint, log_product = entropy_term(joint, 0, 1), sum(entropy_term(p, 0) for p in marginals)
    noise = jax.random.normal(jax.random.key(0), (4000, N, 2))
    parts = jax.jit(jax.vmap(lambda e: decompose_kl(MEAN + jnp.exp(LOG_STD) * e, jnp.asarray(MEAN),
                                                    jnp.asarray(LOG_STD), N, "symmetric")))(noise)
    own = -(0.5 + 0.5 * np.log(2 * np.pi) + LOG_STD).sum(1).mean()  # E log q(z | x)
    second_moment = (MEAN**2 + np.exp(2 * LOG_STD)).mean(0)
    log_prior = -(0.5 * np.log(2 * np.pi) + 0.5 * second_moment).sum()
    for part, truth in zip(parts, (own - log_joint, log_joint - log_product, log_product - log_prior), strict=True):
        draws = np.asarray(part).mean(1)
        assert abs(draws.mean() - truth) < 4 * draws.std() / np.sqrt(draws.size)


def test_parts_add_up_to_the_kl_and_their_weights_apply():
    keys = jax.random.split(jax.random.key(1), 3)
    mean, log_std, z = jax.random.normal(keys[0], (32, 5)), -1 + 0.2 * jax.random.normal(keys[1], (32, 5)), None
    z = mean + jnp.exp(log_std) * jax.random.normal(keys[2], (32, 5))
    kl = (scipy.stats.norm.logpdf(z, mean, np.exp(log_std)) - scipy.stats.norm.logpdf(z)).sum(1)
    for estimator in ("weighted", "stratified"):
        parts = jax.jit(decompose_kl, static_argnums=(3, 4))(z, mean, log_std, 1000, estimator)
        assert_allclose(beta_tc_kl(parts, beta=1.0), kl, rtol=2e-4, atol=1e-4)
    assert_allclose(beta_tc_kl(parts, 0.5, 6.0, 2.0), 0.5 * parts.mutual_information + 6 * parts.total_correlation
                    + 2 * parts.dimension_wise_kl, rtol=1e-5)


def test_total_correlation_of_a_correlated_gaussian_is_approached_as_the_batch_grows():
    """means ~ N(0, R - s^2 I) and posteriors of variance s^2: q(z) = N(0, R), of TC -log det(R) / 2."""
    correlation, s, size = np.array([[1.0, 0.8], [0.8, 1.0]]), 0.2, 4096
    truth = -0.5 * np.log(np.linalg.det(correlation))
    factor = np.linalg.cholesky(correlation - s**2 * np.eye(2))
    keys = jax.random.split(jax.random.key(2), 2)
    mean = jax.random.normal(keys[0], (size, 2)) @ jnp.asarray(factor.T, jnp.float32)
    z = mean + s * jax.random.normal(keys[1], (size, 2))
    at_these = (scipy.stats.multivariate_normal([0, 0], correlation).logpdf(z) - scipy.stats.norm.logpdf(z).sum(1))
    assert abs(at_these.mean() - truth) < 3 * at_these.std() / np.sqrt(size)

    def total_correlation(batch):
        return decompose_kl(*batch, jnp.full_like(batch[0], np.log(s)), size).total_correlation

    error = []
    for m in (16, 128, 1024):
        estimates = jax.jit(lambda *batches: jax.lax.map(total_correlation, batches))(
            z.reshape(-1, m, 2), mean.reshape(-1, m, 2))
        error.append(abs(float(estimates.mean()) - at_these.mean()))
    assert error[0] > 3 * error[1] > 9 * error[2] and error[2] < 0.02, error
    # Weighted sampling counts log N once in the joint and twice in the product: it is nowhere near.
    weighted = density(z[:1024], mean[:1024], jnp.full((1024, 2), np.log(s)), size, "weighted")
    assert abs(float((weighted.joint - weighted.product).mean()) - truth) > 3


def test_gradient_needs_no_tensor_of_pairs_by_dimensions():
    x = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    f = jax.jit(jax.grad(lambda *a: decompose_kl(*a, 5000).total_correlation.mean(), (0, 1, 2)))
    assert f.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes < 6e6  # [n n] is .26 MB, [n n d] 17 MB


def test_gradient_is_that_of_the_formula():
    def direct(z, mean, log_std):
        log_q = jax.scipy.stats.norm.logpdf(z[:, None], mean, jnp.exp(log_std))
        weights = jnp.full((N, N), (N - 1) / (N * (N - 1)))
        joint = jax.nn.logsumexp(log_q.sum(2), 1, b=weights)
        return (joint - jax.nn.logsumexp(log_q, 1, b=weights[:, :, None]).sum(1)).mean()

    def ours(z, mean, log_std):
        return decompose_kl(z, mean, log_std, N, "symmetric").total_correlation.mean()

    arguments = tuple(jnp.asarray(a) for a in (Z, MEAN, LOG_STD))
    got, want = (jax.jit(jax.grad(f, (0, 1, 2)))(*arguments) for f in (ours, direct))
    for a, b in zip(got, want, strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_permuted_codes_keep_every_marginal_and_lose_all_dependence():
    z = jax.random.normal(jax.random.key(3), (5000, 1)) * jnp.array([1.0, -1.0, 2.0])  # one factor, thrice
    permuted = np.asarray(jax.jit(permute_dims)(jax.random.key(4), z))
    assert_allclose(np.sort(permuted, 0), np.sort(np.asarray(z), 0))
    assert np.abs(np.corrcoef(permuted.T) - np.eye(3)).max() < 4 / np.sqrt(5000)


def test_density_ratio_of_the_best_discriminator_averages_to_the_total_correlation():
    r = 0.7
    z = np.random.default_rng(5).multivariate_normal([0, 0], [[1, r], [r, 1]], 20000)
    shuffled = np.stack([z[:, 0], np.roll(z[:, 1], 1)], 1)

    def best(z):
        joint = scipy.stats.multivariate_normal([0, 0], [[1, r], [r, 1]]).logpdf(z)
        return jnp.asarray(np.stack([joint, scipy.stats.norm.logpdf(z).sum(1)], 1) + 3.0, jnp.float32)

    ratio = jax.jit(density_ratio_tc)(best(z))
    assert abs(float(ratio.mean()) + 0.5 * np.log(1 - r**2)) < 3 * float(ratio.std()) / np.sqrt(20000)
    loss = jax.jit(tc_discriminator_loss)
    least = loss(best(z), best(shuffled))
    labels = np.log(1 + np.exp(-np.asarray(ratio))).mean() / 2
    other = best(shuffled)
    assert_allclose(least, labels + np.log(1 + np.exp(np.asarray(other[:, 0] - other[:, 1]))).mean() / 2, rtol=1e-5)
    for scale in (0.8, 1.2):  # any other discriminator does worse
        assert loss(scale * best(z), scale * best(shuffled)) > least


def test_bad_input_is_one_clear_error():
    x = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="dataset_size"):
        aggregate_log_density(x, x, x, 3)
    with pytest.raises(ValueError, match="at least two"):
        decompose_kl(x[:1], x[:1], x[:1], 3)
