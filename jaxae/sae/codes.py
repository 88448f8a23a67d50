"""Codes as values and their places, and products with dictionaries that touch the atoms in use alone."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ENTRIES = 512  # whose atoms are gathered at a time: [512 d] floats stay in the processor's cache


class Codes(NamedTuple):
    """Codes of n examples in one of three forms.

    All atoms: `values [n m]`. k of each example: `values [n k]` at `indices [n k]`. As many as each example has, in
    compressed rows: `values [e]` at `indices [e]`, of which example i has those from `starts[i]` to `starts[i + 1]`;
    what comes after the last is padding with values of zero.
    """

    values: Float[Array, "..."]
    indices: Int[Array, "..."] | None = None
    starts: Int[Array, " n+1"] | None = None


def examples_of(starts: Int[Array, " rows"], entries: int) -> Int[Array, " e"]:
    """The example of each of so many entries in compressed rows; that of padding is the last one."""
    return jnp.repeat(jnp.arange(starts.shape[0] - 1), jnp.diff(starts), total_repeat_length=entries)


def size_of(codes: Codes) -> int:
    """n, the number of examples, a Python integer (shapes are static).

    Args:
      codes: of all atoms `[n m]`, of k of each example `[n k]`, or in compressed rows with `starts [n + 1]`.

    >>> size_of(Codes(jnp.ones((3, 8)))), size_of(Codes(jnp.ones(5), jnp.arange(5), jnp.array([0, 2, 5])))
    (3, 2)
    """
    return codes.values.shape[0] if codes.starts is None else codes.starts.shape[0] - 1


def row_sums(codes: Codes, values: Array) -> Array:
    """`[n]`: sums over each example of numbers that are laid out as the codes' values."""
    if codes.starts is None:
        return values.sum(-1)
    rows, values = examples_of(codes.starts, values.shape[0]), values + jnp.zeros((), jnp.int32)  # booleans count
    return jnp.zeros((size_of(codes),), values.dtype).at[rows].add(values)


def dense(codes: Codes, atoms: int) -> Float[Array, "n m"]:
    """The codes of all atoms, zero where an atom is not in use.

    Args:
      codes: of any form.
      atoms: m.
    """
    if codes.indices is None:
        return codes.values
    n = size_of(codes)
    rows = jnp.arange(n)[:, None] if codes.starts is None else examples_of(codes.starts, codes.values.shape[0])
    return jnp.zeros((n, atoms), codes.values.dtype).at[rows, codes.indices].add(codes.values)


def decode(codes: Codes, atoms: Float[Array, "m o"], sparse: bool | None = None) -> Float[Array, "n o"]:
    r"""$z D$: the sum of atoms, weighted by the codes.

    Args:
      codes: of any form.
      atoms: rows of D.
      sparse: whether to gather the atoms in use or to multiply by all; None: `sparse_pays` for k of each example, and
        always for compressed rows. Dense codes are always multiplied by all.

    Returns:
      `[n o]`.
    """
    if codes.indices is None:
        return codes.values @ atoms
    if sparse is None:
        sparse = codes.starts is not None or sparse_pays(atoms.shape[0], codes.values.shape[1])
    if not sparse:
        return dense(codes, atoms.shape[0]) @ atoms
    if codes.starts is None:
        return gather_decode(codes.values, codes.indices, atoms)
    return gather_decode_entries(codes.values, codes.indices, codes.starts, atoms)


def sparse_pays(atoms: int, k: int) -> bool:
    """Whether k of so many atoms are few enough to be gathered (`experiments/bench/sparse.py` measures where)."""
    return atoms >= 24 * k  # gathering wins 1.5 times at 32 k and loses at 16 k, 2,048 x 512 on a processor


@jax.custom_vjp
def gather_decode(values: Float[Array, "n k"], indices: Int[Array, "n k"],
                  atoms: Float[Array, "m o"]) -> Float[Array, "n o"]:
    r"""$\sum_j v_{ij} D_{I_{ij}}$, and its gradients, without an array `[n m]` or `[n k o]`.

    Args:
      values: v.
      indices: I, rows of D.
      atoms: D.

    Returns:
      `[n o]`.

    >>> import jax.numpy as jnp
    >>> gather_decode(jnp.array([[2.0, 1.0]]), jnp.array([[0, 2]]), jnp.eye(3)).tolist()
    [[2.0, 0.0, 1.0]]
    """
    return by_rows(jax.vmap(lambda v, i: v @ atoms[i]), (values, indices), _rows(values))


def _decode_forward(values, indices, atoms):
    return gather_decode(values, indices, atoms), (values, indices, atoms)


def _decode_backward(kept, slope):
    values, indices, atoms = kept
    products = by_rows(jax.vmap(lambda s, i: atoms[i] @ s), (slope, indices), _rows(values))
    return products, None, add_rows(values, indices, slope, atoms.shape[0])


gather_decode.defvjp(_decode_forward, _decode_backward)


@jax.custom_vjp
def gather_decode_entries(values: Float[Array, " e"], indices: Int[Array, " e"], starts: Int[Array, " rows"],
                          atoms: Float[Array, "m o"]) -> Float[Array, "n o"]:
    """`gather_decode` of compressed rows (see `Codes`): its cost is that of the entries, padding aside.

    Args:
      values, indices, starts: of `Codes`.
      atoms: D.

    Returns:
      `[n o]`.
    """
    rows = examples_of(starts, indices.shape[0])
    return _accumulate(starts.shape[0] - 1, rows, indices, values, atoms, starts[-1])


def _entries_forward(values, indices, starts, atoms):
    return gather_decode_entries(values, indices, starts, atoms), (values, indices, starts, atoms)


def _entries_backward(kept, slope):
    values, indices, starts, atoms = kept
    rows = examples_of(starts, indices.shape[0])
    return (_products(slope, rows, atoms, indices, starts[-1]), None, None,
            _accumulate(atoms.shape[0], indices, rows, values, slope, starts[-1]))


gather_decode_entries.defvjp(_entries_forward, _entries_backward)


def _rows(values):
    return max(8, ENTRIES // values.shape[1])


def by_rows(function, arrays, size: int):
    """A function of rows `[n ...]`, so many of them at a time.

    Part c takes rows c, c + parts, ...: under jit each device keeps its own rows.
    """
    n = arrays[0].shape[0]
    parts = math.ceil(n / size)
    if parts <= 1:
        return function(*arrays)

    def cut(a):
        padded = jnp.pad(a, ((0, parts * size - n),) + ((0, 0),) * (a.ndim - 1))
        return padded.reshape(size, parts, *a.shape[1:]).swapaxes(0, 1)

    out = jax.lax.map(lambda part: function(*part), tuple(cut(a) for a in arrays))
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(size * parts, *a.shape[2:])[:n], out)


def add_rows(weights: Float[Array, "n k"], indices: Int[Array, "n k"], x: Float[Array, "n d"],
             rows: int) -> Float[Array, "m d"]:
    r"""$G_j = \sum_{i, l: I_{il} = j} w_{il} x_i$: gradient of a product in which few of m rows take part.

    Args:
      weights: w.
      indices: I.
      x: what is added to the rows.
      rows: m.

    Returns:
      `[m d]`.
    """
    n, k = weights.shape
    return _accumulate(rows, indices.reshape(-1), jnp.repeat(jnp.arange(n), k), weights.reshape(-1), x, n * k)


def _accumulate(size, targets, sources, weights, rows, count):
    """`[size d]`: the first `count` of `weights * rows[sources]`, added up at their targets; other weights are zero."""
    def add(i, total):
        part = _part(weights, i)[:, None] * rows[_part(sources, i)]
        return total.at[_part(targets, i)].add(part)

    targets, sources, weights = _padded(targets), _padded(sources), _padded(weights)
    start = jnp.zeros((size, rows.shape[1]), jnp.result_type(weights, rows))
    return jax.lax.fori_loop(0, (count + ENTRIES - 1) // ENTRIES, add, start)


def _products(a, a_rows, b, b_rows, count):
    """`[e]`: inner products of rows of a with rows of b for the first `count` pairs; zero or the product for others."""
    def multiply(i, out):
        part = (a[_part(a_rows, i)] * b[_part(b_rows, i)]).sum(-1)
        return jax.lax.dynamic_update_slice_in_dim(out, part, i * ENTRIES, 0)

    e, a_rows, b_rows = a_rows.shape[0], _padded(a_rows), _padded(b_rows)
    start = jnp.zeros(a_rows.shape, jnp.result_type(a, b))
    return jax.lax.fori_loop(0, (count + ENTRIES - 1) // ENTRIES, multiply, start)[:e]


def _padded(entries):
    return jnp.pad(entries, (0, -entries.shape[0] % ENTRIES))


def _part(entries, i):
    return jax.lax.dynamic_slice_in_dim(entries, i * ENTRIES, ENTRIES)


@jax.custom_vjp
def values_at(x: Float[Array, "n d"], offset: Float[Array, " d"], encoder: Float[Array, "d m"],
              bias: Float[Array, " m"], found: Float[Array, "..."], indices: Int[Array, "..."],
              starts: Int[Array, " rows"] | None = None) -> Float[Array, "..."]:
    r"""Entries of $(x - o) W + b$, whose gradients reach the columns in use alone.

    Args:
      x: inputs.
      offset: o.
      encoder: W.
      bias: b.
      found: the entries, computed before; gradients do not flow there.
      indices: their places, `[n k]`, or `[e]` in compressed rows with
      starts: as in `Codes`.

    Returns:
      `found`.
    """
    return found


def _values_forward(x, offset, encoder, bias, found, indices, starts):
    return found, (x, offset, encoder, indices, starts)


def _values_backward(kept, slope):
    x, offset, encoder, indices, starts = kept
    d, m = encoder.shape
    to_bias = jnp.zeros((m,), slope.dtype).at[indices].add(slope)
    if starts is None:
        to_x = gather_decode(slope, indices, encoder.T)
        to_encoder = add_rows(slope, indices, x - offset, m)
    else:
        to_x = gather_decode_entries(slope, indices, starts, encoder.T)
        to_encoder = _accumulate(m, indices, examples_of(starts, indices.shape[0]), slope, x - offset, starts[-1])
    # The offset's is minus the sum of that of x over examples, which the bias' gives without gathering columns.
    return to_x, -(encoder @ to_bias), to_encoder.T, to_bias, None, None, None


values_at.defvjp(_values_forward, _values_backward)
