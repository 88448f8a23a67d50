"""How much of a codebook is used."""

import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int, Real

from jaxae.collectives import total


def code_counts(indices: Int[Array, "..."], k: int, axis_name: str | None = None) -> Int[Array, " {k}"]:
    """How often each of k codes occurs; summed over batches it gives the counts of a data set.

    Args:
      indices: codes in [0, k), of any shape. Others are not counted, so -1 may mark padding.
      k: size of the codebook.
      axis_name: the mapped axis; the counts are then of the global batch.

    Returns:
      Counts `[k]`, int32.
    """
    flat = jnp.where((indices >= 0) & (indices < k), indices, k).ravel()
    return total(jnp.zeros(k + 1, jnp.int32).at[flat].add(1)[:k], axis_name)


def perplexity(counts: Real[Array, "... k"]) -> Float[Array, "..."]:
    """exp of the entropy of the code distribution: 1 for a single code, k for k equally used ones.

    Args:
      counts: how often each code occurs, last axis over the codes; other axes are codebooks.

    Returns:
      Perplexity of each codebook; NaN where nothing was counted.

    >>> import jax.numpy as jnp
    >>> f'{perplexity(jnp.array([5, 5, 0, 0])):.3f}'
    '2.000'
    """
    counts = counts.astype(jnp.float32)
    return jnp.exp(entr(counts / counts.sum(-1, keepdims=True)).sum(-1))


def usage(counts: Real[Array, "... k"]) -> Float[Array, "..."]:
    """Share of the codes that occur at all, in [0, 1], for counts with the codes on the last axis."""
    return (counts > 0).mean(-1, dtype=jnp.float32)
