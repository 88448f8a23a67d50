"""Latents of one sparse autoencoder added to another, to see whether they say anything new."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int

LATENTS_LAST = ("encoder",)  # parameters [d m]; of the others the first axis counts the latents
SHARED = ("offset", "skip")  # parameters of the whole, which stay those of the first


def stitched(first: Mapping[str, Array], second: Mapping[str, Array],
             which: Int[ArrayLike, " s"] | Bool[ArrayLike, " m"], centred: bool = True) -> dict[str, Array]:
    r"""Parameters of an autoencoder with all latents of the first and some of the second, such as its orphans.

    Latents keep their pre-activations: where inputs are centred by an autoencoder's own offset, the biases that come
    over gain $(o_1 - o_2) W_2$, o the offsets. If the loss of the stitched autoencoder is lower than the first one's,
    with as many active latents, then these latents carry information that the first has not. Atoms are added up, so
    that latents which both have are decoded twice: add those alone that the first has not.

    Args:
      first: parameters `encoder [d m]`, `bias [m]`, `decoder [m o]`, `offset [o]` and, where there are, others `[m]`.
      second: the same kind of autoencoder of the same widths, with any number of latents.
      which: latents of the second, by index or as a mask; known at trace time.
      centred: whether the offset is subtracted from the input.

    Returns:
      Parameters of m + s latents.

    Raises:
      ValueError: for autoencoders of different kinds or widths, or without an encoder of their own.

    Reference: the comparison of autoencoders in Paulo and Belrose, 'Sparse autoencoders trained on the same data learn
    different features', 2025, arXiv 2501.16615.
    """
    if set(first) != set(second) or "encoder" not in first:
        raise ValueError(f"stitched wants two autoencoders of one kind with an encoder each; got {sorted(first)} and "
                         f"{sorted(second)}")
    widths = [(p["encoder"].shape[0], p["decoder"].shape[1]) for p in (first, second)]
    if widths[0] != widths[1]:
        raise ValueError(f"stitched wants autoencoders of the same input and output widths; got {widths}")
    other = dict(second)
    if centred:
        other["bias"] = second["bias"] + (first["offset"] - second["offset"]) @ second["encoder"]

    which = np.asarray(which)
    which = np.flatnonzero(which) if which.dtype == bool else which

    def joined(name):
        axis = 1 if name in LATENTS_LAST else 0
        return jnp.concatenate([first[name], jnp.take(other[name], which, axis)], axis)

    return {name: first[name] if name in SHARED else joined(name) for name in first}
