"""Handwritten digits: 5,000 of MNIST inside the package, and scikit-learn's 1,797 small ones."""

from pathlib import Path

import numpy as np

from jaxae.data.images import fit_all
from jaxae.data.source import ArraySource

PATH = Path(__file__).with_name("digits.npz")


def digits(size: int = 0) -> tuple[ArraySource, ArraySource]:
    """5,000 MNIST digits, 4,000 to train and 1,000 to test, shuffled once and for all when packed.

    Source and terms: LICENSE-digits.md beside this file; packed by `python -m jaxae.data.make_digits`.

    Args:
      size: pixels of a side; 0 is 28, 14 averages 2 x 2.

    Returns:
      Train and test; `x` uint8 `[n size size 1]`, `label` uint8 `[n]`.

    Reference:
      Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
      1998.
    """
    with np.load(PATH) as file:
        x, label = fit_all(file["x"], size), file["label"]
    return _split({"x": x, "label": label}, 4000)


def sklearn_digits(seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, shuffled by seed, 1,500 to train and 297 to test.

    Returns:
      Train and test; `x` float32 `[n 8 8 1]` in [0, 1], multiples of 1/16; `label` uint8 `[n]`.

    Reference:
      E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(seed).permutation(len(raw.images))
    x = (raw.images[order, ..., None] / 16).astype(np.float32)
    return _split({"x": x, "label": raw.target[order].astype(np.uint8)}, 1500)


def _split(arrays: dict[str, np.ndarray], at: int) -> tuple[ArraySource, ArraySource]:
    info = {"label_names": tuple("0123456789")}
    return (ArraySource({k: a[:at] for k, a in arrays.items()}, info),
            ArraySource({k: a[at:] for k, a in arrays.items()}, info))
