"""Codes as k values and their places, and products with dictionaries that touch the atoms in use alone."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ROWS = 64  # examples whose atoms are gathered at a time: [64 k d] floats stay in the processor's cache


class Codes(NamedTuple):
    """Codes of n examples: `values [n k]` at `indices [n k]`, or `values [n m]` of all atoms where indices is None."""

    values: Float[Array, "n k"]
    indices: Int[Array, "n k"] | None = None


def dense(codes: Codes, atoms: int) -> Float[Array, "n m"]:
    """The codes of all atoms, zero where an atom is not in use.

    Args:
      codes: dense or sparse.
      atoms: m.
    """
    if codes.indices is None:
        return codes.values
    rows = jnp.arange(codes.values.shape[0])[:, None]
    return jnp.zeros((codes.values.shape[0], atoms), codes.values.dtype).at[rows, codes.indices].add(codes.values)


def decode(codes: Codes, atoms: Float[Array, "m o"], sparse: bool | None = None) -> Float[Array, "n o"]:
    r"""$z D$: the sum of atoms, weighted by the codes.

    Args:
      codes: `[n m]`, or `[n k]` with their places.
      atoms: rows of D.
      sparse: whether to gather the atoms in use or to multiply by all; None: `sparse_pays`. Dense codes are always
        multiplied by all.

    Returns:
      `[n o]`.
    """
    if codes.indices is None:
        return codes.values @ atoms
    gathers = sparse_pays(atoms.shape[0], codes.values.shape[1]) if sparse is None else sparse
    return gather_decode(codes.values, codes.indices, atoms) if gathers else dense(codes, atoms.shape[0]) @ atoms


def sparse_pays(atoms: int, k: int) -> bool:
    """Whether k of so many atoms are few enough to be gathered (`experiments/bench/sparse.py` measures where)."""
    return atoms >= 64 * k


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
    return jax.lax.map(lambda row: row[0] @ atoms[row[1]], (values, indices), batch_size=ROWS)


def _decode_forward(values, indices, atoms):
    return gather_decode(values, indices, atoms), (values, indices, atoms)


def _decode_backward(kept, slope):
    values, indices, atoms = kept
    return _products(slope, indices, atoms), _no_gradient(indices), add_rows(values, indices, slope, atoms.shape[0])


gather_decode.defvjp(_decode_forward, _decode_backward)


def _products(x, indices, rows):
    """`x [n d]` with the rows `[m d]` at `indices [n k]`: `[n k]`."""
    return jax.lax.map(lambda row: rows[row[1]] @ row[0], (x, indices), batch_size=ROWS)


def _no_gradient(integers):
    return np.zeros(integers.shape, jax.dtypes.float0)


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
    size = min(4 * ROWS, n)
    chunks = math.ceil(n / size)

    def cut(a):  # rows that are added have weight 0
        return jnp.pad(a, ((0, chunks * size - n), (0, 0))).reshape(chunks, size, -1)

    def add(total, part):
        w, i, x = part
        return total.at[i.reshape(-1)].add((w[..., None] * x[:, None]).reshape(size * k, -1)), None

    start = jnp.zeros((rows, x.shape[1]), jnp.result_type(weights, x))
    return jax.lax.scan(add, start, (cut(weights), cut(indices), cut(x)))[0]


@jax.custom_vjp
def values_at(x: Float[Array, "n d"], encoder: Float[Array, "d m"], bias: Float[Array, " m"],
              pre: Float[Array, "n m"], indices: Int[Array, "n k"]) -> Float[Array, "n k"]:
    r"""The entries of $x W + b$ at `indices`, whose gradient reaches the k columns in use alone.

    Args:
      x: inputs.
      encoder: W.
      bias: b.
      pre: x W + b, computed before; it gets no gradient here.
      indices: places.

    Returns:
      `[n k]`.
    """
    return jnp.take_along_axis(pre, indices, axis=1)


def _values_forward(x, encoder, bias, pre, indices):
    return values_at(x, encoder, bias, pre, indices), (x, encoder, pre, indices)


def _values_backward(kept, slope):
    x, encoder, pre, indices = kept
    atoms = encoder.shape[1]
    return (gather_decode(slope, indices, encoder.T), add_rows(slope, indices, x, atoms).T,
            jnp.zeros((atoms,), slope.dtype).at[indices].add(slope), jnp.zeros_like(pre), _no_gradient(indices))


values_at.defvjp(_values_forward, _values_backward)
