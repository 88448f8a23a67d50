"""Sorting many columns at once, in two forms with the same numbers.

Accelerators want `lax.sort`. XLA on CPU sorts one column after another through a comparator it calls each time, some
150 ns an element. There we run a bitonic network down the axis instead: `log2(n) (log2(n) + 1) / 2` rounds of
elementwise minima and maxima, each vectorized over the columns. `_form` is the only place that chooses.

The network compares integers, in the order of the floats they stand for, with NaN last, and moves nothing but them.
The permutation comes from the same network: digit after digit, the lowest first, it sorts words that hold a digit in
the high bits and the row in the low ones. Rows make the words distinct, so that ties keep their order, as in a stable
sort, and the permutation (hence the gradient) is that of `lax.sort` to the last index.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

_FORMS = ("lax", "network")
_FEW_COLUMNS = 8  # fewer leave the vector units idle
_MOST_ROWS = 2**20  # more leave too few bits for the digit
_UNSIGNED = {2: jnp.uint16, 4: jnp.uint32}  # of a float's size in bytes
_ROUNDS = 2  # of the network in one pass over memory


def sort(x: Float[Array, "..."], axis: int = 0, *, form: str | None = None) -> Float[Array, "..."]:
    """`x` in ascending order along `axis`, NaN last.

    Its gradient goes to the elements that were sorted: `d/dx_i = sum_k d/ds_k [order_k = i]`, ties in their order.

    Args:
      x: floats of any shape.
      axis: the axis to sort along.
      form: 'lax' or 'network'; None chooses by the default backend (CPU: 'network') and the shape.

    Returns:
      The sorted array, of the shape and dtype of `x`.

    Raises:
      ValueError: for an unknown form, or the network on floats of 64 bits, more than 2^20 rows or 2^30 elements.

    >>> sort(jnp.array([[2.0, 5.0], [1.0, 7.0]])).tolist()
    [[1.0, 5.0], [2.0, 7.0]]

    Reference: Batcher, 'Sorting networks and their applications', 1968.
    """
    return _down_the_rows(lambda columns: _sorted(columns, _form(form, columns)), x, axis)


def argsort(x: Float[Array, "..."], axis: int = 0, *, form: str | None = None) -> Int[Array, "..."]:
    """The stable permutation that sorts `x`: `sort(x) = take_along_axis(x, argsort(x), axis)`.

    Args:
      x, axis, form: as in `sort`.

    Returns:
      int32 positions along `axis`, of the shape of `x`.

    Raises:
      ValueError: as `sort`.

    >>> argsort(jnp.array([3.0, 1.0, 2.0, 1.0])).tolist()
    [1, 3, 2, 0]
    """
    return _down_the_rows(lambda columns: _ordered(columns, _form(form, columns))[1].astype(jnp.int32), x, axis)


def _down_the_rows(function, x, axis):
    """A function of `[n columns]` along any axis of any array."""
    if x.ndim == 0:
        raise ValueError("sorting wants an array with an axis to sort along, got a scalar")
    front = jnp.moveaxis(x, axis, 0)
    rows = function(front.reshape(front.shape[0], math.prod(front.shape[1:])))
    return jnp.moveaxis(rows.reshape(front.shape), 0, axis)


def _form(form, x):
    n, columns = x.shape
    possible = x.dtype.itemsize in _UNSIGNED and n <= _MOST_ROWS and 2 * x.size < 2**31  # padded, by an int32
    if form is None:
        return "network" if possible and columns >= _FEW_COLUMNS and jax.default_backend() == "cpu" else "lax"
    if form not in _FORMS:
        raise ValueError(f"no form '{form}' of sorting: choose 'lax', 'network' or None")
    if form == "network" and not possible:
        raise ValueError(f"the sorting network wants 16 or 32 bits, at most {_MOST_ROWS} rows and 2^30 elements, got "
                         f"{x.dtype} [{n} {columns}]: use form='lax'")
    return form


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sorted(x, form):
    if form == "lax":
        return lax.sort(x, dimension=0)
    key = _network(_pad(_key(x)))[:x.shape[0]]
    return _value(key, x.dtype)


@_sorted.defjvp
def _sorted_jvp(form, primals, tangents):
    # The primal and the tangent by one permutation: the network without it is for those who want no gradient.
    (x,), (dx,) = primals, tangents
    values, order = _ordered(x, form)
    return values, _take(dx, order)


def _ordered(x, form):
    """Sorted columns, and the stable permutation that sorts them."""
    if form == "lax":
        rows = lax.broadcasted_iota(jnp.uint32, x.shape, 0)
        return tuple(lax.sort((x, rows), dimension=0, num_keys=1, is_stable=True))
    order = _order(_pad(_key(x)), 8 * x.dtype.itemsize)[:x.shape[0]]
    return _take(x, order), order


def _take(x, order):
    """`x[order[i, j], j]` for unsigned `order`: scalars gathered, to be scattered back without collisions."""
    columns = x.shape[1]
    flat = order * columns + jnp.arange(columns, dtype=order.dtype)
    return x.reshape(-1).at[flat.reshape(-1)].get(mode="promise_in_bounds", unique_indices=True).reshape(x.shape)


def _key(x):
    """Unsigned integers in the order of the floats: minus zero as zero, NaN the largest."""
    unsigned = _UNSIGNED[x.dtype.itemsize]
    sign = unsigned(1 << 8 * x.dtype.itemsize - 1)
    bits = lax.bitcast_convert_type(x, unsigned)
    key = jnp.where(bits >= sign, ~bits, bits | sign)
    key = jnp.where(bits == sign, sign, key)
    return jnp.where(jnp.isnan(x), unsigned(jnp.iinfo(unsigned).max), key).astype(jnp.uint32)


def _value(key, dtype):
    unsigned = _UNSIGNED[dtype.itemsize]
    sign = unsigned(1 << 8 * dtype.itemsize - 1)
    key = key.astype(unsigned)
    return lax.bitcast_convert_type(jnp.where(key >= sign, key ^ sign, ~key), dtype)


def _pad(key):
    """Rows up to a power of two, of the largest word: being last already, they stay last in a stable sort."""
    n = key.shape[0]
    rows = 1 << max(n - 1, 0).bit_length()
    return jnp.pad(key, ((0, rows - n), (0, 0)), constant_values=jnp.uint32(2**32 - 1))


def _order(key, bits):
    """Radix sort by the network: a digit of `32 - log2(n)` bits at a time, from the lowest to the highest.

    Gathers and networks take turns as branches in a loop, a border that XLA does not fuse across: it would compute a
    gather anew for each slice of a network's first pass, and the last pass without vector units.
    """
    n = key.shape[0]
    row_bits = n.bit_length() - 1
    digit_bits = 32 - row_bits
    digits = -(-bits // digit_bits)
    rows = lax.broadcasted_iota(jnp.uint32, (n, 1), 0)

    def gather(i, order, words):
        order = words & (n - 1) if digits == 2 else _take(order, words & (n - 1))  # of two digits, this is the first
        digit = _take(key, order) >> jnp.uint32(i // 2 * digit_bits)
        return order, (digit << row_bits) | rows  # the shift drops what is above the digit

    def turn(i, state):
        return lax.cond(i % 2 == 0, gather, lambda i, order, words: (order, _network(words)), i, *state)

    start = jnp.broadcast_to(rows, key.shape), (key << row_bits) | rows
    order, words = lax.fori_loop(1, 2 * digits, turn, start)
    return _take(order, words & (n - 1))


def _network(words):
    """Columns of integers in ascending order, for a power of two rows.

    Merges sorted runs of 2^(k-1) rows into runs of 2^k: the first round pairs row i of a run with row i from its end,
    so that all rounds have one direction; each later round pairs rows half as far apart as the one before. A pass
    makes up to `_ROUNDS` rounds on 2^rounds slices, one read and one write of the array.
    """
    n, columns = words.shape
    for k in range(1, n.bit_length()):
        left, mirrored = k, True
        while left:
            rounds = min(_ROUNDS, left)
            slices = words.reshape(n >> left, 1 << rounds, 1 << left - rounds, columns)
            slices = [slices[:, i] for i in range(1 << rounds)]
            words = jnp.stack(_exchange(slices, mirrored), 1).reshape(n, columns)
            left, mirrored = left - rounds, False
    return words


def _exchange(slices, mirrored=False):
    """The rounds between slices `[runs rows columns]` of a run: halves, then the halves of the halves."""
    half = len(slices) // 2
    if not half:
        return slices
    first, second = slices[:half], slices[half:]
    if mirrored:
        low = [jnp.minimum(a, b[:, ::-1]) for a, b in zip(first, second[::-1], strict=True)]
        high = [jnp.maximum(a[:, ::-1], b) for a, b in zip(first[::-1], second, strict=True)]
    else:
        low = [jnp.minimum(a, b) for a, b in zip(first, second, strict=True)]
        high = [jnp.maximum(a, b) for a, b in zip(first, second, strict=True)]
    return _exchange(low) + _exchange(high)
