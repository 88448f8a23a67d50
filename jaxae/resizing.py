"""Images at half and double their size, by arrays alone: what networks and losses share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def check_divisible(size: Sequence[int], factor: int) -> None:
    """Raise unless height and width are multiples of `factor`, the total down-sampling.

    Args:
      size: `(height, width)` in pixels.
      factor: `2^k` for k halvings.

    Raises:
      ValueError: naming the size to pad to.

    Example:
      >>> check_divisible((28, 28), 4)
    """
    if any(n % factor for n in size):
        padded = tuple(-(-n // factor) * factor for n in size)
        raise ValueError(f"images of {tuple(size)} pixels cannot be halved to 1/{factor} and restored exactly: pad "
                         f"them to {padded}, or name fewer channels (one per halving).")


def halve(x: Float[Array, "b h w c"], times: int = 1) -> Float[Array, "b oh ow c"]:
    """Means of squares of 2^times pixels; once, it is bilinear interpolation at half the size.

    Raises:
      ValueError: where height or width is not a multiple of 2^times.
    """
    side = 2**times
    check_divisible(x.shape[1:3], side)
    b, h, w, c = x.shape
    return x.reshape(b, h // side, side, w // side, side, c).mean((2, 4)) if times else x


def double(x: Float[Array, "b h w c"], times: int = 1) -> Float[Array, "b oh ow c"]:
    """Bilinear interpolation at 2^times the size; the border's pixels are repeated outwards.

    Each doubling is four shifted slices in place of a gather: a pixel is 3/4 of its parent and 1/4 of the next one.
    """
    for _ in range(times):
        for axis in (1, 2):
            n, first = x.shape[axis], jax.lax.slice_in_dim
            before = jnp.concatenate([first(x, 0, 1, axis=axis), first(x, 0, n - 1, axis=axis)], axis)
            after = jnp.concatenate([first(x, 1, n, axis=axis), first(x, n - 1, n, axis=axis)], axis)
            pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
            x = pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1:])
    return x
