"""Coarse-to-fine prior: clusters of a codebook, and both stages against enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import assert_follows, every_map, key_of, random_params, split_in_eight

from jaxae.priors.coarse_to_fine import cluster_codebook, coarse_to_fine, random_within_cluster
from jaxae.quantizers import kmeans

TINY = dict(width=8, layers=1, fine_layers=1, heads=2, mlp_ratio=2)
CUT = np.array([0, 1, 0])  # clusters {0, 2} and {1}


@functools.cache
def _prior(restrict=True):
    """A prior on 4 of 3 codes, its parameters, and both parts of the log-probabilities of all 81 in class 1."""
    prior = coarse_to_fine((2, 2), CUT, num_classes=2, restrict=restrict, **TINY)
    maps = every_map((2, 2), 3)
    label = jnp.ones(81, int)
    params = random_params(prior, maps, label)
    return prior, params, [np.asarray(part) for part in jax.jit(prior.nats)(params, maps, label)]


def test_clusters_are_those_planted_and_centroids_their_means():
    rng = np.random.default_rng(0)
    planted = rng.permutation(np.arange(60) % 6)
    codebook = 10 * rng.normal(size=(6, 3))[planted] + 0.1 * rng.normal(size=(60, 3))
    assignment, centroids = jax.jit(cluster_codebook, static_argnums=1)(jnp.float32(codebook), 6, jax.random.key(0))
    for j in range(6):
        assert len(np.unique(assignment[planted == j])) == 1
        np.testing.assert_allclose(centroids[assignment[planted == j][0]], codebook[planted == j].mean(0), atol=1e-4)
    assert len(np.unique(assignment)) == 6


def test_the_best_of_several_starts_counts():
    codebook = jnp.float32(np.random.default_rng(1).normal(size=(80, 2)))
    key = jax.random.key(2)
    found = jax.jit(cluster_codebook, static_argnums=(1, 3, 4))(codebook, 9, key, 4, 5)
    squares = float(jnp.sum((codebook - found.centroids[found.assignment]) ** 2))
    one_start = jax.jit(kmeans, static_argnums=(1, 3))
    singles = [one_start(codebook, 9, one, 5) for one in jax.random.split(key, 4)]
    singles = [float(((codebook[:, None] - one) ** 2).sum(-1).min(1).sum()) for one in singles]
    assert squares <= min(singles) + 1e-4 and max(singles) > 1.005 * min(singles)


def test_no_cluster_is_empty_even_of_a_collapsed_codebook():
    codebook = jnp.repeat(jnp.array([[0.0], [1.0], [5.0]]), jnp.array([4, 3, 1]), axis=0)
    assignment, centroids = jax.jit(cluster_codebook, static_argnums=1)(codebook, 6, jax.random.key(0))
    assert set(np.asarray(assignment)) == set(range(6)) and np.all(np.isfinite(centroids))


def test_replacement_is_uniform_in_the_cluster():
    assignment = jnp.array([2, 0, 1, 0, 2, 0, 0])
    codes = jnp.tile(jnp.arange(7), (8000, 1))
    drawn = np.asarray(jax.jit(random_within_cluster)(jax.random.key(0), codes, assignment))
    for code in range(7):
        same = np.asarray(assignment == assignment[code])
        frequency = np.bincount(drawn[:, code], minlength=7) / 8000
        np.testing.assert_allclose(frequency, same / same.sum(), atol=0.03)  # sd .006
        assert np.all(frequency[~same] == 0)


def test_probabilities_of_all_maps_sum_to_one_and_so_do_those_of_each_stage():
    prior, params, (coarse, fine) = _prior()
    np.testing.assert_allclose(np.exp(coarse + fine).sum(), 1, atol=1e-4)
    labels = CUT[np.asarray(every_map((4,), 3))] @ [8, 4, 2, 1]
    for label in range(16):  # of each map of coarse labels
        np.testing.assert_allclose(np.exp(fine[labels == label]).sum(), 1, atol=1e-4)
        assert np.ptp(coarse[labels == label]) < 1e-5
    assert coarse.std() > 0.3 and fine.std() > 0.3
    log_prob = jax.jit(prior.log_prob)(params, every_map((2, 2), 3), jnp.ones(81, int))
    np.testing.assert_allclose(log_prob, coarse + fine, atol=1e-4)


def test_without_the_restriction_some_mass_leaves_the_cluster():
    coarse, fine = _prior()[2]
    loose_coarse, loose_fine = _prior(restrict=False)[2]
    np.testing.assert_allclose(loose_coarse, coarse, atol=1e-5)
    assert np.all(loose_fine < fine) and np.exp(loose_coarse + loose_fine).sum() < 0.95


def test_samples_have_the_enumerated_probabilities():
    prior, params, parts = _prior()
    samples = prior.sample(params, key_of(0), 20_000, jnp.ones(20_000, int))
    assert_follows(samples, np.exp(sum(parts)), 3)


def test_each_stage_has_its_own_temperature():
    prior, params, (coarse, fine) = _prior()
    n = 20_000
    labels = CUT[np.asarray(every_map((4,), 3))] @ [8, 4, 2, 1]
    likeliest = [max(np.flatnonzero(labels == label), key=lambda i: fine[i]) for label in range(16)]
    expected = np.zeros(81)
    expected[likeliest] = np.exp(coarse[likeliest])
    samples = prior.sample(params, key_of(1), n, jnp.ones(n, int), fine_temperature=0.0)
    assert_follows(samples, expected, 3)
    # Greedy coarse labels: every sample has the same ones, and its fine codes vary.
    samples = prior.sample(params, key_of(1), n, jnp.ones(n, int), temperature=0.0).reshape(n, 4)
    assert len(np.unique(CUT[samples], axis=0)) == 1 < len(np.unique(samples, axis=0))


def test_guidance_acts_on_the_coarse_stage():
    prior, params, _ = _prior()
    n = 20_000
    label = jnp.ones(n, int)
    key = jax.random.key(2)
    np.testing.assert_array_equal(prior.sample(params, key, n, label),
                                  prior.sample(params, key, n, label, guidance=jnp.float32(1.0)))
    guided = prior.sample(params, key, n, label, guidance=jnp.float32(5.0))
    assert (np.asarray(guided) != np.asarray(prior.sample(params, key, n, label))).mean() > 0.05


def test_noise_of_eight_replicas_is_that_of_one():
    def log_prob(axis_name):
        return coarse_to_fine((2, 2), CUT, num_classes=2, dropout=0.3, label_dropout=0.5, axis_name=axis_name,
                              **TINY).log_prob

    codes, label, key = every_map((2, 2), 3)[:16], jnp.arange(16) % 2, key_of(1)
    params = _prior()[1]
    want = jax.jit(log_prob(None))(params, codes, label, key)
    np.testing.assert_allclose(split_in_eight(log_prob, params, codes, label, key), want, atol=1e-5)


def test_codes_out_of_range_are_nan():
    prior, params, _ = _prior()
    codes = jnp.zeros((81, 2, 2), int).at[1, 1, 1].set(3).at[2, 0, 0].set(-1)
    for part in jax.jit(prior.nats)(params, codes, jnp.zeros(81, int)):
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(part)), [1, 2])


def test_what_cannot_be_modelled_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="cluster 1 has no codes"):
        coarse_to_fine((2, 2), np.array([0, 2, 0]))
    with pytest.raises(ValueError, match="at least as many vectors as codes"):
        cluster_codebook(jnp.zeros((3, 2)), 4, key)
    prior = coarse_to_fine((2, 2), CUT, num_classes=2, **TINY)
    with pytest.raises(ValueError, match="needs integer label"):
        jax.eval_shape(prior.init, key, jnp.zeros((2, 2, 2), int))
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 2, 2\]"):
        jax.eval_shape(prior.init, key, jnp.zeros((2, 4), int), jnp.zeros(2, int))
