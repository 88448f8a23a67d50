"""Matching, consistency and geometry of dictionaries against brute force and constructed cases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.metrics import dictionaries, dictionary_geometry, seed_alignment
from jaxae.metrics.dictionaries import match_atoms

RNG = np.random.default_rng(0)


def _unit(*shape):
    a = RNG.standard_normal(shape)
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


# Matching

@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 6), (6, 4)])
def test_the_matching_is_the_best_of_all_permutations(absolute, sizes):
    for _ in range(5):
        a, b = 3 * RNG.standard_normal((sizes[0], 4)), RNG.standard_normal((sizes[1], 4))
        cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        cosine = np.abs(cosine) if absolute else cosine
        small = cosine if sizes[0] <= sizes[1] else cosine.T
        best = max(sum(small[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(6), len(small)))
        found = match_atoms(a, b, absolute)
        np.testing.assert_allclose(found.cosine.sum(), best, rtol=1e-10)
        np.testing.assert_allclose(found.cosine, cosine[found.rows, found.columns])
        assert len(set(found.rows)) == len(set(found.columns)) == len(found.rows) == min(sizes)
        if absolute:
            np.testing.assert_allclose(dictionaries.mcc(a, b), best / min(sizes), rtol=1e-10)


def test_one_to_one_is_not_the_greedy_maximum():
    a = np.array([[1.0, 0.0], [0.96, 0.28]])
    b = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(dictionaries.mcc(a, b), (1 + 0.28) / 2)
    np.testing.assert_allclose(jax.jit(dictionaries.mean_max_cosine)(a, b), (1 + 0.96) / 2, rtol=1e-6)


def test_mcc_is_one_up_to_permutation_sign_and_scale_and_signed_matching_is_not():
    a = RNG.standard_normal((64, 32))
    b = (a * RNG.choice([-1, 1], (64, 1)) * RNG.uniform(0.1, 9, (64, 1)))[RNG.permutation(64)]
    np.testing.assert_allclose(dictionaries.mcc(a, b), 1)
    np.testing.assert_allclose(dictionaries.pw_mcc([a, b, a]).pairs, [1, 1, 1])
    assert dictionaries.dictionary_stability(a, b) < 0.8
    np.testing.assert_allclose(dictionaries.dictionary_stability(a, 2 * a[::-1]), 1)


def test_the_chance_level_of_random_dictionaries():
    a, b = RNG.standard_normal((2, 64, 32))
    assert 0.33 < match_atoms(a, b).cosine.mean() < 0.41     # signed: about 0.37
    assert match_atoms(a, b).cosine.mean() < dictionaries.mcc(a, b) < 0.5


def test_the_greedy_matching_takes_the_most_similar_pair_first():
    for m, p in ((7, 7), (5, 9), (9, 5)):
        a, b = RNG.standard_normal((m, 4)), RNG.standard_normal((p, 4))
        full = match_atoms(a, b, absolute=True)
        left = np.abs(_cosine(a, b))
        expected = []
        for _ in range(min(m, p)):
            i, j = np.unravel_index(left.argmax(), left.shape)
            expected.append((i, j))
            left[i], left[:, j] = -1, -1
        found = match_atoms(a, b, absolute=True, method="greedy")
        assert sorted(expected) == list(zip(found.rows, found.columns, strict=True))
        assert 0.5 * full.cosine.sum() <= found.cosine.sum() <= full.cosine.sum() + 1e-12


def _cosine(a, b):
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def test_pairwise_mcc_averages_over_pairs():
    ds = RNG.standard_normal((3, 8, 5))
    each = [dictionaries.mcc(ds[i], ds[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = dictionaries.pw_mcc(list(ds))
    np.testing.assert_allclose(found.pairs, each)
    np.testing.assert_allclose([found.mean, found.std], [np.mean(each), np.std(each)])


def test_consistency_is_reported_by_frequency():
    frequency = RNG.permutation(np.logspace(-4, -1, 40))
    table = dictionaries.consistency_by_frequency(frequency**0.25, frequency, bins=4)
    assert table.count.tolist() == [10] * 4 and table.rank_correlation > 0.999
    ranked = np.sort(frequency).reshape(4, 10)
    np.testing.assert_allclose(table.frequency, np.median(ranked, 1))
    np.testing.assert_allclose(table.consistency, (ranked**0.25).mean(1))


def test_recovery_counts_true_atoms_that_a_learned_one_is_near():
    truth = np.eye(10)
    learned = np.concatenate([truth[:6] * 5, truth[:6] + 0.1 * truth[1:7], -truth[8:9], truth[7:8] + truth[8:9]])
    recovery = jax.jit(dictionaries.feature_recovery)
    np.testing.assert_allclose([recovery(learned, truth, tau) for tau in (0.9, 0.7)], [0.6, 0.8])


# Alignment of seeds

def _autoencoder(m=32, d=256):
    return _unit(m, d), _unit(m, d).T


def test_a_permuted_autoencoder_is_shared_whole():
    decoder, encoder = _autoencoder()
    p = RNG.permutation(32)
    found = seed_alignment.align(decoder, encoder, 3 * decoder[p], encoder[:, p])
    assert found.shared.all() and found.agree.all() and (p[found.decoder_match] == np.arange(32)).all()


def test_decoder_and_encoder_must_find_the_same_partner():
    decoder, encoder = _autoencoder()
    p = np.roll(np.arange(32), 5)
    found = seed_alignment.align(decoder, encoder, decoder[p], encoder)
    np.testing.assert_allclose([found.decoder_cosine, found.encoder_cosine], 1)
    assert not found.agree.any() and not found.shared.any()


def test_redrawn_atoms_and_negatives_are_not_shared():
    decoder, encoder = _autoencoder(50)
    other, other_encoder = decoder.copy(), encoder.copy()
    other[:20], other_encoder[:, :20] = _unit(20, 256), _unit(20, 256).T
    found = seed_alignment.align(decoder, encoder, other, other_encoder)
    np.testing.assert_allclose(found.shared.mean(), 0.6)
    assert not found.shared[:20].any()
    assert not seed_alignment.align(decoder, encoder, -decoder, -encoder).shared.any()


def test_autoencoders_without_their_dead_latents_are_aligned():
    decoder, encoder = _autoencoder(30)
    alive = np.arange(30) % 3 > 0
    found = seed_alignment.align(decoder, encoder, decoder[alive], encoder[:, alive])
    np.testing.assert_array_equal(found.shared, alive)
    np.testing.assert_array_equal(found.decoder_match, np.where(alive, np.cumsum(alive) - 1, -1))
    assert not found.agree[~alive].any() and (found.encoder_cosine[~alive] == 0).all()
    back = seed_alignment.align(decoder[alive], encoder[:, alive], decoder, encoder, method="greedy")
    assert back.shared.all() and (back.decoder_match == np.flatnonzero(alive)).all()


def test_the_two_rules_differ_where_one_cosine_is_low():
    decoder, encoder = np.eye(4), np.eye(4)
    tilted = np.concatenate([0.5 * np.eye(4), np.sqrt(0.75) * np.eye(4)])    # cosine 0.5 with the encoder's columns
    encoder = np.concatenate([encoder, np.zeros((4, 4))])
    shared = [seed_alignment.align(decoder, encoder, decoder, tilted, rule=r).shared for r in ("mean", "both")]
    assert shared[0].all() and not shared[1].any()             # mean 0.75, least 0.5


def test_counterparts_and_growth_count_what_was_built():
    pool, codes = _unit(60, 256), _unit(60, 256)
    members = [np.arange(20), np.r_[10:30], np.r_[0:5, 25:40]]
    seeds = [(pool[m], codes[m].T) for m in (RNG.permutation(m) for m in members)]
    first = np.array([np.flatnonzero((pool == atom).all(1))[0] for atom in seeds[0][0]])
    expected = (first >= 10).astype(int) + (first < 5)
    np.testing.assert_array_equal(seed_alignment.counterparts(seeds), expected)
    np.testing.assert_array_equal(seed_alignment.union_growth(seeds), [20, 30, 40])


# Geometry

def test_ranks_of_known_spectra():
    q, _ = np.linalg.qr(RNG.standard_normal((12, 5)))
    r, _ = np.linalg.qr(RNG.standard_normal((5, 5)))
    stable, effective = (jax.jit(f) for f in (dictionary_geometry.stable_rank, dictionary_geometry.effective_rank))
    values = np.array([4.0, 2.0, 1.0, 0.0, 0.0])
    d = jnp.asarray(q * values @ r, jnp.float32)
    np.testing.assert_allclose(stable(d), 21 / 16, rtol=1e-5)
    p = values[:3] / 7
    np.testing.assert_allclose(effective(d), np.exp(-(p * np.log(p)).sum()), rtol=1e-4)
    d = jnp.asarray(3 * q @ r, jnp.float32)
    np.testing.assert_allclose([stable(d), effective(d)], 5, rtol=1e-5)


def test_babel_is_the_maximum_over_all_sets_and_grows_from_the_coherence():
    d = _unit(6, 3)
    gram = np.abs(d @ d.T)
    found = jax.jit(dictionary_geometry.babel, static_argnums=1)(2 * d.astype(np.float32), 5)
    for r in range(1, 6):
        best = max(gram[list(s), j].sum() for s in itertools.combinations(range(6), r) for j in set(range(6)) - set(s))
        np.testing.assert_allclose(found[r - 1], best, rtol=1e-5)
    np.testing.assert_allclose(found[0], jax.jit(dictionary_geometry.coherence)(d.astype(np.float32)), rtol=1e-6)
    codes = np.zeros((4, 6), np.float32)
    sets = [(), (2,), (0, 3), (1, 2, 5)]
    for row, s in zip(codes, sets, strict=True):
        row[list(s)] = RNG.uniform(0.5, 1, len(s))
    expected = [max([gram[list(set(s) - {j}), j].sum() for j in s], default=0) for s in sets]
    found = jax.jit(dictionary_geometry.babel_coactive)(d.astype(np.float32), codes)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_spark_bound_holds_and_is_tight_where_it_is_known_to_be():
    for d in (_unit(6, 3), _unit(5, 4), np.concatenate([np.eye(4), np.array([[1, 1, 1, 1], [1, -1, 1, -1.0]]) / 2])):
        spark = next((r for r in range(1, len(d) + 1) for s in itertools.combinations(d, r)
                      if np.linalg.matrix_rank(np.array(s), tol=1e-9) < r), len(d) + 1)
        assert 2 <= dictionary_geometry.spark_lower_bound(d) <= spark
    hadamard = np.concatenate([np.eye(4), np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2])
    assert dictionary_geometry.spark_lower_bound(3 * hadamard) == 3       # coherence exactly 1/2
    assert dictionary_geometry.spark_lower_bound(np.eye(4)) == 5
    assert dictionary_geometry.spark_lower_bound(np.ones((2, 3))) == 2     # two equal atoms


def test_out_of_distribution_atoms_and_plausible_ones():
    data = np.eye(6, dtype=np.float32)
    ood = jax.jit(dictionary_geometry.ood_score)
    np.testing.assert_allclose(ood(7 * data[[3, 1]], data), 0, atol=1e-6)
    atoms = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], np.float32)
    np.testing.assert_allclose(ood(atoms, data), 1 - (2**-0.5 + 0.5) / 2, rtol=1e-5)
    head = np.array([[3, 3, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(jax.jit(dictionary_geometry.plausibility)(atoms, head), (1 + 2**-0.5) / 2, rtol=1e-5)


def test_connectivity_hoyer_and_interference_of_known_codes():
    codes = np.array([[1, 0, 0, 0], [2, 3, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(jax.jit(dictionary_geometry.hoyer)(codes), [1, 2 - 5 / 13**0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(dictionary_geometry.connectivity)(codes[:2]), 4 / 16)
    atoms = np.array([[1, 0], [-1, 0], [0, 1], [0, 1]], np.float32)
    together = codes.T @ codes
    expected = np.linalg.norm(np.maximum(-together * (atoms @ atoms.T), 0), 2)
    np.testing.assert_allclose(jax.jit(dictionary_geometry.negative_interference)(codes, atoms), expected, rtol=1e-5)
    np.testing.assert_allclose(expected, 7)     # latents 0 and 1, once 2 * 3 and once 1 * 1, against each other
    assert jax.jit(dictionary_geometry.negative_interference)(codes, np.abs(atoms)) == 0


@pytest.mark.parametrize("call, message", [
    (lambda: match_atoms(np.eye(3), np.eye(4)), "atoms as rows"),
    (lambda: match_atoms(np.eye(3), np.eye(3), method="auction"), "has the methods"),
    (lambda: dictionaries.pw_mcc([np.eye(3)]), "at least two"),
    (lambda: dictionaries.dictionary_stability(np.eye(3), np.eye(3)[:2]), "of one size"),
    (lambda: seed_alignment.align(np.eye(3), np.eye(3), np.eye(3)[:2], np.eye(3)), "of the same widths"),
    (lambda: seed_alignment.align(*[np.eye(3)] * 4, rule="any"), "has the rules"),
    (lambda: dictionary_geometry.babel(jnp.eye(3), 3), "1 to 2 here"),
    (lambda: dictionaries.consistency_by_frequency(np.ones(3), np.ones(3), bins=4), "one length >= bins"),
])
def test_wrong_dictionaries_get_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
