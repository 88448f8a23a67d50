"""One dictionary at many sparsities: which numbers of active atoms to train, and how much each leaves unexplained."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.sae.codes import Codes, decode
from jaxae.sae.encoders import of_pre
from jaxae.sae.sparsifiers import nested_topk


def matryoshka_ks(first: int, last: int) -> tuple[int, ...]:
    """`first`, doubled until `last`, which is the largest: the numbers of active atoms of a hierarchy.

    Args:
      first: the fewest, at least 1.
      last: the most, such as the number of atoms.

    Raises:
      ValueError: for first < 1 or last < first.

    >>> matryoshka_ks(64, 768)
    (64, 128, 256, 512, 768)

    Reference: Zaigrajew, Baniecki and Biecek, Interpreting CLIP with hierarchical sparse autoencoders, 2025,
    arXiv 2502.20578.
    """
    if not 1 <= first <= last:
        raise ValueError(f"matryoshka_ks wants 1 <= first <= last; got {first} and {last}")
    ks = []
    while first < last:
        ks.append(first)
        first *= 2
    return (*ks, last)


def recovery_curve(y: Float[Array, "n o"], pre: Float[Array, "n m"], atoms: Float[Array, "m o"],
                   offset: Float[Array, " o"], ks: tuple[int, ...]) -> Float[Array, "k n"]:
    r"""$\|y - \hat y_k\|^2$ of each example when the k largest of its pre-activations are kept, for several k.

    Means over a data set, divided by the variance of y, are the share of variance that is left unexplained as more and
    more atoms take part (progressive recovery).

    Args:
      y: what is reconstructed.
      pre: pre-activations.
      atoms: the decoder.
      offset: added to what is decoded.
      ks: numbers of active atoms, increasing.

    Returns:
      `[len(ks) n]`.

    Raises:
      ValueError: for sizes that do not increase from 1 to m.

    Reference: Zaigrajew et al., 2025, arXiv 2502.20578.
    """
    most = nested_topk(of_pre(pre), ks)[-1]
    y_hat, errors = jnp.broadcast_to(offset, y.shape), []
    for low, high in zip((0, *ks[:-1]), ks, strict=True):  # each atom is decoded once, not once for every k
        y_hat = y_hat + decode(Codes(most.values[:, low:high], most.indices[:, low:high]), atoms)
        errors.append(jnp.square(y - y_hat).sum(-1))
    return jnp.stack(errors)
