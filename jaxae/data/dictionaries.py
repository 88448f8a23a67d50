"""Planted dictionaries: sparse sums of known atoms, flat or in a tree, for learners that should find them again."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxae.data.source import ArraySource, DataError

COEFFICIENTS = ("uniform", "normal")
FREQUENCIES = ("uniform", "zipf", "groups")


def dictionary(atoms: int = 64, atom_dim: int = 0, active: int = 3, active_std: float = 0.0,
               coefficients: str = "uniform", low: float = 0.5, high: float = 1.5, frequencies: str = "uniform",
               zipf_exponent: float = 1.0, group_ratio: float = 10.0, correlated: float = 0.0, rare_atoms: int = 0,
               rare_probability: float = 0.01, rare_coefficient: float = 1.2, noise: float = 0.0,
               unit_norm: bool = False, num_train: int = 0, num_test: int = 0,
               seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Sums of a few of m random unit vectors: x = codes @ atoms + noise.

    How often each atom is active is exact, `info['frequencies']`: active sets are drawn by systematic sampling in a
    random order, which has a fixed size and the inclusion probabilities asked for.

    Args:
      atoms: m, the rare ones included.
      atom_dim: d; 0 is 32.
      active: atoms of an example, rare ones not counted.
      active_std: 0 makes their number constant; above 0 it is log-normal with mean `active` and this standard
        deviation, rounded and kept within 1 and the number of common atoms.
      coefficients: 'uniform' in [low, high], or 'normal', |N(0, 1)|.
      low: least uniform coefficient.
      high: largest uniform coefficient.
      frequencies: 'uniform'; 'zipf', proportional to (rank + 1)^-zipf_exponent; 'groups', the first half of the
        atoms group_ratio times as frequent as the second. No atom is more often active than always.
      zipf_exponent: of 'zipf'.
      group_ratio: of 'groups'.
      correlated: probability that an example is made of whole pairs of atoms, (0, 1), (2, 3), ..., of which one atom
        is left out where `active` is odd. The atoms of a pair then have one frequency.
      rare_atoms: so many of the last atoms are not drawn with the others.
      rare_probability: that an example has one of them besides.
      rare_coefficient: with this coefficient.
      noise: standard deviation of what is added to every coordinate.
      unit_norm: divides x and its codes by the norm of x.
      num_train: training examples; 0 is 20,000.
      num_test: test examples; 0 is 4,000.
      seed: of the atoms and of the draws.

    Returns:
      Train and test; `x` float32 `[n d]`, `factors` float32 `[n m]`, the true codes. `info` has `atoms` float32
      `[m d]`, rows of unit norm, and `frequencies` `[m]`, the probability of each to be active.

    Raises:
      DataError: numbers that make no dictionary.

    >>> train, _ = dictionary(atoms=8, atom_dim=4, active=2, num_train=5)
    >>> x, codes = train[:]["x"], train[:]["factors"]
    >>> bool(np.allclose(x, codes @ train.info["atoms"], atol=1e-6)), (codes > 0).sum(1).tolist()
    (True, [2, 2, 2, 2, 2])

    Reference: the pairs, groups and frequencies after Song et al., 'Mechanistic interpretability should prioritize
    feature consistency in SAEs', 2025, arXiv 2505.20254; rare atoms after Muhamed et al., 2024, arXiv 2411.00743.
    """
    common, dim = atoms - rare_atoms, atom_dim or 32
    _check(locals())
    weights = {"uniform": np.ones(common), "zipf": np.arange(1.0, common + 1) ** -zipf_exponent,
               "groups": np.where(np.arange(common) < common // 2, group_ratio, 1.0)}[frequencies]
    if correlated:
        weights = np.repeat(weights.reshape(-1, 2).mean(1), 2)
    directions = unit_rows(np.random.default_rng([seed, 2]).standard_normal((atoms, dim)))
    law = _count_law(active, active_std, common)  # [common + 1]
    counts = np.flatnonzero(law)
    single, paired = np.zeros((2, common + 1, common))
    single[counts] = [inclusion(weights, int(c)) for c in counts]
    if correlated:
        halves = -(-np.arange(common + 1) // 2)
        paired[counts] = [np.repeat(inclusion(weights[::2], int(halves[c])), 2) for c in counts]
    kept = np.arange(common + 1) / np.maximum(2 * -(-np.arange(common + 1) // 2), 1)  # of a drawn pair's atoms
    often = law @ ((1 - correlated) * single + correlated * kept[:, None] * paired)
    often = np.concatenate([often, np.full(rare_atoms, rare_probability / max(rare_atoms, 1))])
    info = {"atoms": directions, "frequencies": often}

    def draw(n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        number = rng.choice(common + 1, n, p=law)
        support = np.zeros((n, atoms), bool)
        pairs = rng.random(n) < correlated
        support[~pairs, :common] = systematic(single[number[~pairs]], rng)
        if pairs.any():
            chosen = np.repeat(systematic(paired[number[pairs], ::2], rng), 2, axis=1)
            surplus = np.where(chosen, rng.random(chosen.shape), -1.0).argmax(1)
            odd = np.flatnonzero(number[pairs] % 2)
            chosen[odd, surplus[odd]] = False
            support[pairs, :common] = chosen
        size = (n, atoms)
        values = rng.uniform(low, high, size) if coefficients == "uniform" else np.abs(rng.standard_normal(size))
        codes = np.where(support, values, 0.0)
        if rare_atoms:
            which = np.flatnonzero(rng.random(n) < rare_probability)
            codes[which, common + rng.integers(0, rare_atoms, len(which))] = rare_coefficient
        return _source(codes, directions, noise, rng, info, unit_norm)

    return draw(num_train or 20_000, 0), draw(num_test or 4000, 1)


def feature_tree(branching: Sequence[int] = (8, 4), root_probability: float = 0.2, child_probability: float = 0.8,
                 exclusive: bool = True, sibling_cosine: float = 0.0, coefficient_mean: float = 1.5,
                 coefficient_std: float = 0.25, atom_dim: int = 0, noise: float = 0.0, num_train: int = 0,
                 num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Features in a tree: a child is active only where its parent is, and is orthogonal to all its ancestors.

    Args:
      branching: number of roots, of children of each root, of their children, and so on.
      root_probability: that a root is active, each by itself.
      child_probability: exclusive: that an active feature has an active child, any one of them; otherwise: that each
        child of an active feature is active, by itself.
      exclusive: siblings other than roots are never active together.
      sibling_cosine: expected cosine of siblings. At 0 their directions are independent, and so interfere where the
        space is crowded.
      coefficient_mean: of an active feature; coefficients are normal, and kept above 0.
      coefficient_std: of an active feature.
      atom_dim: d, at least the number of levels; 0 is 24.
      noise: standard deviation of what is added to every coordinate.
      num_train: training examples; 0 is 20,000.
      num_test: test examples; 0 is 4,000.
      seed: of the directions and of the draws.

    Returns:
      Train and test; `x` float32 `[n d]`, `factors` float32 `[n m]`, the true codes. `info` has `atoms` float32
      `[m d]`, rows of unit norm, `parents` int `[m]`, -1 for a root, and `frequencies` `[m]`. Features are numbered
      level by level.

    Raises:
      DataError: numbers that make no tree.

    Reference: the toy data of Costa et al., 'From flat to hierarchical: extracting sparse representations with
    matching pursuit', 2025, arXiv 2506.03093.
    """
    branching, dim = tuple(int(b) for b in branching), atom_dim or 24
    if not branching or min(branching) < 1 or dim < len(branching) + (sibling_cosine < 1):
        raise DataError(f"a tree needs branching of numbers >= 1 and atom_dim above its levels, got {branching} and "
                        f"{dim}: enlarge atom_dim")
    if not (0 <= min(root_probability, child_probability) and max(root_probability, child_probability) <= 1
            and 0 <= sibling_cosine < 1 and min(noise, coefficient_std) >= 0 < coefficient_mean):
        raise DataError("root_probability and child_probability lie in [0, 1], sibling_cosine in [0, 1), noise and "
                        "coefficient_std are not negative and coefficient_mean is above 0; got "
                        f"{root_probability}, {child_probability}, {sibling_cosine}, {noise}, {coefficient_std}, "
                        f"{coefficient_mean}")
    sizes = np.cumprod(branching)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parents = np.concatenate([np.full(sizes[0], -1), *(
        starts[i] + np.repeat(np.arange(sizes[i]), branching[i + 1]) for i in range(len(sizes) - 1))]).astype(np.int32)
    rng = np.random.default_rng([seed, 2])
    directions = np.zeros((starts[-1], dim))
    for i in range(starts[-1]):
        if i == 0 or parents[i] != parents[i - 1]:
            shared = _orthogonal(rng.standard_normal(dim), directions, parents, parents[i])
        own = _orthogonal(rng.standard_normal(dim), directions, parents, parents[i])
        mixed = math.sqrt(sibling_cosine) * shared + math.sqrt(1 - sibling_cosine) * own
        directions[i] = mixed / np.linalg.norm(mixed)
    level = np.repeat(np.arange(len(sizes)), sizes)
    step = child_probability / (np.array(branching)[level] if exclusive else 1.0)
    often = np.where(level == 0, root_probability, step)
    for i in range(sizes[0], starts[-1]):
        often[i] = often[i] * often[parents[i]]
    info = {"atoms": directions.astype(np.float32), "parents": parents, "frequencies": often}

    def draw(n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        support = rng.random((n, sizes[0])) < root_probability
        levels = [support]
        for width, branch in zip(sizes[1:], branching[1:], strict=True):
            above = levels[-1]
            if exclusive:
                one = rng.integers(0, branch, above.shape)[..., None] == np.arange(branch)
                on = one & (rng.random(above.shape) < child_probability)[..., None]
            else:
                on = rng.random((*above.shape, branch)) < child_probability
            levels.append((on & above[..., None]).reshape(n, width))
        support = np.concatenate(levels, 1)
        values = coefficient_mean + coefficient_std * rng.standard_normal(support.shape)
        codes = np.where(support, np.maximum(values, 1e-3), 0.0)
        return _source(codes, info["atoms"], noise, rng, info)

    return draw(num_train or 20_000, 0), draw(num_test or 4000, 1)


def unit_rows(x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
    """Rows divided by their norms, float32."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def inclusion(weights: Float[np.ndarray, " m"], size: int) -> Float[np.ndarray, " m"]:
    """Inclusion probabilities min(1, c weights) that sum to `size`, the expected size of a random set.

    >>> inclusion(np.array([6.0, 2.0, 1.0]), 2).round(3).tolist()
    [1.0, 0.667, 0.333]
    """
    out, free = np.zeros(len(weights)), np.ones(len(weights), bool)
    for _ in range(len(weights)):
        out[free] = (size - (~free).sum()) * weights[free] / weights[free].sum()
        if not (out > 1).any():
            break
        free &= out < 1
        out[~free] = 1.0
        if not free.any():
            break
    return out


def systematic(probability: Float[np.ndarray, "n m"], rng: np.random.Generator) -> np.ndarray:
    """One random set for each row, bool `[n m]`: element j with probability[i, j], of a size that is their sum.

    Systematic sampling: the probabilities are laid end to end in random order, and the elements are taken in which
    u, u + 1, u + 2, ... fall, u uniform in (0, 1].
    """
    n, m = probability.shape
    order = rng.random((n, m)).argsort(1)
    ends = np.take_along_axis(probability, order, 1).cumsum(1)
    ends = np.where(np.abs(ends - np.rint(ends)) < 1e-9, np.rint(ends), ends)  # or rounding would change the size
    marks = np.floor(ends - (1.0 - rng.random((n, 1))))  # from -1 on, an element is taken where it grows
    taken = np.diff(marks, axis=1, prepend=-1.0) > 0
    out = np.empty((n, m), bool)
    np.put_along_axis(out, order, taken, 1)
    return out


def _count_law(active: int, std: float, most: int) -> np.ndarray:
    """Probability of each number of active atoms, `[most + 1]`."""
    if not std:
        return np.eye(most + 1)[active]
    sigma = math.sqrt(math.log1p((std / active) ** 2))
    mu = math.log(active) - sigma**2 / 2
    edges = [0.5 * (1 + math.erf((math.log(c + 0.5) - mu) / (sigma * math.sqrt(2)))) for c in range(1, most)]
    law = np.diff([0.0, *edges, 1.0])  # of 1, ..., most
    return np.concatenate([[0.0], law / law.sum()])


def _orthogonal(v, directions, parents, ancestor):
    """`v` without its components along the ancestors, which are orthogonal to each other, of unit norm."""
    while ancestor >= 0:
        v = v - (v @ directions[ancestor]) * directions[ancestor]
        ancestor = parents[ancestor]
    return v / np.linalg.norm(v)


def _source(codes, directions, noise, rng, info, unit_norm=False):
    x = codes @ directions.astype(np.float64)
    if noise:
        x += noise * rng.standard_normal(x.shape)
    if unit_norm:
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        x, codes = x / norm, codes / norm
    return ArraySource({"x": x.astype(np.float32), "factors": codes.astype(np.float32)}, info)


def _check(given: dict) -> None:
    o = given
    if o["rare_atoms"] < 0 or o["common"] < 1 or o["dim"] < 1 or not 1 <= o["active"] <= o["common"]:
        raise DataError(f"a dictionary needs atom_dim >= 1 and 1 <= active <= atoms - rare_atoms, got active="
                        f"{o['active']}, atoms={o['atoms']}, rare_atoms={o['rare_atoms']}: enlarge atoms")
    if o["coefficients"] not in COEFFICIENTS or o["frequencies"] not in FREQUENCIES:
        raise DataError(f"coefficients is one of {COEFFICIENTS} and frequencies one of {FREQUENCIES}, got "
                        f"{o['coefficients']!r} and {o['frequencies']!r}")
    if not (0 <= o["correlated"] <= 1 and 0 <= o["rare_probability"] <= 1):
        raise DataError(f"correlated={o['correlated']} and rare_probability={o['rare_probability']} are probabilities")
    if o["correlated"] and o["common"] % 2:
        raise DataError(f"correlated={o['correlated']} pairs {o['common']} atoms: make their number even")
    if min(o["active_std"], o["noise"], o["low"]) < 0 or o["high"] < o["low"] or o["group_ratio"] <= 0:
        raise DataError("active_std and noise are not negative, 0 <= low <= high and group_ratio is above 0; got "
                        f"{o['active_std']}, {o['noise']}, {o['low']}, {o['high']}, {o['group_ratio']}")
