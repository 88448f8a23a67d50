"""The reconstruction error of images by config: of pixels, and of the features that a network sees in them."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxae.losses.perceptual import perceptual_distance
from jaxae.metrics.features import digit_maps
from jaxae.nn.vgg import read_vgg16, stage_weights, vgg16_maps

Error = Callable[[Array, Array], tuple[Array, dict[str, Array]]]  # (x, x_hat [n h w c]) -> [n], metrics [n]


def defaults() -> dict[str, Any]:
    """Keys of `config.model`.

    `error` of pixels in [0, 1]: 'mse' or 'l1', the mean over pixels and channels, times `error_weight`. `perceptual`:
    weight of the distance of features, 0 for none. `perceptual_features`: 'digits' for the classifier of the embedded
    digits, or the path of an .npz with the weights of VGG16 (`jaxae.nn.vgg.read_vgg16`), which does not come with the
    library.
    """
    return dict(error="mse", error_weight=1.0, perceptual=0.0, perceptual_features="digits")


def image_error(model, shape: tuple[int, ...]) -> Error:
    """error_weight * mean |x - x_hat|^p + perceptual * distance of the features, of each example.

    The metrics are `reconstruction`, the error of pixels, and `perceptual_distance`, neither of them weighted.

    Args:
      model: `config.model`.
      shape: of one image.

    Raises:
      ValueError: for options that do not exist or do not fit the images; a file is read when the error is first used.
    """
    if model.error not in ("mse", "l1"):
        raise ValueError(f"model.error={model.error!r} must be 'mse' or 'l1'")
    digits, power = model.perceptual_features == "digits", jnp.square if model.error == "mse" else jnp.abs
    if model.perceptual and not digits and not str(model.perceptual_features).endswith(".npz"):
        raise ValueError(f"model.perceptual_features={model.perceptual_features!r} must be 'digits' or the path of an "
                         f".npz with the weights of VGG16")
    if model.perceptual and digits and shape[-1] != 1:
        raise ValueError("model.perceptual_features='digits' is for images of one colour: give the path of an .npz "
                         "with the weights of VGG16, or set model.perceptual=0")

    def error(x, x_hat):
        pixels = power(x - x_hat).mean((1, 2, 3))
        if not model.perceptual:
            return model.error_weight * pixels, {"reconstruction": pixels}
        features, weights = (digit_maps(), None) if digits else _vgg16(str(model.perceptual_features))
        distance = perceptual_distance(x, x_hat, features, weights)
        return (model.error_weight * pixels + model.perceptual * distance,
                {"reconstruction": pixels, "perceptual_distance": distance})

    return error


@lru_cache
def _read(path):
    return read_vgg16(path)


def _vgg16(path):
    weights = _read(path)
    return partial(vgg16_maps, weights), stage_weights(weights)


__all__ = ["defaults", "image_error"]
