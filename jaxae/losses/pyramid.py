"""Targets of coarse codes: an image without the finest bands of its Laplacian pyramid."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.resizing import double, halve


def pyramid_target(x: Float[Array, "n h w c"], shares: Float[Array, " n"], levels: int) -> Float[Array, "n h w c"]:
    """The image that a share of its code owes: at half of the code the image at half its size, and so on.

    With x_l the image halved l times and doubled again, x = x_L + sum_{l < L} (x_l - x_{l+1}) is its Laplacian
    pyramid, and the target is x without the l finest bands,

        y = x_l,   l = min(L, floor(log2(1 / share))):

    all bands for more than half of the code, all but the finest down to more than a quarter, ...

    Args:
      x: images `[n h w c]`.
      shares: the part of each example's code that is seen, in (0, 1].
      levels: L; 0 gives the images.

    Returns:
      `[n h w c]`.

    Raises:
      ValueError: where height or width is not a multiple of 2^levels.

    Reference: Burt and Adelson, 'The Laplacian pyramid as a compact image code', IEEE Transactions on Communications,
    1983; for codes in order of importance Elsner et al., 'Quantised global autoencoder', 2024, arXiv 2407.11913, whose
    published code has no such term: which bands belong to which codes is our choice.

    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0]])[None, :, :, None].repeat(2, 0)
    >>> pyramid_target(x, jnp.array([0.6, 0.5]), 1)[:, 0, 0, 0].tolist()
    [0.0, 0.5]
    """
    level = jnp.clip(jnp.floor(1e-5 - jnp.log2(shares)), 0, levels)  # half is half, rounded or not
    target = x
    for i in range(1, levels + 1):
        target = jnp.where(level[:, None, None, None] == i, double(halve(x, i), i), target)
    return target
