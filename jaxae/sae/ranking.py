"""The largest of many numbers, exactly and without sorting them all: of each row, and of a whole batch."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae import collectives


def group_size(width: int, k: int) -> int:
    """The power of two nearest below sqrt(width / k) that divides the width: then groups and candidates are as many.

    >>> group_size(8192, 32), group_size(100, 3), group_size(7, 7)
    (16, 4, 1)
    """
    size = 1 << int(math.log2(max(1.0, math.sqrt(width / k))))
    while width % size:
        size //= 2
    return size


def top_k(values: Float[Array, "... m"], k: int) -> tuple[Float[Array, "... k"], Int[Array, "... k"]]:
    """`jax.lax.top_k`, by the maxima of groups: ties and order are the same.

    Groups are of adjacent entries. An entry among the k largest lies in one of the k groups whose maxima are largest,
    for a group that comes before its own holds an entry that does; those k groups are ranked alone.

    Args:
      values: any float.
      k: of m.

    Returns:
      (the k largest in falling order, their places); of equal ones those of lower index.
    """
    width, size = values.shape[-1], group_size(values.shape[-1], k)
    if size == 1:
        return tuple(jax.lax.top_k(values, k))
    groups = values.reshape(*values.shape[:-1], width // size, size)
    best = jnp.sort(jax.lax.top_k(groups.max(-1), k)[1], axis=-1)  # in their order, for ties
    candidates = jnp.take_along_axis(groups, best[..., None], axis=-2).reshape(*values.shape[:-1], k * size)
    largest, place = jax.lax.top_k(candidates, k)
    return largest, jnp.take_along_axis(best, place // size, axis=-1) * size + place % size


def kth_largest(values: Float[Array, "..."], count: Int[Array, ""] | int,
                axis_name: str | None = None) -> Float[Array, ""]:
    """The count-th largest of nonnegative values of the global batch, without sorting: exact.

    Nonnegative floats are in the order of their bits: 31 counts of how many are at least as large as a candidate find
    every bit in turn, and counts add up over replicas.

    Args:
      values: nonnegative float32, any shape.
      count: how many are as large as the result or larger, ties aside; at least 1.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A scalar; 0 where fewer than `count` values are positive.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def test(i, found):
        candidate = found | (1 << (30 - i))
        enough = collectives.total((bits >= candidate).sum(), axis_name) >= count
        return jnp.where(enough, candidate, found)

    found = jax.lax.fori_loop(0, 31, test, jnp.int32(0))
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def largest_places(pre: Float[Array, "n m"], count: int,
                   axis_name: str | None = None) -> tuple[Int[Array, " e"], Float[Array, ""]]:
    """Where the `count` largest positive entries of the global batch are, ties to the lower place.

    The maxima of groups of adjacent entries bound the count-th largest from below; the groups that reach the bound are
    searched alone. Nothing is assumed of how entries spread over rows or replicas.

    Args:
      pre: `[n m]`.
      count: of the global batch.
      axis_name: the mapped axis; replicas are in their order.

    Returns:
      (places in the flat `[n m]` in rising order, of which there is room for `count`; where fewer are here the rest
      is n m, which is no place; the smallest value among them, 0 where fewer are positive and zeros take part).
    """
    n, m = pre.shape
    size = group_size(m, max(1, count // n))
    groups = pre.reshape(n * m // size, size)
    found, smallest = _first_largest(jax.nn.relu(groups.max(-1)), count, axis_name)
    if size == 1:
        return found, smallest
    real = found < n * m // size
    near = jnp.where(real[:, None], jax.nn.relu(groups.at[found].get(mode="clip")), 0.0)
    places = (found[:, None] * size + jnp.arange(size)).reshape(-1)
    chosen, smallest = _first_largest(near.reshape(-1), count, axis_name)
    return jnp.minimum(places.at[chosen].get(mode="fill", fill_value=n * m), n * m), smallest


def _first_largest(values, count: int, axis_name):
    """Places of the `count` largest of nonnegative `values [p]`, and the least of them."""
    smallest = kth_largest(values, count, axis_name)
    above, ties = values > smallest, values == smallest
    left = count - collectives.total(above.sum(), axis_name)  # ties that fit
    here = ties.sum()
    before = jnp.int32(0)
    if axis_name is not None:
        before = collectives.gather(here[None], axis_name)
        before = jnp.where(jnp.arange(before.shape[0]) < jax.lax.axis_index(axis_name), before, 0).sum()
    kept = jax.lax.cond(before + here <= left, lambda: ties, lambda: ties & (jnp.cumsum(ties) <= left - before))
    return jnp.nonzero(above | kept, size=min(count, values.shape[0]), fill_value=values.shape[0])[0], smallest
