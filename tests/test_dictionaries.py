"""Planted dictionaries and feature trees against what they say of themselves."""

import numpy as np
import pytest

from jaxae.data import DataError, load
from jaxae.data.dictionaries import dictionary, feature_tree, inclusion, systematic


def _parts(source):
    arrays = source.arrays()
    return arrays["x"], arrays["factors"], source.info["atoms"]


@pytest.mark.parametrize("options", [
    {}, {"frequencies": "zipf", "active": 5, "active_std": 4.2}, {"correlated": 0.7}, {"coefficients": "normal"},
    {"atoms": 40, "rare_atoms": 8},
])
def test_x_is_the_sum_of_its_atoms(options):
    train, test = dictionary(num_train=500, num_test=200, **options)
    for source in (train, test):
        x, codes, atoms = _parts(source)
        assert x.dtype == codes.dtype == np.float32 and len(x) == len(source)
        np.testing.assert_allclose(x, codes @ atoms, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-6)
        assert codes.min() == 0
    np.testing.assert_array_equal(train.info["atoms"], test.info["atoms"])
    assert not np.array_equal(train.arrays()["x"][:200], test.arrays()["x"])


def test_noise_has_its_standard_deviation_and_unit_norm_scales_the_codes():
    x, codes, atoms = _parts(dictionary(noise=0.2, num_train=4000)[0])
    residual = x - codes @ atoms
    np.testing.assert_allclose(residual.std(), 0.2, rtol=0.01)
    np.testing.assert_allclose(np.corrcoef(residual.T) - np.eye(32), 0, atol=0.08)
    x, codes, atoms = _parts(dictionary(unit_norm=True, num_train=200)[0])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(x, codes @ atoms, atol=1e-5)


@pytest.mark.parametrize("options", [
    {"active": 1, "frequencies": "zipf"}, {"active": 4, "frequencies": "zipf", "zipf_exponent": 1.3},
    {"active": 3, "frequencies": "groups"}, {"active": 3, "correlated": 0.6, "frequencies": "zipf"},
    {"active": 4, "correlated": 1.0}, {"active": 5, "active_std": 4.2, "frequencies": "zipf"},
    {"active": 5, "active_std": 3.0, "frequencies": "groups", "correlated": 0.5}, {"rare_atoms": 4},
])
def test_atoms_are_active_as_often_as_info_says(options):
    n = 30_000
    train, _ = dictionary(atoms=24, atom_dim=16, num_train=n, num_test=1, **options)
    expected = train.info["frequencies"]
    found = (train.arrays()["factors"] > 0).mean(0)
    deviation = np.sqrt(np.maximum(expected * (1 - expected), 1e-12) / n)
    assert (np.abs(found - expected) < 4.5 * deviation + 1e-9).all(), (found - expected) / deviation


def test_the_laws_are_zipfs_and_two_groups():
    zipf = dictionary(active=1, frequencies="zipf", num_train=1)[0].info["frequencies"]
    np.testing.assert_allclose(zipf, (1 / np.arange(1, 65)) / (1 / np.arange(1, 65)).sum())
    groups = dictionary(active=2, frequencies="groups", group_ratio=7.0, num_train=1)[0].info["frequencies"]
    np.testing.assert_allclose(groups.sum(), 2)
    np.testing.assert_allclose(groups[:32], 7 * groups[32:])


def test_the_number_of_active_atoms_is_constant_or_log_normal():
    source, _ = dictionary(active=3, correlated=0.5, frequencies="zipf", num_train=3000)
    counts = (source.arrays()["factors"] > 0).sum(1)
    assert (counts == 3).all()
    source, _ = dictionary(atoms=96, active=5, active_std=4.2, num_train=15_000, num_test=1)
    counts = (source.arrays()["factors"] > 0).sum(1)
    assert counts.min() == 1
    np.testing.assert_allclose([counts.mean(), counts.std()], [5.0, 4.2], rtol=0.05)
    np.testing.assert_allclose(np.median(counts), 5 / np.sqrt(1 + 0.84**2), atol=0.6)   # exp(mu)


def test_correlated_atoms_come_in_pairs():
    codes = dictionary(active=4, correlated=1.0, num_train=500)[0].arrays()["factors"].reshape(500, 32, 2) > 0
    assert (codes[..., 0] == codes[..., 1]).all()
    codes = dictionary(active=3, correlated=1.0, num_train=500)[0].arrays()["factors"].reshape(500, 32, 2) > 0
    assert (codes.all(-1).sum(1) == 1).all() and ((codes[..., 0] ^ codes[..., 1]).sum(1) == 1).all()


def test_coefficients_follow_their_law():
    codes = dictionary(low=0.7, high=1.3, num_train=5000)[0].arrays()["factors"]
    values = codes[codes > 0]
    assert values.min() >= 0.7 and values.max() <= 1.3
    np.testing.assert_allclose([values.mean(), values.var()], [1.0, 0.36 / 12], atol=0.01)
    values = dictionary(coefficients="normal", num_train=5000)[0].arrays()["factors"]
    values = values[values > 0]
    np.testing.assert_allclose([values.mean(), (values**2).mean()], [np.sqrt(2 / np.pi), 1], atol=0.02)


def test_rare_atoms_are_rare_single_and_besides_the_others():
    codes = dictionary(atoms=40, rare_atoms=8, rare_probability=0.02, num_train=20_000)[0].arrays()["factors"]
    rare = codes[:, 32:]
    assert ((codes[:, :32] > 0).sum(1) == 3).all() and (rare > 0).sum(1).max() == 1
    assert set(np.unique(rare)) == {np.float32(0), np.float32(1.2)}
    np.testing.assert_allclose((rare > 0).any(1).mean(), 0.02, atol=4 * np.sqrt(0.02 / 20_000))


def test_systematic_sets_have_the_probabilities_and_the_size():
    rng = np.random.default_rng(0)
    probability = inclusion(np.array([8.0, 2.0, 1.0, 1.0, 0.5]), 3)
    np.testing.assert_allclose(probability.sum(), 3)
    assert probability.max() == 1 and probability[0] == 1
    drawn = systematic(np.tile(probability, (40_000, 1)), rng)
    assert (drawn.sum(1) == 3).all()
    np.testing.assert_allclose(drawn.mean(0), probability, atol=0.012)


# Trees

@pytest.mark.parametrize("exclusive", [True, False])
def test_children_are_active_under_their_parent_alone(exclusive):
    source, _ = feature_tree(branching=(4, 3, 2), exclusive=exclusive, num_train=20_000)
    x, codes, atoms = _parts(source)
    parents = source.info["parents"]
    np.testing.assert_allclose(x, codes @ atoms, atol=1e-5)
    on, child = codes > 0, np.flatnonzero(parents >= 0)
    assert parents.tolist()[:7] == [-1] * 4 + [0] * 3 and parents[16:20].tolist() == [4, 4, 5, 5]
    assert (on[:, child] <= on[:, parents[child]]).all()
    siblings = np.stack([on[:, parents == p].sum(1) for p in range(16)], 1)
    assert (siblings.max() == 1) == exclusive
    given = on[:, 4:].sum(0) / on[:, parents[4:]].sum(0)
    expected = np.repeat([0.8 / 3, 0.8 / 2], 12) if exclusive else np.full(24, 0.8)
    expected = np.concatenate([expected[:12], expected[12:][:12], expected[12:]])[:len(given)]
    np.testing.assert_allclose(given, expected, atol=0.07)
    np.testing.assert_allclose(on.mean(0), source.info["frequencies"], atol=0.015)


def test_children_are_orthogonal_to_all_ancestors_and_siblings_interfere_as_told():
    info = feature_tree(branching=(8, 4, 2), atom_dim=48, num_train=1)[0].info
    atoms, parents = info["atoms"].astype(np.float64), info["parents"]
    for i, parent in enumerate(parents):
        while parent >= 0:
            assert abs(atoms[i] @ atoms[parent]) < 1e-6
            parent = parents[parent]

    def sibling_cosine(expected):
        info = feature_tree(branching=(30, 6), atom_dim=64, sibling_cosine=expected, num_train=1)[0].info
        cosine = info["atoms"] @ info["atoms"].T
        same = (info["parents"][:, None] == info["parents"]) & (info["parents"] >= 0) & ~np.eye(210, dtype=bool)
        return cosine[same].mean()

    assert abs(sibling_cosine(0.0)) < 0.02 and abs(sibling_cosine(0.6) - 0.6) < 0.04


def test_coefficients_of_a_tree_have_their_mean_and_spread():
    codes = feature_tree(num_train=10_000)[0].arrays()["factors"]
    values = codes[codes > 0]
    np.testing.assert_allclose([values.mean(), values.std()], [1.5, 0.25], atol=0.01)


# Both

@pytest.mark.parametrize("source", ["dictionary", "feature_tree"])
def test_load_gives_the_same_for_one_seed_and_another_for_another(source):
    config = {"source": source, "num_train": 50, "num_test": 10}
    a, b, c = (load({**config, "seed": s}) for s in (3, 3, 4))
    for split in ("train", "test"):
        for name in ("x", "factors"):
            np.testing.assert_array_equal(*(getattr(d, split).arrays()[name] for d in (a, b)))
    assert not np.array_equal(a.train.info["atoms"], c.train.info["atoms"])
    longer = load({**config, "seed": 3, "num_train": 80})
    np.testing.assert_array_equal(longer.train.info["atoms"], a.train.info["atoms"])


@pytest.mark.parametrize("config, message", [
    ({"active": 65}, "1 <= active <= atoms - rare_atoms"),
    ({"atoms": 3, "rare_atoms": 3, "active": 1}, "enlarge atoms"),
    ({"coefficients": "gamma"}, "coefficients is one of"), ({"frequencies": "flat"}, "frequencies one of"),
    ({"correlated": 0.5, "atoms": 63}, "make their number even"), ({"correlated": 2.0}, "are probabilities"),
    ({"low": 2.0}, "0 <= low <= high"), ({"noise": -1.0}, "not negative"),
    ({"exclusive": False}, "no option 'exclusive'"),
    ({"source": "feature_tree", "branching": ()}, "branching of numbers >= 1"),
    ({"source": "feature_tree", "branching": (2, 2, 2), "atom_dim": 3}, "enlarge atom_dim"),
    ({"source": "feature_tree", "root_probability": 1.5}, r"lie in \[0, 1\]"),
])
def test_impossible_dictionaries_get_one_clear_error(config, message):
    with pytest.raises(DataError, match=message):
        load({"source": "dictionary", **config})
