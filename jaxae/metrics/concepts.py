"""Names for atoms: the words whose embeddings point where they do."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float


class LatentName(NamedTuple):
    """The word nearest to an atom."""

    latent: int
    word: str
    cosine: float
    ratio: float  # to the cosine of the second nearest word; infinite where that is not above 0


def name_latents(atoms: Float[ArrayLike, "m d"], embeddings: Float[ArrayLike, "v e"], words: Sequence[str],
                 least: float = 0.42, ratio: float = 2.0) -> list[LatentName]:
    """Names of the atoms that point to one word and to no other.

    An atom has the name of the word whose embedding has the largest cosine with it, if that is above `least` and more
    than `ratio` times the second largest. Embeddings are centred over the vocabulary first: those of words and of
    images, say, lie in different parts of a common space, each around a mean of its own.

    Args:
      atoms: in the space of the embeddings, any norms.
      embeddings: of the words.
      words: as many.
      least: cosine.
      ratio: of the two largest cosines.

    Returns:
      The atoms that have a name, in their order.

    Raises:
      ValueError: for dimensions that differ, another number of words, or fewer than two.

    >>> name_latents(np.eye(2), np.array([[2.0, 0], [0, 2], [-2, -2]]), ["red", "wet", "neither"])[1].word
    'wet'

    Reference: Zaigrajew, Baniecki and Biecek, 'Interpreting CLIP with hierarchical sparse autoencoders', 2025, arXiv
    2502.20578.
    """
    atoms, embeddings = np.asarray(atoms, np.float64), np.asarray(embeddings, np.float64)
    if atoms.shape[1:] != embeddings.shape[1:] or len(words) != len(embeddings) or len(words) < 2:
        raise ValueError(f"name_latents wants atoms and embeddings of one dimension and two words or more, one for "
                         f"each embedding; got {atoms.shape}, {embeddings.shape} and {len(words)} words")
    cosine = _unit(atoms) @ _unit(embeddings - embeddings.mean(0)).T
    second, first = np.sort(cosine, 1)[:, -2:].T
    with np.errstate(divide="ignore"):
        share = np.where(second > 0, first / np.where(second > 0, second, 1.0), np.inf)
    return [LatentName(int(j), words[int(cosine[j].argmax())], float(first[j]), float(share[j]))
            for j in np.flatnonzero((first > least) & (share > ratio))]


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
