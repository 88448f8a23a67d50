"""Activations of which a later loss reads the weak part alone, with its gradients: strong atoms that do not matter."""

import numpy as np
from jaxtyping import Float, Int

from jaxae.data.dictionaries import unit_rows
from jaxae.data.source import ArraySource, DataError


def influence(atoms: int = 64, active: int = 3, atom_dim: int = 0, sharpness: float = 15.0, num_train: int = 0,
              num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    r"""Strong random atoms in half of the dimensions, one weak atom in the other half, and a head that reads the weak.

    The last d/2 atoms are weak: orthonormal in the last d/2 dimensions. Each example has one of them, with a
    coefficient of 0.4 to 0.6, whose number is the label y of the head softmax(s W x) with the weak atoms as rows of W.
    The others are strong: unit vectors of the first d/2 dimensions, of which `active` are there with coefficients of 2
    to 3. A dictionary with k = `active` that chooses by size drops what the head reads.

    Args:
      atoms: m.
      active: strong atoms of an example.
      atom_dim: d, even; 0 is 48.
      sharpness: s.
      num_train: training examples; 0 is 20,000.
      num_test: test examples; 0 is 4,000.
      seed: of the atoms and of the draws.

    Returns:
      Train and test; `x` float32 `[n d]`, `gradient` float32 `[n d]`, that of -log softmax(s W x)_y by x, `label`
      int32, `factors` float32 `[n m]`, the true codes. `info` has `atoms` float32 `[m d]`, strong before weak, and
      `head` float32 `[d/2 d]`, s W.

    Raises:
      DataError: numbers that make no such data.

    >>> train, _ = influence(atoms=10, active=2, atom_dim=8, num_train=3)
    >>> train[:]["gradient"].shape, (train[:]["factors"] > 0).sum(1).tolist(), train.info["head"].shape
    ((3, 8), [3, 3, 3], (4, 8))

    Reference: made for Olmo et al., 'Features that make a difference', 2024, arXiv 2411.10397.
    """
    dim = atom_dim or 48
    half = dim // 2
    strong = atoms - half
    if dim % 2 or not 1 <= active <= strong or sharpness <= 0:
        raise DataError(f"influence wants an even atom_dim, atoms of at least atom_dim / 2 + active, active >= 1 and "
                        f"sharpness above 0; got atom_dim={dim}, atoms={atoms}, active={active}, sharpness={sharpness}")
    rng = np.random.default_rng([seed, 2])
    directions = np.zeros((atoms, dim), np.float32)
    directions[:strong, :half] = unit_rows(rng.standard_normal((strong, half)))
    directions[strong:, half:] = np.linalg.qr(rng.standard_normal((half, half)))[0]
    head = np.float32(sharpness) * directions[strong:]
    info = {"atoms": directions, "head": head}

    def draw(n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        there = rng.random((n, strong)).argsort(1).argsort(1) < active
        label = rng.integers(0, half, n)
        codes = np.zeros((n, atoms))
        codes[:, :strong] = np.where(there, rng.uniform(2.0, 3.0, (n, strong)), 0.0)
        codes[np.arange(n), strong + label] = rng.uniform(0.4, 0.6, n)
        x = (codes @ directions.astype(np.float64)).astype(np.float32)
        return ArraySource({"x": x, "gradient": head_gradient(x, head, label), "label": label.astype(np.int32),
                            "factors": codes.astype(np.float32)}, info)

    return draw(num_train or 20_000, 0), draw(num_test or 4000, 1)


def head_gradient(x: Float[np.ndarray, "n d"], head: Float[np.ndarray, "c d"],
                  label: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """Gradient by x of -log softmax(head x)_label, one row for each example."""
    logits = x.astype(np.float64) @ head.T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(x)), label] -= 1.0
    return (p @ head).astype(np.float32)
