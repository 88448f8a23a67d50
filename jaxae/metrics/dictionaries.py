"""Whether two dictionaries are one: one-to-one matching of atoms, consistency over seeds, recovery of known atoms.

Atoms are rows `[m d]`. The matching is scipy's Hungarian method, so these functions are on the host. Atoms that are
dead keep their random start and match nothing: leave them out (`atoms[alive]`) or report both numbers.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

_METHODS = ("hungarian", "greedy")


class Matching(NamedTuple):
    """The best pairs of atoms, one to one: `rows[i]` of the first with `columns[i]` of the second dictionary."""

    rows: Int[np.ndarray, " k"]      # k = min(m, p), ascending
    columns: Int[np.ndarray, " k"]
    cosine: Float[np.ndarray, " k"]  # absolute, where that was asked for


class MeanCorrelation(NamedTuple):
    """Mean matched |cosine| over pairs of dictionaries, its standard deviation, and each pair's."""

    mean: float
    std: float
    pairs: Float[np.ndarray, " pairs"]


class FrequencyTable(NamedTuple):
    """Consistency in bins of equal numbers of features, from rare to frequent."""

    frequency: Float[np.ndarray, " bins"]    # median of the bin
    consistency: Float[np.ndarray, " bins"]  # mean of the bin
    count: Int[np.ndarray, " bins"]
    rank_correlation: float                  # Spearman's, over all features


def match_atoms(a: Float[ArrayLike, "m d"], b: Float[ArrayLike, "p e"], absolute: bool = False,
                method: str = "hungarian") -> Matching:
    """The one-to-one matching of atoms with the largest sum of cosines.

    Args:
      a: atoms, of any norms.
      b: atoms of the same dimension.
      absolute: |cosine|: an atom and its negative are then the same.
      method: 'hungarian', exact, of cubic cost (minutes for 10,000 atoms); 'greedy', the most similar pair first,
        then the most similar of the rest: approximate, at least half of the best sum where cosines are not negative.

    Returns:
      A `Matching` of min(m, p) pairs. An atom of norm 0 has cosine 0 with all.

    Raises:
      ValueError: for dimensions that differ or an unknown method.

    >>> import numpy as np
    >>> match_atoms(np.eye(3), 2.0 * np.eye(3)[[2, 0, 1]]).columns.tolist()
    [1, 2, 0]
    """
    if method not in _METHODS:
        raise ValueError(f"match_atoms has the methods {_METHODS}, not {method!r}")
    similarity = _cosines(a, b)
    similarity = np.abs(similarity) if absolute else similarity
    if method == "hungarian":
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(similarity, maximize=True)
    else:
        rows, columns = _greedy(similarity)
    return Matching(rows, columns, similarity[rows, columns])


def mean_max_cosine(a: Float[Array, "m d"], b: Float[Array, "p e"], block: int = 1024) -> Float[Array, ""]:
    """mean_i max_j cos(a_i, b_j) (MMCS): how near each atom of `a` has one of `b`, which many may share.

    Args:
      a: atoms, of any norms.
      b: atoms of the same dimension.
      block: rows of the cosines in memory at once.

    Returns:
      A scalar in [-1, 1]; not symmetric.

    Reference: Sharkey, Braun, Millidge, 'Taking features out of superposition with sparse autoencoders', 2022.
    """
    return max_cosine(a, b, block).mean()


def max_cosine(a: Float[Array, "m d"], b: Float[Array, "p e"], block: int = 1024) -> Float[Array, " m"]:
    """max_j cos(a_i, b_j) of each atom of `a` `[m]`; `block` rows of the cosines are in memory at once."""
    _check(a, b)
    a, b = (jnp.asarray(v, jnp.float32) for v in (a, b))
    a, b = (v / jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return lax.map(lambda row: jnp.matmul(b, row, precision=lax.Precision.HIGHEST).max(), a,
                   batch_size=min(block, a.shape[0]))


def mcc(a: Float[ArrayLike, "m d"], b: Float[ArrayLike, "p e"], method: str = "hungarian") -> float:
    """Mean correlation coefficient: the mean matched |cosine|, 1 for dictionaries equal up to order, sign and scale.

    max over one-to-one M of 1 / min(m, p) sum_{(i, j) in M} |cos(a_i, b_j)|.

    With the true atoms for `b` it is the GT-MCC. Chance is well above 0: about 0.4 in 32 dimensions.

    Args:
      a: atoms.
      b: atoms of the same dimension.
      method: of `match_atoms`.

    Returns:
      A number in [0, 1].

    Reference: Song et al., 'Mechanistic interpretability should prioritize feature consistency in SAEs', 2025, arXiv
    2505.20254.
    """
    return float(match_atoms(a, b, absolute=True, method=method).cosine.mean())


def pw_mcc(dictionaries: Sequence[Float[ArrayLike, "_ _"]], method: str = "hungarian") -> MeanCorrelation:
    """Pairwise MCC: the mean of `mcc` over all pairs of dictionaries, such as those of several seeds.

    Args:
      dictionaries: at least two `[m d]`.
      method: of `match_atoms`.

    Returns:
      A `MeanCorrelation`; pairs in the order (0, 1), (0, 2), ..., (1, 2), ...

    Raises:
      ValueError: for fewer than two dictionaries.

    Reference: Song et al., 2025, arXiv 2505.20254.
    """
    if len(dictionaries) < 2:
        raise ValueError(f"pw_mcc compares at least two dictionaries; got {len(dictionaries)}")
    pairs = np.array([mcc(a, b, method) for a, b in itertools.combinations(dictionaries, 2)])
    return MeanCorrelation(float(pairs.mean()), float(pairs.std()), pairs)


def consistency_by_frequency(per_feature: Float[ArrayLike, " m"], frequency: Real[ArrayLike, " q"],
                             bins: int = 10) -> FrequencyTable:
    """Matched |cosine| of features against how often they fire.

    Args:
      per_feature: consistency of each, such as `match_atoms(a, b, absolute=True).cosine`.
      frequency: share of the examples in which each fires.
      bins: of equal numbers of features, at most m.

    Returns:
      A `FrequencyTable`; the rank correlation is NaN where one of the two does not vary.

    Raises:
      ValueError: for more bins than features or columns of different lengths.
    """
    from scipy.stats import spearmanr

    per_feature, frequency = np.asarray(per_feature, np.float64), np.asarray(frequency, np.float64)
    if per_feature.shape != frequency.shape or not 1 <= bins <= per_feature.size:
        raise ValueError(f"consistency_by_frequency wants two columns of one length >= bins; got {per_feature.shape}, "
                         f"{frequency.shape}, bins={bins}")
    parts = np.array_split(np.argsort(frequency, kind="stable"), bins)
    vary = min(np.ptp(per_feature), np.ptp(frequency)) > 0
    return FrequencyTable(np.array([np.median(frequency[p]) for p in parts]),
                          np.array([per_feature[p].mean() for p in parts]), np.array([len(p) for p in parts]),
                          float(spearmanr(per_feature, frequency).statistic) if vary else float("nan"))


def feature_recovery(learned: Float[Array, "m d"], truth: Float[Array, "p e"],
                     tau: float | Float[Array, ""] = 0.9) -> Float[Array, ""]:
    """Share of the true atoms that some learned one comes near: max_j cos > tau.

    Between seeds see `cross_seed_consistency`.

    Args:
      learned: atoms.
      truth: true atoms.
      tau: threshold on the cosine.

    Returns:
      A share in [0, 1].

    Reference: Chen et al., 'Taming polysemanticity in LLMs', 2025, arXiv 2506.14002.
    """
    return (max_cosine(truth, learned) > tau).mean(dtype=jnp.float32)


def cross_seed_consistency(atoms: Float[Array, "m d"], others: Sequence[Float[Array, "_ _"]],
                           keep: Bool[Array, " k"] | None = None,
                           tau: float | Float[Array, ""] = 0.9) -> Float[Array, ""]:
    """Share of the atoms of one run that come near an atom of every other run: min over runs of max_j cos > tau.

    Args:
      atoms: of the run.
      others: dictionaries of the other runs, of any sizes.
      keep: which atoms count, such as the selective ones (`latent_zscore` and the largest activation above a level);
        all by default.
      tau: threshold on the cosine.

    Returns:
      A share in [0, 1], of the atoms that count; NaN if none does.

    Raises:
      ValueError: for no other run, or another number of atoms in `keep`.

    Reference: Chen et al., 'Taming polysemanticity in LLMs', 2025, arXiv 2506.14002.
    """
    if not others:
        raise ValueError("cross_seed_consistency compares runs: give at least one other dictionary")
    if keep is not None and keep.shape[0] != atoms.shape[0]:
        raise ValueError(f"keep says which of {atoms.shape[0]} atoms count; got {keep.shape[0]}")
    keep = jnp.ones(atoms.shape[0], bool) if keep is None else keep
    least = jnp.stack([max_cosine(atoms, other) for other in others]).min(0)
    return ((least > tau) & keep).sum() / keep.sum()


def dictionary_stability(a: Float[ArrayLike, "m d"], b: Float[ArrayLike, "p e"]) -> float:
    """max over permutations P of 1/m tr(A^T P B), atoms of unit norm: the mean matched cosine of two runs.

    Raises:
      ValueError: for dictionaries of different sizes.

    Reference: Fel et al., 'Archetypal SAE', 2025, arXiv 2502.12892.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"dictionary_stability wants two dictionaries of one size; got {np.shape(a)}, {np.shape(b)}")
    return float(match_atoms(a, b).cosine.mean())


def _check(a, b):
    if np.ndim(a) != 2 or np.ndim(b) != 2 or np.shape(a)[1] != np.shape(b)[1]:
        raise ValueError(f"dictionaries are [m d] and [p d], atoms as rows; got {np.shape(a)} and {np.shape(b)}")


def _cosines(a, b):
    _check(a, b)
    a, b = (np.asarray(jax.device_get(v), np.float64) for v in (a, b))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return a @ b.T


def _greedy(similarity):
    """All pairs that are the best of their row and of their column, then again without them: greedy, in few rounds."""
    left = similarity.copy()
    partner = np.full(len(left), -1)
    for _ in range(min(left.shape)):
        column = left.argmax(1)
        mutual = (left.argmax(0)[column] == np.arange(len(left))) & (left[np.arange(len(left)), column] > -np.inf)
        partner[mutual] = column[mutual]
        left[mutual] = -np.inf
        left[:, column[mutual]] = -np.inf
        if (partner >= 0).sum() == min(left.shape):
            break
    rows = np.flatnonzero(partner >= 0)
    return rows, partner[rows]
