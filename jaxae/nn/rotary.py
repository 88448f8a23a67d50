"""Rotary position embeddings: queries and keys are turned by angles that grow with their place on each axis."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def rotary_angles(shape: tuple[int, ...], width: int, base: float = 10_000.0) -> Float[np.ndarray, "t p"]:
    """Angles of the pairs of channels at every place of a map, in raster order, float32.

        angle = place_a base^(-j / m), j = 0 .. m-1, of m pairs for each axis a, axis after axis

    Args:
      shape: sizes of the axes.
      width: channels of one head, a multiple of twice the number of axes.
      base: of the frequencies.

    Returns:
      `[prod(shape) width/2]`.

    Raises:
      ValueError: for a width that the axes do not share evenly.

    Reference: Su, Lu, Pan, Murtadha, Wen, Liu, 'RoFormer', 2021, arXiv 2104.09864; of two axes as in Sun et al.,
    'Autoregressive model beats diffusion: Llama for scalable image generation', 2024, arXiv 2406.06525.

    >>> rotary_angles((2, 3), 4).tolist()
    [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]
    """
    if width % (2 * len(shape)):
        raise ValueError(f"rotary positions of {len(shape)} axes need a multiple of {2 * len(shape)} channels in each "
                         f"head, not {width}: change the width or the number of heads")
    pairs = width // (2 * len(shape))
    places = np.indices(shape).reshape(len(shape), math.prod(shape))  # [a t]
    angles = places[..., None] * base ** (-np.arange(pairs) / pairs)  # [a t m]
    return angles.swapaxes(0, 1).reshape(math.prod(shape), -1).astype(np.float32)


def rotate_pairs(x: Float[Array, "b t h e"], angles: Float[Array, "t p"]) -> Float[Array, "b t h e"]:
    """(x_i, x_(i + e/2)) turned by angle i of its place, in float32: q . k then depends on places by differences alone.

    Args:
      x: queries or keys of t places.
      angles: of these places, `[t e/2]`; see `rotary_angles`.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1).astype(x.dtype)
