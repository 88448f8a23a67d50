"""Planted pairs and collages against what they say of themselves."""

import numpy as np
import pytest

from jaxae.data import DataError, load
from jaxae.data.digits import sklearn_digits


def test_an_example_is_one_pair_of_each_active_head():
    data = load({"source": "planted_pairs", "heads": 3, "bases": 2, "extensions": 5, "num_train": 4000,
                 "num_test": 50})
    x, codes, info = data.train.arrays()["x"], data.train.arrays()["factors"], data.train.info
    atoms = info["atoms"].reshape(3, 2, 5, 21)
    for h, a, b in np.ndindex(3, 2, 5):  # head, base, extension: the order of the numbers
        np.testing.assert_allclose(atoms[h, a, b], (info["bases"][h, a] + info["extensions"][h, b]) / np.sqrt(2),
                                   atol=1e-6)
    directions = np.concatenate([info[name].reshape(-1, 21) for name in ("bases", "extensions")])
    np.testing.assert_allclose(directions @ directions.T, np.eye(21), atol=1e-6)
    np.testing.assert_allclose(x, codes @ info["atoms"], atol=1e-6)
    by_head = (codes.reshape(-1, 3, 10) > 0).sum(2)
    assert by_head.max() == 1 and (by_head.sum(1) == 2).all()
    values = codes[codes > 0]
    assert values.min() >= 0.5 and values.max() <= 1.5 and abs(values.mean() - 1) < 0.02
    often = (codes > 0).mean(0)
    deviation = np.sqrt(2 / 30 * 28 / 30 / 4000)
    assert np.abs(often - info["frequencies"]).max() < 4.5 * deviation
    assert not np.array_equal(data.test.arrays()["x"][:50], x[:50])


def test_directions_interfere_where_the_space_has_no_room():
    info = load({"source": "planted_pairs", "atom_dim": 16, "num_train": 1, "num_test": 1}).train.info
    np.testing.assert_allclose(np.linalg.norm(info["atoms"], axis=1), 1, atol=1e-6)
    directions = np.concatenate([info[name].reshape(-1, 16) for name in ("bases", "extensions")])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    assert np.abs(directions @ directions.T - np.eye(32)).max() > 0.3


@pytest.mark.parametrize("fixed", [False, True])
def test_collages_show_the_classes_that_they_name(fixed):
    """Every tile is empty or a digit of the split's own, of a class that is there, once."""
    data = load({"source": "collages", "collage_classes": (7, 1, 0), "fixed_places": fixed, "num_train": 300,
                 "num_test": 100})
    for split, digits in zip((data.train, data.test), sklearn_digits(0), strict=True):
        arrays, known = split.arrays(), digits.arrays()
        label = {image.tobytes(): int(c) for image, c in zip(known["x"], known["label"], strict=True)}
        tiles = arrays["x"].reshape(-1, 2, 8, 2, 8, 1).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8, 8, 1)
        places = set()
        for image, there in zip(tiles, arrays["factors"], strict=True):
            found = {place: label[tile.tobytes()] for place, tile in enumerate(image) if tile.any()}
            assert sorted(found.values()) == sorted(c for c, t in zip((7, 1, 0), there, strict=True) if t)
            places |= {(place, c) for place, c in found.items()}
        assert len(places) == (3 if fixed else 12)
        assert np.abs(arrays["factors"].mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(len(split))


@pytest.mark.parametrize("config, message", [
    ({"source": "planted_pairs", "active_heads": 5}, "choose fewer active_heads"),
    ({"source": "planted_pairs", "low": 2.0}, "0 <= low <= high"),
    ({"source": "collages", "collage_classes": (1, 1)}, "different digits"),
    ({"source": "collages", "collage_classes": (1, 2, 3, 4, 5)}, "one to four"),
])
def test_what_cannot_be_made_is_said(config, message):
    with pytest.raises(DataError, match=message):
        load(config)
