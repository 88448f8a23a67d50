"""Precision and recall of generated samples: shares of one set inside the neighbourhoods of the other."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.collectives import gather


class PrecisionRecall(NamedTuple):
    """Shares between 0 and 1: of fake samples that look real, of real samples that the fake ones cover."""

    precision: Float[Array, ""]
    recall: Float[Array, ""]


def precision_recall(real: Float[Array, "n d"], fake: Float[Array, "m e"], k: int = 3, block: int = 1024,
                     axis_name: str | None = None) -> PrecisionRecall:
    """Precision and recall on k-nearest-neighbour manifolds.

        precision = 1/m sum_j max_i [|fake_j - real_i| <= r_k(real_i)],   recall the same with the sets exchanged

    r_k(real_i) is the distance of real_i to its k-th nearest other vector of the real set, so that the balls around
    all of them cover the set's manifold. Both numbers depend on n, m and k: compare only those of equal ones. One
    outlier among the real vectors has a large ball, and with it much precision.

    Distances are made `block` rows at a time. What lies outside a ball by no more than the rounding of float32 counts
    as inside, so that two equal sets score 1 and 1 even where many vectors coincide.

    Args:
      real: features of data, more than k vectors.
      fake: features of samples, more than k vectors of the same dimension.
      k: neighbours.
      block: rows of a distance matrix in memory at once.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      A `PrecisionRecall`.

    Raises:
      ValueError: for sets of no more than k vectors, dimensions that differ, or k or block below 1.

    >>> x = jnp.arange(8.0)[:, None]
    >>> found = precision_recall(x, x[:4])  # four of eight: all of them look real, most of the rest is not covered
    >>> float(found.precision), float(found.recall)
    (1.0, 0.875)

    Reference: Kynkaanniemi, Karras, Laine, Lehtinen, Aila, 'Improved precision and recall metric for assessing
    generative models', 2019, arXiv 1904.06991.
    """
    a, b = gather(real, axis_name), gather(fake, axis_name)
    if k < 1 or block < 1:
        raise ValueError(f"precision_recall needs k={k} and block={block} of at least 1")
    if min(a.shape[0], b.shape[0]) <= k or a.shape[1] != b.shape[1]:
        raise ValueError(f"precision_recall wants two sets of more than k={k} vectors of one dimension; got {a.shape} "
                         f"and {b.shape}")
    # Squared distances come from inner products, which lose digits far from the origin.
    center = a.astype(jnp.float32).mean(0)
    a, b = a.astype(jnp.float32) - center, b.astype(jnp.float32) - center
    return PrecisionRecall(_covered(b, a, k, block), _covered(a, b, k, block))


def _covered(x, y, k, block):
    """Share of the rows of x [m d] inside the ball of any row of y [n d]."""
    radii = _by_blocks(lambda rows, index: _kth_smallest(_squares(rows, y), index, k), y, block)
    size = jnp.square(y).sum(-1)

    def inside(rows, index):
        slack = 8.0 * jnp.finfo(jnp.float32).eps * (jnp.square(rows).sum(-1, keepdims=True) + size)
        return jnp.any(_squares(rows, y) <= radii + slack, axis=1)

    return _by_blocks(inside, x, block).mean()


def _kth_smallest(squares, index, k):
    """k-th smallest entry of each row [r n], its own, at column `index` [r], left out."""
    own = jnp.arange(squares.shape[1]) == index[:, None]
    return -lax.top_k(-jnp.where(own, jnp.inf, squares), k)[0][:, -1]


def _squares(x, y):
    """Squared distances [r n] of the rows of x and y."""
    products = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
    return jnp.maximum(jnp.square(x).sum(-1, keepdims=True) + jnp.square(y).sum(-1) - 2.0 * products, 0.0)


def _by_blocks(function, x, block):
    """`function(rows [r d], their index [r]) -> [r]` over all rows of x, `block` at a time."""
    n, index = x.shape[0], jnp.arange(x.shape[0])
    whole, parts = n - n % block, []
    if whole:
        parts.append(lax.map(lambda pair: function(*pair), (x[:whole].reshape(-1, block, x.shape[1]),
                                                            index[:whole].reshape(-1, block))).reshape(-1))
    if whole < n:
        parts.append(function(x[whole:], index[whole:]))
    return jnp.concatenate(parts)
