"""Metrics of sparse codes against definitions, other libraries and planted laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.metrics import latent_probes, scaling_laws
from jaxae.metrics import sparse_codes as sc

RNG = np.random.default_rng(0)


def _batch(n=64, d=5, m=7):
    x = RNG.standard_normal((n, d)).astype(np.float32) * 2 + 30
    xhat = x + 0.5 * RNG.standard_normal((n, d)).astype(np.float32) + 0.3
    codes = (np.abs(RNG.standard_normal((n, m))) * (RNG.random((n, m)) < np.linspace(0, 0.9, m))).astype(np.float32)
    return x, xhat, codes


def _expected(x, xhat):
    x, error = x.astype(np.float64), x.astype(np.float64) - xhat
    return (error**2).sum() / ((x - x.mean(0)) ** 2).sum(), 1 - error.var(0).sum() / x.var(0).sum()


# Reconstruction and activity

def test_unexplained_and_explained_variance_follow_their_definitions():
    x, xhat, _ = _batch()
    fvu, explained = jax.jit(sc.fvu), jax.jit(sc.explained_variance)
    np.testing.assert_allclose([fvu(x, xhat), explained(x, xhat)], _expected(x, xhat), rtol=1e-4)
    mean = np.broadcast_to(x.mean(0), x.shape)
    np.testing.assert_allclose([fvu(x, x), fvu(x, mean), explained(x, mean)], [0, 1, 0], atol=1e-5)
    np.testing.assert_allclose(explained(x, x + 7), 1, atol=1e-5)       # a constant error is no variance
    assert fvu(x, x + 7) > 1
    each = jax.jit(sc.normalised_mse)(x, xhat)
    np.testing.assert_allclose(each, ((x - xhat) ** 2).sum(1) / (x**2).sum(1), rtol=1e-3)


def test_activity_counts():
    codes = np.array([[0, 2, -1, 0], [0, 0, 1e-4, 0], [0, 3, 0, 0], [0, 0, 0, 0]], np.float32)
    assert jax.jit(sc.l0)(codes).tolist() == [2, 1, 1, 0]
    assert jax.jit(lambda z: sc.l0(z, 1e-3))(codes).tolist() == [2, 0, 1, 0]
    density = jax.jit(sc.density)(codes)
    np.testing.assert_allclose(density, [0, 0.5, 0.5, 0])
    np.testing.assert_allclose([sc.alive_fraction(density), sc.alive_fraction(density, 0.5)], [0.5, 0])
    again = codes * 2
    again[2] = [1, 0, 0, 0]
    assert jax.jit(sc.support_changes)(codes, again).tolist() == [False, False, True, False]
    z = jax.jit(sc.latent_zscore)(codes)
    expected = [(codes[:, i].max() - codes[:, i].mean()) / codes[:, i].std() for i in (1, 2)]
    np.testing.assert_allclose(z, [0, *expected, 0], rtol=1e-4)


def test_the_overlap_of_top_examples_is_that_of_the_sets():
    overlap = jax.jit(sc.top_example_overlap, static_argnums=2)
    a, b = (RNG.random((30, 6)).astype(np.float32) for _ in range(2))
    a[5:, 4] = b[7:, 4] = a[:, 5] = b[:, 5] = 0                        # fewer active ones than asked for, and none
    sets = [[{i for i in np.argsort(-z[:, j])[:10] if z[i, j] > 0} for j in range(6)] for z in (a, b)]
    expected = [len(p & q) / max(len(p | q), 1) for p, q in zip(*sets, strict=True)]
    np.testing.assert_allclose(overlap(a, b, 10), expected, rtol=1e-6)
    np.testing.assert_allclose(overlap(a, 3 * a, 10), [1, 1, 1, 1, 1, 0])


def test_the_histogram_of_densities_counts_in_decades():
    density = np.array([0, 0, 1e-8, 1e-6, 3e-4, 1e-3, 0.02, 0.5, 1.0], np.float32)
    count, edges = jax.jit(sc.density_histogram, static_argnums=(1, 2))(density, 6, -6.0)
    np.testing.assert_allclose(edges, np.arange(-6, 1), atol=1e-5)
    assert count.tolist() == [2, 0, 1, 1, 1, 2]                            # dead ones are not counted


def test_streamed_statistics_equal_those_of_all_examples_at_once():
    x, xhat, codes = _batch(60)
    update = jax.jit(sc.update_code_statistics)
    a = b = sc.init_code_statistics(5, 7)
    padded = [np.concatenate([v, v[:4]]) for v in (x, xhat, codes)]
    mask = np.arange(64) < 60
    for i in range(0, 32, 16):
        a = update(a, *(v[i:i + 16] for v in padded), mask[i:i + 16])
        b = update(b, *(v[32 + i:48 + i] for v in padded), mask[32 + i:48 + i])
    found = jax.jit(sc.summarize_codes)(sc.merge_code_statistics(a, b))
    fvu, explained = _expected(x, xhat)
    np.testing.assert_allclose([found.fvu, found.explained_variance, found.l0, found.alive],
                               [fvu, explained, (codes > 0).sum(1).mean(), (codes > 0).any(0).mean()], rtol=1e-4)
    np.testing.assert_allclose(found.density, (codes > 0).mean(0), rtol=1e-6)


def test_eight_devices_say_what_one_says():
    x, xhat, codes = _batch()

    def all_of(x, xhat, codes, axis_name=None):
        statistics = sc.update_code_statistics(sc.init_code_statistics(5, 7), x, xhat, codes, axis_name=axis_name)
        return (sc.fvu(x, xhat, axis_name), sc.explained_variance(x, xhat, axis_name),
                sc.density(codes, axis_name=axis_name), sc.summarize_codes(statistics))

    one = jax.jit(all_of)(x, xhat, codes)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharded = jax.device_put((x, xhat, codes), NamedSharding(mesh, PartitionSpec("data")))
    mapped = jax.shard_map(lambda *v: all_of(*v, axis_name="data"), mesh=mesh, in_specs=PartitionSpec("data"),
                           out_specs=PartitionSpec())
    for other in (jax.jit(all_of)(*sharded), jax.jit(mapped)(x, xhat, codes)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


# Probes

def test_probe_loss_is_scikit_learns_best_single_latent():
    from sklearn.linear_model import LogisticRegression
    n, m = 300, 6
    codes = np.abs(RNG.standard_normal((n, m))) * (RNG.random((n, m)) < 0.5) * np.logspace(-3, 3, m)
    codes = codes.astype(np.float32)
    codes[:, 4] = 1.5                                                          # a constant latent knows nothing
    scores = codes / np.maximum(codes.std(0), 1e-9)
    labels = np.stack([scores[:, 0] + RNG.standard_normal(n) > 0.8, scores[:, 5] - 2 * RNG.standard_normal(n) > 1,
                       RNG.random(n) < 0.1], 1)
    found = jax.jit(latent_probes.probe_loss)(codes, labels)
    for t in range(3):
        losses = []
        for z in scores.T:
            fit = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(z[:, None], labels[:, t])
            p = fit.predict_proba(z[:, None])[np.arange(n), labels[:, t].astype(int)]
            losses.append(-np.log(p).mean())
        np.testing.assert_allclose(found.loss[t], min(losses), rtol=1e-4)
        assert found.latent[t] == np.argmin(losses)
    assert found.latent[:2].tolist() == [0, 5]


def test_a_latent_that_separates_a_rare_task_has_a_small_loss_and_none_diverges():
    codes = np.zeros((400, 3), np.float32)
    codes[:4, 1] = [5, 6, 5, 7]
    codes[:, 2] = RNG.standard_normal(400)
    labels = (codes[:, 1:2] > 0).astype(np.int32)
    found = jax.jit(latent_probes.probe_loss)(codes, np.concatenate([labels, 0 * labels], 1))
    assert found.latent[0] == 1 and found.loss[0] < 1e-3 and found.loss[1] < 1e-3
    assert np.isfinite(found.loss).all()


def test_the_best_threshold_is_that_of_all_cuts():
    codes = np.round(np.abs(RNG.standard_normal((40, 5))), 1).astype(np.float32)     # with ties
    labels = RNG.random((40, 3)) < 0.4
    best = np.zeros(3)
    for z in codes.T:
        for cut in (-1, *np.unique(z)):
            best = np.maximum(best, ((z > cut)[:, None] == labels).mean(0))
    np.testing.assert_allclose(jax.jit(latent_probes.soft_identifiability)(codes, labels), best.mean(), rtol=1e-6)


def test_ablation_sparsity_counts_the_logits_that_change():
    effects = np.zeros((3, 4, 50), np.float32)
    effects[0, 2, 7] = -3                                              # one entry of 200
    effects[1, 0, :5] = effects[1, 1, :5] = 2                            # ten equal ones
    effects[2] = RNG.standard_normal((4, 50))
    shifted = effects + RNG.standard_normal((3, 4, 1)).astype(np.float32)   # a shift of all logits is no effect
    found = jax.jit(latent_probes.ablation_sparsity)(shifted)
    np.testing.assert_allclose(found[:2], [1 / 200, 10 / 200], rtol=1e-3)
    np.testing.assert_allclose(found[2], 2 / np.pi, atol=0.08)


def test_cknna_is_one_for_rotations_and_linear_cka_without_diagonals_for_all_neighbours():
    cknna = jax.jit(latent_probes.cknna, static_argnums=2)
    a = RNG.standard_normal((60, 6)).astype(np.float32)
    q = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    np.testing.assert_allclose(cknna(a, (3 * a @ q + 1).astype(np.float32), 10), 1, rtol=1e-5)
    b = np.tanh(a @ RNG.standard_normal((6, 4))).astype(np.float32) + 2
    k, el = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (a, b))
    off = ~np.eye(60, dtype=bool)
    np.testing.assert_allclose(cknna(a, b, 59), (k * el)[off].sum() / np.sqrt((k**2)[off].sum() * (el**2)[off].sum()),
                               rtol=1e-4)
    near = [np.argsort(np.where(off, -g, np.inf), 1)[:, :10] for g in (k, el)]
    total = sum(k[i, j] * el[i, j] for i in range(60) for j in set(near[0][i]) & set(near[1][i]))
    norms = [sum(g[i, j] ** 2 for i in range(60) for j in n[i]) for g, n in zip((k, el), near, strict=True)]
    np.testing.assert_allclose(cknna(a, b, 10), total / np.sqrt(norms[0] * norms[1]), rtol=1e-4)


# Laws

def test_the_scaling_law_is_recovered_from_noisy_losses():
    truth = scaling_laws.ScalingLaw(a=1.5, b_k=0.35, b_n=-0.25, g=-0.05, zeta=-1.8, eta=-0.2)
    n, k = (v.ravel() for v in np.meshgrid(2.0 ** np.arange(6, 22), 2.0 ** np.arange(1, 9)))
    loss = truth.loss(n, k) * np.exp(0.01 * RNG.standard_normal(n.size))
    found = scaling_laws.fit_scaling_law(n, k, loss)
    np.testing.assert_allclose(found, truth, rtol=0.1)
    exact = scaling_laws.fit_scaling_law(n, k, truth.loss(n, k))
    np.testing.assert_allclose(exact, truth, rtol=1e-4)


def test_the_published_constants_are_recovered_and_the_fit_is_no_worse_than_the_truth():
    truth = scaling_laws.ScalingLaw(a=-0.50, b_k=0.26, b_n=-0.017, g=-0.042, zeta=-1.32, eta=-0.085)
    n, k = (np.tile(v.ravel(), 4) for v in np.meshgrid(2.0 ** np.arange(5, 25), 2.0 ** np.arange(2, 10)))
    loss = truth.loss(n, k) * np.exp(0.01 * np.random.default_rng(1).standard_normal(n.size))
    np.testing.assert_allclose(scaling_laws.fit_scaling_law(n, k, loss), truth, rtol=0.1)
    few = np.s_[:160:3]       # too few to tell all the constants, but not to find the least squares
    found = scaling_laws.fit_scaling_law(n[few], k[few], loss[few])
    cost = [(np.log(law.loss(n[few], k[few]) / loss[few]) ** 2).sum() for law in (found, truth)]
    assert 0.5 * cost[1] < cost[0] < cost[1]


def test_zipf_is_recovered_from_frequencies_in_any_order():
    rank = np.arange(1, 2001)
    density = RNG.permutation(np.concatenate([0.8 * (rank + 6.5) ** -1.1 * np.exp(0.02 * RNG.standard_normal(2000)),
                                              np.zeros(50)]))
    found = scaling_laws.fit_zipf(density)
    np.testing.assert_allclose(found, [1.1, 6.5], rtol=0.05)


@pytest.mark.parametrize("m, total, alpha, beta, most", [
    (64, 1280, 1.0, 7.0, None), (64, 70, 1.0, 0.0, None), (64, 64, 2.0, 0.0, None), (50, 1000, 1.2, 0.0, 100),
    (10, 1000, 1.0, 7.0, 100), (7, 100, 0.0, 7.0, None),
])
def test_quotas_sum_to_the_budget_and_follow_the_law_where_they_can(m, total, alpha, beta, most):
    quota = scaling_laws.zipf_quotas(m, total, alpha, beta, most)
    assert quota.sum() == total and quota.min() >= 1 and quota.max() <= (most or total)
    assert (np.diff(quota) <= 0).all()
    law = (np.arange(1, m + 1) + beta) ** -alpha
    free = (quota > 1) & (quota < (most or total))
    if free.sum() > 1:      # the same factor for all that are not clipped, up to rounding
        factor = quota[free] / law[free]
        assert (np.abs(quota[free] - np.median(factor) * law[free]) < 1.5).all()


@pytest.mark.parametrize("call, message", [
    (lambda: sc.fvu(jnp.ones((3, 2)), jnp.ones((4, 2))), "of one shape"),
    (lambda: sc.top_example_overlap(jnp.ones((3, 2)), jnp.ones((3, 2)), 4), "1 <= top <= n"),
    (lambda: latent_probes.probe_loss(jnp.ones((3, 2)), jnp.ones((4, 2))), "a row of labels"),
    (lambda: latent_probes.cknna(jnp.ones((3, 2)), jnp.ones((3, 2)), 3), "1 <= k < n"),
    (lambda: scaling_laws.fit_scaling_law(*np.ones((3, 5))), "at least 6 autoencoders"),
    (lambda: scaling_laws.fit_zipf(np.array([0.0, 0.5])), "at least 3"),
    (lambda: scaling_laws.zipf_quotas(10, 9), "cannot sum to 9"),
])
def test_wrong_calls_get_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
