"""Atoms: how they start, their unit norm, and which of them are dead."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from jaxae import collectives
from jaxae.sae.codes import Codes, size_of

FIRES = 1e-3  # codes of a larger magnitude count as firing


class Activity(NamedTuple):
    """Counts over the examples that were seen."""

    silent: Int[Array, " m"]  # examples since each atom fired
    frequency: Float[Array, " m"]  # moving average of the share of examples in which it fires


def start_activity(atoms: int) -> Activity:
    """The counts of m `atoms` before the first batch, `[m]` each: none silent yet, none ever seen to fire."""
    return Activity(jnp.zeros((atoms,), jnp.int32), jnp.zeros((atoms,), jnp.float32))


def firing_frequency(activity: Activity, batches: int | Int[Array, ""], decay: float = 0.99) -> Float[Array, " m"]:
    r"""The moving average without its start at zero: divided by $1 - \rho^{t}$ after t `batches`."""
    return activity.frequency / (1.0 - decay ** jnp.maximum(batches, 1))


def note_activity(activity: Activity, fires: Bool[Array, "n m"], decay: float = 0.99,
                  axis_name: str | None = None) -> Activity:
    """The counts after a batch, over the global batch.

    Args:
      activity: before.
      fires: codes of a magnitude above `FIRES`.
      decay: of the moving average, per batch.
      axis_name: the mapped axis.
    """
    return _counted(activity, fires.shape[0], fires.sum(0, dtype=jnp.int32), decay, axis_name)


def note_sparse_activity(activity: Activity, codes: Codes, decay: float = 0.99,
                         axis_name: str | None = None) -> Activity:
    """`note_activity` from values and their places: no array `[n m]`.

    Args:
      activity: before.
      codes: with `indices`; one that stands twice in an example counts twice in the frequency.
      decay: of the moving average, per batch.
      axis_name: the mapped axis.
    """
    counts = jnp.zeros_like(activity.silent).at[codes.indices].add(jnp.abs(codes.values) > FIRES)
    return _counted(activity, size_of(codes), counts, decay, axis_name)


def _counted(activity, rows, counts, decay, axis_name):
    rows, times = collectives.total((jnp.int32(rows), counts), axis_name)
    return Activity(jnp.where(times > 0, 0, activity.silent + rows),
                    decay * activity.frequency + (1.0 - decay) * times / rows)


def ranks(frequency: Float[Array, " m"]) -> Int[Array, " m"]:
    """The rank of each atom by its frequency, 0 for the most frequent; of equal ones the earlier comes first.

    >>> ranks(jnp.array([0.1, 0.5, 0.1])).tolist()
    [1, 0, 2]
    """
    m = frequency.shape[0]
    return jnp.zeros((m,), jnp.int32).at[jnp.argsort(-frequency)].set(jnp.arange(m, dtype=jnp.int32))


def underused(frequency: Float[Array, " m"], expected: Float[ArrayLike, " r"],
              share: float | Float[Array, ""] = 0.5) -> Bool[Array, " m"]:
    r"""Atoms that fire less than a share of what a law of frequencies expects of their rank.

    $f_j < c \, e_{r(j)}$ with $r(j)$ the rank of $f_j$, the most frequent atom first. With this mask in the place of
    the dead ones, `auxk` is an auxiliary loss that does not wait until atoms are dead.

    Args:
      frequency: f, share of the examples in which each fires, such as `Activity.frequency`.
      expected: e, by rank, not increasing, such as `zipf_quotas(m, k n) / n` of `jaxae.metrics`.
      share: c.

    Raises:
      ValueError: for another number of expected frequencies.

    >>> underused(jnp.array([0.0, 0.5, 0.1]), jnp.array([0.6, 0.3, 0.1])).tolist()
    [True, False, True]

    Reference: after Ayonrinde, Adaptive sparse allocation with mutual choice and feature choice sparse autoencoders,
    2024, arXiv 2411.02124.
    """
    expected = jnp.asarray(expected, frequency.dtype)
    if expected.shape != frequency.shape:
        raise ValueError(f"{expected.shape[0]} expected frequencies for {frequency.shape[0]} atoms: give one for each "
                         f"rank")
    return frequency < share * expected[ranks(frequency)]


def unit_rows(atoms: Float[Array, "m o"]) -> Float[Array, "m o"]:
    r"""$D_j / \max(\|D_j\|, 10^{-12})$: atoms of Euclidean norm 1; a row of zeros stays.

    Args:
      atoms: the dictionary D, a row for each of m atoms of o dimensions.

    Returns:
      `[m o]`, of the dtype of `atoms`.

    Reference: the constraint of Olshausen and Field, 1996, as in Bricken et al., Towards monosemanticity, 2023.

    >>> unit_rows(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    return atoms / jnp.maximum(jnp.linalg.norm(atoms, axis=-1, keepdims=True), 1e-12)


def random_atoms(key: Array, atoms: int, width: int) -> Float[Array, "m o"]:
    """`[m o]`: directions that are uniform on the unit sphere of `width` dimensions, one for each of m `atoms`."""
    return unit_rows(jax.random.normal(key, (atoms, width)))


def across(gradient: Float[Array, "m o"], atoms: Float[Array, "m o"]) -> Float[Array, "m o"]:
    """The gradient without its part along each atom, which unit norm would take back and Adam's moments keep."""
    unit = unit_rows(atoms)
    return gradient - (gradient * unit).sum(-1, keepdims=True) * unit


def across_atoms(name: str = "decoder") -> optax.GradientTransformation:
    """`across` for the entry `name` of the parameters, to stand before an optimizer in a chain.

    Reference: Gao et al. 2024, arXiv 2406.04093.
    """
    def update(gradients: PyTree, state, params=None):
        if params is None:
            raise ValueError("across_atoms needs the parameters: call update(gradients, state, params)")
        return gradients | {name: across(gradients[name], params[name])}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def geometric_median(x: Float[Array, "n d"], steps: int = 30) -> Float[Array, " d"]:
    """The point whose summed distance to the examples is least, by Weiszfeld's iterations from the mean.

    Args:
      x: examples.
      steps: of the iteration.

    Returns:
      `[d]`.
    """
    def nearer(_, median):
        weights = 1.0 / jnp.maximum(jnp.linalg.norm(x - median, axis=-1), 1e-8)
        return weights @ x / weights.sum()

    return jax.lax.fori_loop(0, steps, nearer, x.mean(0))


def matched_scale(x: Float[Array, "n d"], decoded: Float[Array, "n d"]) -> Float[Array, ""]:
    """What to multiply an encoder by so that its reconstructions `decoded` have the mean norm of the inputs."""
    found = jnp.linalg.norm(decoded, axis=-1).mean()
    return jnp.where(found > 0, jnp.linalg.norm(x, axis=-1).mean() / jnp.maximum(found, 1e-12), 1.0)
