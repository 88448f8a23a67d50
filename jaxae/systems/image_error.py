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
    digits, 'digits_by_colour' for the mean over colours, each seen by that classifier as a grey image, or the path of
    an .npz with the weights of VGG16 (`jaxae.nn.vgg.read_vgg16`), which does not come with the library.
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
    kind, power = model.perceptual_features, jnp.square if model.error == "mse" else jnp.abs
    digits = kind in ("digits", "digits_by_colour")
    if model.perceptual and not digits and not str(kind).endswith(".npz"):
        raise ValueError(f"model.perceptual_features={kind!r} must be 'digits', 'digits_by_colour' or the path of an "
                         f".npz with the weights of VGG16")
    if model.perceptual and kind == "digits" and shape[-1] != 1:
        raise ValueError("model.perceptual_features='digits' is for images of one colour: give the path of an .npz "
                         "with the weights of VGG16, take 'digits_by_colour', or set model.perceptual=0")

    def by_colour(x):
        return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3], 1)

    def error(x, x_hat):
        pixels = power(x - x_hat).mean((1, 2, 3))
        if not model.perceptual:
            return model.error_weight * pixels, {"reconstruction": pixels}
        if digits:
            distance = perceptual_distance(by_colour(x), by_colour(x_hat), digit_maps()).reshape(len(x), -1).mean(1)
        else:
            distance = perceptual_distance(x, x_hat, *_vgg16(str(kind)))
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
