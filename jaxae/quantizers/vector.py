"""Nearest-neighbour vector quantization with the straight-through gradient."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from jaxae import collectives
from jaxae.quantizers.base import check_indices
from jaxae.quantizers.estimators import straight_through

_WHOLE = 2**24  # numbers that may be alive at once, 64 MB
_ROWS = 256  # rows of the distance matrix that are alive at once: it stays in cache


class VectorQuantized(NamedTuple):
    """What `vector_quantize` returns for `z [n ... d]`."""

    z_q: Array  # [n ... d] codes, with the gradient estimator's path to z
    indices: Array  # [n ...] int32
    codebook_loss: Array  # [n] mean over positions and channels of (sg[z] - e)^2: moves the codes only
    commitment_loss: Array  # [n] mean over positions and channels of (z - sg[e])^2: moves the encoder only


def nearest_code(z: Float[Array, "*n d"], codebook: Float[Array, "k w"]) -> Int[Array, "*n"]:
    """Index of the nearest code, argmin_j |z - e_j|_2, ties to the lowest index; no gradient.

    Distances are float32 whatever the inputs are. The `[n k]` matrix is never whole in memory: rows are searched
    in chunks, and each chunk spans all devices, so that a sharded batch stays where it is.

    Args:
      z: vectors `[... d]`.
      codebook: codes `[k d]`.

    Returns:
      int32 `[...]`.

    Raises:
      ValueError: if the widths differ.

    Reference: van den Oord, Vinyals and Kavukcuoglu, Neural Discrete Representation Learning, 2017,
      arXiv 1711.00937.
    """
    if z.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"the encoder gives vectors of width {z.shape[-1]}, the codebook holds width "
                         f"{codebook.shape[-1]}: make them equal")
    k = codebook.shape[0]
    flat = lax.stop_gradient(z).reshape(-1, z.shape[-1]).astype(jnp.float32)
    codes = lax.stop_gradient(codebook).astype(jnp.float32)
    # |z - e|^2 up to |z|^2, which no comparison sees.
    offset = jnp.sum(codes**2, axis=-1)
    weights = 2.0 * codes.T

    def search(rows):
        return first_best(jnp.dot(rows, weights, precision=lax.Precision.HIGHEST) - offset)

    return by_chunks(search, flat, k).reshape(z.shape[:-1])


def by_chunks(function: Callable[[PyTree], PyTree], rows: PyTree, k: int, size: int = _ROWS) -> PyTree:
    """`function` over rows, a chunk at a time, where each row makes k numbers on the way to few.

    Chunk j holds rows j, j + c, j + 2c, ... of c chunks: each spans all devices. Few rows of few numbers are one chunk.

    Args:
      function: rows to results, arrays `[r ...]` both, one by one.
      rows: arrays `[n ...]`.
      k: numbers that a row makes.
      size: rows of a chunk, up to four times as many where that divides n.

    Returns:
      The results of all rows, `[n ...]`.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    if n <= 4 * size and n * k <= _WHOLE:
        return function(rows)
    chunks = next((c for c in range(n // size, n // (4 * size), -1) if n % c == 0), 0)
    if not chunks:
        chunks = -(-n // size)
        rows = jax.tree.map(lambda x: jnp.pad(x, ((0, -n % chunks),) + ((0, 0),) * (x.ndim - 1)), rows)
    strided = jax.tree.map(lambda x: x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1), rows)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:n], lax.map(function, strided))


def first_best(score: Float[Array, "*n k"]) -> Int[Array, "*n"]:
    """argmax over the last axis, ties to the lowest index; k - 1 where a score is NaN.

    A vectorised pass over the columns: `jnp.argmax` is several times slower on CPU.
    """
    k = score.shape[-1]
    index = jnp.where(score >= score.max(axis=-1, keepdims=True), jnp.arange(k, dtype=jnp.int32), k).min(axis=-1)
    return jnp.minimum(index, k - 1)  # a row of NaN matches nothing


def lookup(indices: Int[Array, "*n"], codebook: Float[Array, "k d"]) -> Float[Array, "*n d"]:
    """Codes at the indices, e_k: `[...]` integers in [0, k) -> `[... d]`; differentiable in the codebook.

    Raises ValueError for integers out of range, outside `jit`.
    """
    check_indices(indices, codebook.shape[0])
    return codebook[indices]


def vector_quantize(z: Float[Array, "n *positions d"], codebook: Float[Array, "k d"]) -> VectorQuantized:
    """Replaces each vector by its nearest code.

    The two losses are means over positions and channels (as in Sonnet), so that a commitment weight means the
    same whatever the width: L = -log p(x | z_q) + codebook_loss + beta * commitment_loss, with beta on the
    COMMITMENT term, 0.25 in the paper. With a codebook that is updated by moving averages leave the codebook
    loss out.

    Args:
      z: encoder outputs `[n ... d]`, batch axis first.
      codebook: `[k d]`.

    Returns:
      `VectorQuantized`; the decoder's gradient reaches z unchanged and does not reach the codebook.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxae.quantizers import vector_quantize
      >>> vector_quantize(jnp.array([[0.9], [0.1]]), jnp.array([[0.0], [1.0]])).indices.tolist()
      [1, 0]

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937.
    """
    return assign(z, codebook, nearest_code(z, codebook))


def assign(z: Float[Array, "n *positions d"], codebook: Float[Array, "k d"], indices: Int[Array, "n *positions"],
           estimator: Callable[[Array, Array], Array] = straight_through) -> VectorQuantized:
    """`vector_quantize` for indices and a gradient estimator that the caller chooses.

    Args:
      z: encoder outputs `[n ... d]`, batch axis first.
      codebook: `[k d]`; gets the gradient of `codebook_loss` alone.
      indices: the code of each vector.
      estimator: `(z, codes) -> z_q`, a value of `ESTIMATORS`.
    """
    chosen = lookup(indices, codebook).astype(jnp.float32)
    fixed, z32 = lax.stop_gradient(chosen), z.astype(jnp.float32)
    axes = tuple(range(1, z.ndim))
    return VectorQuantized(
        z_q=estimator(z, fixed.astype(z.dtype)),
        indices=indices,
        codebook_loss=jnp.mean((lax.stop_gradient(z32) - chosen) ** 2, axis=axes),
        commitment_loss=jnp.mean((z32 - fixed) ** 2, axis=axes),
    )


def sample_rows(x: Shaped[Array, "n d"], key: Array, count: int, axis_name: str | None = None
                ) -> Shaped[Array, "count d"]:
    """`count` rows of the global batch drawn uniformly with replacement: the same rows on every replica.

    Args:
      x: this replica's rows.
      key: one key, the same on every replica.
      count: number of rows drawn.
      axis_name: the mapped axis, or None under `jit`.
    """
    n = x.shape[0]
    if axis_name is None:
        return x[jax.random.randint(key, (count,), 0, n)]
    rows = jax.random.randint(key, (count,), 0, n * lax.axis_size(axis_name))
    local = rows - lax.axis_index(axis_name) * n
    mine = (local >= 0) & (local < n)
    return collectives.total(jnp.where(mine[:, None], x[jnp.clip(local, 0, n - 1)], 0), axis_name)
