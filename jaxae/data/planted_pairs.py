"""Planted pairs: every atom is the sum of a base and an extension direction of one head, as an AND of two causes."""

import numpy as np

from jaxae.data.dictionaries import unit_rows
from jaxae.data.source import ArraySource, DataError


def planted_pairs(heads: int = 4, bases: int = 4, extensions: int = 4, active_heads: int = 2, atom_dim: int = 0,
                  low: float = 0.5, high: float = 1.5, noise: float = 0.0, num_train: int = 0, num_test: int = 0,
                  seed: int = 0) -> tuple[ArraySource, ArraySource]:
    r"""Sums of a few atoms $(b_i + e_j) / |b_i + e_j|$, one of each active head.

    An example has `active_heads` different heads, of each one pair (i, j), with a uniform coefficient. Atoms are
    numbered head first, then base, then extension. The directions are orthonormal where the space has room for all of
    them; then an encoder that multiplies square roots, $\sqrt{p_i q_j}$, is exact, and one that multiplies is not.

    Args:
      heads: h.
      bases: a, directions of each head.
      extensions: b, likewise.
      active_heads: atoms of an example.
      atom_dim: d; 0 is h (a + b), the least for orthonormal directions. With less they are random unit vectors.
      low: least coefficient.
      high: largest coefficient.
      noise: standard deviation of what is added to every coordinate.
      num_train: training examples; 0 is 20,000.
      num_test: test examples; 0 is 4,000.
      seed: of the directions and of the draws.

    Returns:
      Train and test; `x` float32 `[n d]`, `factors` float32 `[n m]`, m = h a b, the true codes. `info`
      has `atoms` float32 `[m d]`, rows of unit norm, `bases` `[h a d]`, `extensions` `[h b d]` and `frequencies`
      `[m]`.

    Raises:
      DataError: numbers that make no pairs.

    >>> train, _ = planted_pairs(num_train=5)
    >>> x, codes = train[:]["x"], train[:]["factors"]
    >>> x.shape, bool(np.allclose(x, codes @ train.info["atoms"], atol=1e-6)), (codes > 0).sum(1).tolist()
    ((5, 32), True, [2, 2, 2, 2, 2])

    Reference: the logic of Kurochkin et al., 'Train sparse autoencoders efficiently by utilizing features
    correlation', 2025, arXiv 2505.22255; the data are ours.
    """
    if min(heads, bases, extensions) < 1 or not 1 <= active_heads <= heads or atom_dim < 0:
        raise DataError(f"planted pairs need heads, bases and extensions >= 1 and 1 <= active_heads <= heads, got "
                        f"{heads}, {bases}, {extensions} and {active_heads}: choose fewer active_heads or more heads")
    if not 0 <= low <= high or noise < 0:
        raise DataError(f"0 <= low <= high and noise is not negative; got {low}, {high}, {noise}")
    count = heads * (bases + extensions)
    dim, atoms = atom_dim or count, heads * bases * extensions
    drawn = np.random.default_rng([seed, 2]).standard_normal((dim, max(dim, count)))
    directions = np.linalg.qr(drawn)[0].T[:count] if dim >= count else unit_rows(drawn.T[:count])
    base = directions[:heads * bases].reshape(heads, bases, dim)
    extension = directions[heads * bases:].reshape(heads, extensions, dim)
    pairs = unit_rows((base[:, :, None] + extension[:, None]).reshape(atoms, dim))
    info = {"atoms": pairs, "bases": base.astype(np.float32), "extensions": extension.astype(np.float32),
            "frequencies": np.full(atoms, active_heads / atoms)}

    def draw(n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        head = rng.random((n, heads)).argsort(1)[:, :active_heads]
        pair = rng.integers(0, bases * extensions, head.shape)
        codes = np.zeros((n, atoms))
        np.put_along_axis(codes, head * bases * extensions + pair, rng.uniform(low, high, head.shape), 1)
        x = codes @ pairs.astype(np.float64)
        if noise:
            x += noise * rng.standard_normal(x.shape)
        return ArraySource({"x": x.astype(np.float32), "factors": codes.astype(np.float32)}, info)

    return draw(num_train or 20_000, 0), draw(num_test or 4000, 1)
