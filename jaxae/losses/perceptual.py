"""Distances of images by the feature maps that a network makes of them."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_EPSILON = 1e-8  # a place whose features are all zero has no direction, and stays zero


def feature_distance(maps: Sequence[Float[Array, "n ..."]], others: Sequence[Float[Array, "n ..."]],
                     weights: Sequence[Float[Array, " _"]] | None = None) -> Float[Array, " n"]:
    """The weighted squared distance of the directions of features, averaged over places and summed over layers.

        d = sum_l mean_ij sum_c w_lc (f_lijc / |f_lij| - g_lijc / |g_lij|)^2

    It is neither a log-likelihood nor in nats; without weights a layer adds 4 at most.

    Args:
      maps: f, one `[n h w c]` for each layer, of any sizes; float32 in the sums.
      others: g, of the same shapes.
      weights: w, one `[c]` for each layer, which should not be negative; None is 1 everywhere.

    Returns:
      `[n]`.

    Raises:
      ValueError: for layers that do not correspond.

    >>> flat = jnp.ones((1, 2, 2, 1)) * jnp.array([3.0, 4.0])
    >>> [round(float(feature_distance([flat], [scale * flat])[0]), 4) for scale in (5.0, -1.0)]
    [0.0, 4.0]

    Reference: Zhang, Isola, Efros, Shechtman, Wang, 'The unreasonable effectiveness of deep features as a perceptual
    metric', 2018, arXiv 1801.03924.
    """
    shapes = [[a.shape for a in maps], [a.shape for a in others]]
    if shapes[0] != shapes[1] or (weights is not None and [a[-1:] for a in shapes[0]] != [w.shape for w in weights]):
        raise ValueError(f"feature maps of shapes {shapes[0]} and {shapes[1]} cannot be compared"
                         + ("" if weights is None else f" with weights of {[w.shape for w in weights]}")
                         + ": give the same layers of images of one size, and a weight for each channel")
    total = jnp.zeros(maps[0].shape[0]) if maps else jnp.zeros(())
    for i, (f, g) in enumerate(zip(maps, others, strict=True)):
        squares = jnp.square(_direction(f) - _direction(g))
        if weights is not None:
            squares = squares * weights[i]
        total = total + squares.sum(-1).reshape(f.shape[0], -1).mean(-1)
    return total


def perceptual_distance(x: Float[Array, "n ..."], y: Float[Array, "n ..."],
                        features: Callable[[Array], Sequence[Array]],
                        weights: Sequence[Float[Array, " _"]] | None = None) -> Float[Array, " n"]:
    """`feature_distance` of the feature maps of two batches of images.

    Args:
      x: images `[n h w c]`.
      y: as many, of the same shape.
      features: images to a list of maps `[n h' w' c']`, such as `jaxae.nn.vgg.vgg16_maps` with its weights.
      weights: one `[c']` for each map; None is 1 everywhere.

    Returns:
      `[n]`, zero for equal images; in no unit.

    Raises:
      ValueError: as `feature_distance`.

    Reference: Zhang et al., 2018, arXiv 1801.03924.
    """
    return feature_distance(features(x), features(y), weights)


def _direction(f):
    f = f.astype(jnp.float32)
    return f * lax.rsqrt(jnp.sum(f * f, -1, keepdims=True) + _EPSILON)
