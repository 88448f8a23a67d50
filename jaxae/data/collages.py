"""Collages: images of 2 x 2 tiles, each the digit of a class that is there or nothing."""

from collections.abc import Sequence

import numpy as np

from jaxae.data.digits import sklearn_digits
from jaxae.data.source import ArraySource, DataError


def collages(collage_classes: Sequence[int] = (0, 1, 2, 3), fixed_places: bool = False, num_train: int = 0,
             num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Images of 16 x 16 pixels with a random subset of four classes of scikit-learn's digits, one tile for each.

    Each class is there with probability 1/2, independently of the others; which of its digits is drawn anew. Whether a
    latent tells that a class is there is a measure of soft identifiability (`metrics.soft_identifiability`).

    Args:
      collage_classes: the classes, at most four different digits.
      fixed_places: each class has a tile of its own; otherwise tiles are drawn for each image.
      num_train: training examples, made of the 1,500 training digits; 0 is 4,000.
      num_test: test examples, of the 297 test digits; 0 is 1,000.
      seed: of the choice of digits, classes and places, and of the split of the digits.

    Returns:
      Train and test; `x` float32 `[n 16 16 1]` in [0, 1], `factors` float32 `[n c]`, 1 where the class is there.
      `info` has `factor_names`, the digits.

    Raises:
      DataError: more than four classes, or some that are no digits.

    Reference: after the benchmark of Fel et al., 'Archetypal SAE', 2025, arXiv 2502.12892, whose objects are generated
    images of vision data sets.
    """
    classes = tuple(int(c) for c in collage_classes)
    if not 1 <= len(set(classes)) == len(classes) <= 4 or not set(classes) <= set(range(10)):
        raise DataError(f"a collage has one to four different digits as classes, got {classes}: choose among 0 to 9")
    splits = sklearn_digits(seed)
    info = {"factor_names": tuple(str(c) for c in classes)}

    def draw(n: int, split: int) -> ArraySource:
        rng, digits = np.random.default_rng([seed, split]), splits[split].arrays()
        there = rng.random((n, len(classes))) < 0.5
        places = np.tile(np.arange(4), (n, 1)) if fixed_places else rng.random((n, 4)).argsort(1)
        tiles = np.zeros((n, 4, 8, 8, 1), np.float32)
        for i, c in enumerate(classes):
            rows = np.flatnonzero(there[:, i])
            tiles[rows, places[rows, i]] = digits["x"][rng.choice(np.flatnonzero(digits["label"] == c), len(rows))]
        x = tiles.reshape(n, 2, 2, 8, 8, 1).transpose(0, 1, 3, 2, 4, 5).reshape(n, 16, 16, 1)
        return ArraySource({"x": x, "factors": there.astype(np.float32)}, info)

    return draw(num_train or 4000, 0), draw(num_test or 1000, 1)
