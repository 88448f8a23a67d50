"""Bits to describe sparse codes at a given error, so that autoencoders can be compared as compressors.

Sender and receiver share the decoder. Features are coded one by one, since they are to be understood one by one.
Compare at one reconstruction error (`delta_for_mse` for each), on data held out of training, and with atoms of unit
norm: otherwise the codes' scale, and with it the number of bits, is arbitrary.

Reference: Ayonrinde, Pearce, Sharkey, 'Interpretability as compression', 2024, arXiv 2410.11179.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr
from jaxtyping import Array, ArrayLike, Float, Int, Real


class DescriptionLength(NamedTuple):
    """Bits per example."""

    total: Float[Array, ""]
    per_feature: Float[Array, " m"]


class Selection(NamedTuple):
    """Each candidate at the target error, and the index of the shortest; -1 if none reaches the target."""

    delta: Float[np.ndarray, " s"]  # NaN for those that do not reach it
    bits: Float[np.ndarray, " s"]   # infinite for those
    l0: Float[np.ndarray, " s"]
    best: int


def quantize_codes(codes: Float[Array, "n m"], delta: float | Float[Array, ""]) -> Float[Array, "n m"]:
    """Active values rounded to the middle of their bin of width delta, (floor(z / delta) + 1/2) delta; zeros stay zero.

    Args:
      codes: z; what is exactly 0 is inactive.
      delta: step.

    Returns:
      `[n m]`, at most delta / 2 from z, with z's zeros.
    """
    codes = codes.astype(jnp.float32)
    return jnp.where(codes != 0, (jnp.floor(codes / delta) + 0.5) * delta, 0.0)


def description_length(codes: Float[Array, "n m"], delta: float | Float[Array, ""],
                       tree: Int[Array, " p"] | None = None, correction: str = "none",
                       block: int = 64) -> DescriptionLength:
    """Entropy of the quantised codes, in bits per example: sum_i H(Q(z_i)), the bin of zeros included.

    With a tree, a feature below another costs H(Q(z_i) | whether its parent is active); for one that fires only under
    its parent that is P(parent active) H(Q(z_i) | parent active).

    The entropies are of the empirical distribution, which is too low by about (bins - 1) / (2 n ln 2) bits a feature:
    give many more examples than there are bins, or the correction.

    Args:
      codes: z, of many examples.
      delta: step of the quantisation.
      tree: parent of each feature, -1 for none, such as `cooccurrence_tree`'s.
      correction: 'none', or 'miller_madow', which adds that bias.
      block: features in memory at once.

    Returns:
      A `DescriptionLength`.

    Raises:
      ValueError: for a tree of another size or an unknown correction.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[0.0, 1.0], [0.0, 0.0], [0.5, 1.0], [1.5, 0.0]])
    >>> description_length(z, 1.0).per_feature.tolist()
    [1.5, 1.0]
    """
    n, m = codes.shape
    if correction not in ("none", "miller_madow"):
        raise ValueError(f"correction is 'none' or 'miller_madow', got {correction!r}")
    if tree is not None and tree.shape != (m,):
        raise ValueError(f"the tree has a parent for each of {m} features, -1 for none; got {tree.shape}")
    codes = codes.astype(jnp.float32)
    # Even numbers for active values, 1 for zeros.
    bins = jnp.where(codes != 0, 2 * jnp.floor(codes / delta).astype(jnp.int32), 1).T
    if tree is None:
        conditions = jnp.zeros((m, 1), bool)
    else:
        conditions = jnp.where((tree >= 0)[:, None], (codes != 0).T[tree], False)

    def mass(row, chosen):
        """n_c H of the chosen part of a row, in bits: n_c log n_c - sum log(number of equal ones)."""
        row = jnp.sort(jnp.where(chosen, row, jnp.iinfo(jnp.int32).max))
        number = jnp.searchsorted(row, row, side="right") - jnp.searchsorted(row, row, side="left")
        size = chosen.sum()
        real = jnp.arange(n) < size
        number = jnp.where(real, jnp.minimum(number, size), 1).astype(jnp.float32)
        size = jnp.maximum(size, 1).astype(jnp.float32)
        bits = jnp.where(real, jnp.log2(size / number), 0.0).sum()
        kinds = jnp.where(real, 1.0 / number, 0.0).sum()
        return bits + (jnp.maximum(kinds - 1.0, 0.0) / (2 * math.log(2)) if correction == "miller_madow" else 0.0)

    def one(inputs):
        row, parent_on = inputs
        parent_on = jnp.broadcast_to(parent_on, row.shape)
        if tree is None:
            return mass(row, ~parent_on) / n
        return (mass(row, parent_on) + mass(row, ~parent_on)) / n

    per_feature = lax.map(one, (bins, conditions), batch_size=min(block, m))
    return DescriptionLength(per_feature.sum(), per_feature)


def delta_for_mse(decode: Callable[[Float[Array, "n m"]], Float[Array, "n d"]], codes: Float[Array, "n m"],
                  x: Float[Array, "n d"], target_mse: float | Float[Array, ""], steps: int = 30) -> Float[Array, ""]:
    """The coarsest step of quantisation at which the mean squared error is still at most the target, by bisection.

    Args:
      decode: codes -> reconstructions.
      codes: z.
      x: data.
      target_mse: mean over examples and coordinates.
      steps: of the bisection of log delta, over 2^-24 to 1 times the largest |z|.

    Returns:
      delta, a scalar; NaN if not even the finest step reaches the target.
    """
    def error(log_delta):
        return jnp.square(decode(quantize_codes(codes, jnp.exp2(log_delta))) - x).mean()

    high = jnp.log2(jnp.maximum(jnp.abs(codes).max(), 1e-30)).astype(jnp.float32)
    low = high - 24.0

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        fine = error(middle) <= target_mse
        return jnp.where(fine, middle, low), jnp.where(fine, high, middle)

    found = lax.fori_loop(0, steps, halve, (low, high))[0]
    found = jnp.where(error(high) <= target_mse, high, found)
    return jnp.where(error(low) <= target_mse, jnp.exp2(found), jnp.nan)


def mdl_select(candidates: Sequence[tuple[Callable[[Array], Array], Array]], x: Float[Array, "n d"],
               target_mse: float, correction: str = "none") -> Selection:
    """Ranks autoencoders by description length at one error: the shortest is the MDL-SAE.

    Args:
      candidates: (decode, codes of x `[n m]`) of each.
      x: held-out data.
      target_mse: mean over examples and coordinates.
      correction: of `description_length`.

    Returns:
      A `Selection`.
    """
    rows = []
    for decode, codes in candidates:
        delta = float(jax.jit(lambda z, x, f=decode: delta_for_mse(f, z, x, target_mse))(codes, x))
        length = jax.jit(description_length, static_argnames="correction")
        bits = float(length(codes, delta, correction=correction).total) if math.isfinite(delta) else math.inf
        rows.append((delta, bits, float((codes != 0).sum(1).mean())))
    delta, bits, l0 = np.array(rows).T
    return Selection(delta, bits, l0, int(bits.argmin()) if np.isfinite(bits).any() else -1)


def splitting_gain(parent: Float[Array, " n"], children: Float[Array, "p c"],
                   delta: float | Float[Array, ""]) -> Float[Array, ""]:
    """Bits per example that several features save in the place of one that they split; below 0 splitting costs.

    H(Q(z_parent)) - sum_c H(Q(z_c)). Splitting is right only where this is above 0 at the same error, or where the
    children's smaller error lets the step grow.

    Args:
      parent: codes of the feature.
      children: codes of those that take its place.
      delta: step of the quantisation.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([1.0, 1.0, 0.0, 0.0])
    >>> round(float(splitting_gain(z, jnp.eye(4)[:, :2], 1.0)), 3)
    -0.623
    """
    return description_length(parent[:, None], delta).total - description_length(children, delta).total


def naive_bits(l0: float | int, m: int, value_bits: float | int) -> float:
    """l0 (value_bits + log2 m), bits per example: index and value of each of l0 active features of m."""
    return l0 * (value_bits + math.log2(m))


def dense_bits(d: int, value_bits: float | int) -> float:
    """d value_bits, bits per example: each of d coordinates by itself, without a dictionary.

    Reference: Ayonrinde, Pearce and Sharkey, 'Interpretability as compression', 2024, arXiv 2410.11179.
    """
    return float(d * value_bits)


def onehot_bits(n: int) -> float:
    """log2 n, bits per example: the index of one of n memorised examples.

    Reference: Ayonrinde, Pearce and Sharkey, 'Interpretability as compression', 2024, arXiv 2410.11179.
    """
    return math.log2(n)


def spike_bits(density: Float[Array, "*m"], value_bits: float | int) -> Float[Array, "*m"]:
    """h2(p) + p value_bits, bits per example: whether a feature of density p is active, and its value if so."""
    density = jnp.asarray(density, jnp.float32)
    return (entr(density) + entr(1.0 - density)) / math.log(2) + density * value_bits


def decoder_bits(m: int, d: int, value_bits: float | int, n: int) -> float:
    """m d value_bits / n, bits per example: the decoder's m d weights, shared by n examples."""
    return m * d * value_bits / n


def cooccurrence_tree(codes: Real[ArrayLike, "n m"], threshold: float = 0.95) -> Int[np.ndarray, " m"]:
    """Greedy tree: the parent of i is the j for which P(z_j > 0 | z_i > 0) is largest, if above the threshold.

    A parent is more frequent than its child, so that there are no cycles.

    Args:
      codes: z, of many examples.
      threshold: on the conditional probability.

    Returns:
      Parents `[m]`, -1 for a root and for a feature that never fires.
    """
    active = (np.asarray(codes) > 0).astype(np.float64)
    together, count = active.T @ active, active.sum(0)
    given = np.where(count[None] > count[:, None], together / np.maximum(count, 1)[:, None], -1.0)
    parent = given.argmax(1)
    return np.where((given.max(1) > threshold) & (count > 0), parent, -1).astype(np.int32)
