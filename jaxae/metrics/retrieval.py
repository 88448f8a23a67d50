"""Accuracy of retrieval: whether the nearest neighbour of a vector has its label."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.collectives import gather

_TIE = 1e-5  # relative difference of squared distances below which neighbours are equally near


def retrieval_accuracy(z: Float[Array, "n d"], label: Int[Array, " n"], block: int = 16,
                       axis_name: str | None = None) -> Float[Array, ""]:
    """Share of vectors whose nearest other vector, by Euclidean distance, has their label.

    With clusters of paraphrases as labels it tells how far a latent holds the meaning, with templates the form. Of
    equally near neighbours, such as the same codes, each counts by its share. A vector whose label no other has cannot
    be retrieved and is left out.

    Args:
      z: vectors; scale them to length one for cosine similarity.
      label: of each, any integers.
      block: vectors whose differences from all others `[block n d]` are in memory at once.
      axis_name: the mapped axis over which the vectors are spread.

    Returns:
      A scalar in [0, 1]; NaN if no label occurs twice.

    Raises:
      ValueError: for another number of labels than vectors, or fewer than two.

    >>> z = jnp.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> round(float(retrieval_accuracy(z, jnp.array([0, 0, 1, 1, 1]))), 3)
    0.7

    Reference: Hosking and Lapata, 'Factorising meaning and form for intent-preserving paraphrasing', 2021, arXiv
    2105.15053, which probes its latents by retrieval of paraphrases and of templates.
    """
    z, label = gather(z, axis_name).astype(jnp.float32), gather(label, axis_name)
    n = z.shape[0]
    if n != label.shape[0] or n < 2:
        raise ValueError(f"retrieval_accuracy wants a label for each of two or more vectors; got {n} vectors and "
                         f"{label.shape[0]} labels")

    def one(i):
        distance = jnp.square(z - z[i]).sum(-1).at[i].set(jnp.inf)
        near = distance <= distance.min() * (1.0 + _TIE)
        same = (label == label[i]).at[i].set(False)
        return (near & same).sum() / near.sum(), same.any()

    right, known = lax.map(one, jnp.arange(n), batch_size=min(block, n))
    return jnp.where(known, right, 0.0).sum() / known.sum()
