"""Images drawn for semantic maps of any size, by a prior on the codes of images given those of their maps."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxae.priors import Prior, sample_windows
from jaxae.systems.base import System, Variables


class Drawn(NamedTuple):
    """Images and the codes of which they are decoded."""

    images: Float[Array, "n H W c"]
    codes: Int[Array, "n 2 h w"]  # of the map, and of the image


def code_window(system: System, shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the maps of codes of images of `shape`, on which a system with a condition was trained.

    Raises:
      ValueError: for latents that are not the codes of a condition and, in the same places, those of an image.
    """
    latent = system.latent
    if latent is None or latent.prefix != 1 or latent.shape[:1] != (2,) or len(latent.shape) != 2:
        raise ValueError("maps can be given to a system whose latents begin with their codes: train "
                         "configs/semantic_vq.py")
    factor = math.isqrt(shape[0] * shape[1] // latent.shape[1])
    return shape[0] // factor, shape[1] // factor


def draw_for_maps(system: System, variables: Variables, prior: Prior, params: PyTree, key: Array,
                  semantic: Int[Array, "n H W"], shape: tuple[int, int, int], temperature: float = 1.0,
                  top_k: int | None = None) -> Drawn:
    """Draws an image for each semantic map, of the map's size.

    The map is encoded, the image's codes are drawn given its codes, each from the window around it that is as large as
    the maps of codes of training (`jaxae.priors.sample_windows`), and both are decoded.

    Args:
      system: of configs/semantic_vq.py.
      variables: of it, trained.
      prior: of configs/prior.py:semantic, with `logits`.
      params: of the prior, trained.
      key: of the draws.
      semantic: maps at least as large as those of training, of sides that the strides divide.
      shape: of the images of training, (h, w, c).
      temperature, top_k: of the prior.

    Raises:
      ValueError: for another system, or maps that are too small.

    Reference: Alaniz, Hummel, Akata, 'Semantic image synthesis with semantically coupled VQ-model', 2022, arXiv
    2209.02536; windows: Esser, Rombach, Ommer, 2021, arXiv 2012.09841.
    """
    window, (n, height, width) = code_window(system, shape[:2]), semantic.shape
    places = height * window[0] // shape[0], width * window[1] // shape[1]
    # The map's codes do not depend on the image, which is not known.
    unknown = jnp.zeros((n, height, width, shape[2]))
    given = system.encode(variables, unknown, semantic)[:, 0].reshape(n, *places)
    drawn = sample_windows(prior, params, key, places, window, given=given, temperature=temperature, top_k=top_k)
    codes = jnp.stack([given, drawn], 1)
    return Drawn(jnp.clip(system.decode(variables, codes), 0.0, 1.0), codes)
