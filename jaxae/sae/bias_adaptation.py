"""Sparsity by biases that follow how often atoms fire: no penalty, and no gradient for the biases."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae import collectives


class BiasAdaptation(NamedTuple):
    """What was seen since the last adaptation."""

    count: Int[Array, " m"]  # examples in which each atom's pre-activation was positive
    max_pre: Float[Array, " m"]  # largest pre-activation, at least 0
    n: Int[Array, ""]  # examples


def start_bias_adaptation(atoms: int) -> BiasAdaptation:
    """The statistics of m `atoms`, `[m]` each, before the first batch since an adaptation."""
    return BiasAdaptation(jnp.zeros((atoms,), jnp.int32), jnp.zeros((atoms,)), jnp.int32(0))


def accumulate(state: BiasAdaptation, pre: Float[Array, "n m"], axis_name: str | None = None) -> BiasAdaptation:
    """The statistics with one more batch, over the global batch.

    Args:
      state: before.
      pre: pre-activations, bias included.
      axis_name: the mapped axis.
    """
    pre = jax.lax.stop_gradient(pre)
    rows, count = collectives.total((jnp.int32(pre.shape[0]), (pre > 0).sum(0, dtype=jnp.int32)), axis_name)
    most = collectives.gather(pre.max(0, keepdims=True), axis_name).max(0)
    return BiasAdaptation(state.count + count, jnp.maximum(state.max_pre, most.astype(jnp.float32)), state.n + rows)


def adapt(bias: Float[Array, " m"], state: BiasAdaptation, targets: Float[Array, " r"], groups: int = 1,
          down: float = 0.01, up: float = 0.01, inactive: float = 1e-6
          ) -> tuple[Float[Array, " m"], BiasAdaptation]:
    r"""Biases move towards the frequencies at which their atoms are to fire.

    With p the share of examples in which an atom fired, r its largest pre-activation (at least 0) and T the mean of r
    over its group:

    $b \leftarrow \max(b - \gamma_- r, -1)$ where p exceeds the target, $b \leftarrow \min(b + \gamma_+ T, 0)$ where p
    is below `inactive`, and b stays otherwise. As atoms that fire are only ever held back, they settle somewhat below
    their targets.

    Moves are in proportion to pre-activations, and the bounds are for inputs of norm about one and atoms of norm one.
    No optimizer may move the biases besides; nor may a learned offset be subtracted from the encoder's inputs, which
    acts as a bias. Adapt every 50 to 100 batches, or as many as see each target ten times.

    Args:
      bias: b.
      state: of `accumulate` since the last adaptation.
      targets: of each atom, from `geometric_targets`.
      groups: into which `geometric_targets` divided the atoms.
      down: gamma_-.
      up: gamma_+.
      inactive: frequency below which an atom counts as inactive.

    Returns:
      (biases, a state that saw nothing). Where nothing was seen biases stay.

    Raises:
      ValueError: for another number of targets than biases.

    Reference: Chen et al., Taming polysemanticity in LLMs: provable feature recovery via sparse autoencoders, 2025,
    arXiv 2506.14002. The constants are ours where the text leaves them open.
    """
    if targets.shape != bias.shape:
        raise ValueError(f"{targets.shape[0]} targets for {bias.shape[0]} biases: give one for each")
    atoms = bias.shape[0]
    member = jnp.asarray(group_of(atoms, groups))
    share = state.count / jnp.maximum(state.n, 1)
    largest = jnp.maximum(state.max_pre, 0.0)
    typical = (jnp.zeros((groups,)).at[member].add(largest) / np.bincount(group_of(atoms, groups)))[member]
    moved = jnp.where(share > targets, jnp.maximum(bias - down * largest, -1.0),
                      jnp.where(share < inactive, jnp.minimum(bias + up * typical, 0.0), bias))
    return jnp.where(state.n > 0, moved, bias), start_bias_adaptation(atoms)


def group_of(atoms: int, groups: int) -> np.ndarray:
    """The group of each atom, `[m]`: groups follow one another and differ in size by one atom at most.

    Raises:
      ValueError: for more groups than atoms.

    >>> group_of(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    if not 1 <= groups <= atoms:
        raise ValueError(f"{atoms} atoms cannot form {groups} groups: use from 1 to {atoms}")
    return np.arange(atoms) * groups // atoms


def geometric_targets(atoms: int, groups: int = 10, highest: float | Float[Array, ""] = 0.5,
                      ratio: float | Float[Array, ""] = 0.5) -> Float[Array, " m"]:
    r"""$h \rho^{g}$ for the atoms of group g = 0, 1, ...: some may fire often, some rarely.

    Targets far above a feature's frequency let an atom mix it with others; the paper's are one to three times it.

    Args:
      atoms: m.
      groups: K; 10 to 20 in the paper.
      highest: h, 0.1 to 0.5.
      ratio: rho.

    Raises:
      ValueError: for frequencies outside (0, 1], or more groups than atoms.

    >>> [round(float(t), 3) for t in geometric_targets(4, groups=2, highest=0.2)]
    [0.2, 0.2, 0.1, 0.1]

    Reference: as `adapt`.
    """
    given = [value for value in (highest, ratio) if not isinstance(value, jax.Array)]  # traced ones cannot be judged
    if not all(0 < value <= 1 for value in given):
        raise ValueError(f"highest={highest} and ratio={ratio} lie in (0, 1]")
    return jnp.asarray(highest * ratio ** group_of(atoms, groups).astype(float), jnp.float32)
