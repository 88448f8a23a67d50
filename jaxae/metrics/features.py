"""The default feature space of image distances: a small classifier of the embedded digits."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

WEIGHTS = Path(__file__).parent / "digit_features.npz"


@lru_cache
def _load(path: str):
    from flax.traverse_util import unflatten_dict

    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    accuracy = float(stored.pop("test_accuracy"))
    named = {tuple(name.split("/")): value.astype(np.float32) for name, value in stored.items()}
    return unflatten_dict(named), accuracy


def digit_features(path: str | Path = WEIGHTS) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n d"]]:
    """A function from digit images, 28x28x1 in [0, 1], to the classifier's hidden layer `[n d]`.

    Distances in this space are comparable with each other, not with published Inception distances.

    Args:
      path: weights that `experiments/export_features.py` wrote; those of the package by default.

    Raises:
      ValueError: when called on images of another size.
    """
    return lambda x: _classified(x, path).features


def colour_features(path: str | Path = WEIGHTS) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n d"]]:
    """A function from images of any size and colours, in [0, 1], to `digit_features` of each colour by itself, side by
    side: `[n c*d]`. Images are resized to 28x28, linearly and antialiased.

    The classifier has seen no such images: its features are a fixed set of responses to strokes and edges. Distances
    in this space are comparable with each other for one kind of images, and with nothing published.

    Args:
      path: weights that `experiments/export_features.py` wrote; those of the package by default.

    >>> colour_features()(jnp.ones((2, 16, 20, 3))).shape
    (2, 192)
    """
    def features(x):
        n, c = x.shape[0], x.shape[-1]
        grey = jnp.moveaxis(jnp.asarray(x, jnp.float32), -1, 1).reshape(n * c, *x.shape[1:3], 1)
        if x.shape[1:3] != (28, 28):
            grey = jax.image.resize(grey, (n * c, 28, 28, 1), "linear")
        return _classified(grey, path).features.reshape(n, -1)

    return features


def digit_logits(path: str | Path = WEIGHTS) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n k"]]:
    """A function from digit images, 28x28x1 in [0, 1], to the classifier's logits `[n k]`.

    Args:
      path: weights that `experiments/export_features.py` wrote; those of the package by default.

    Raises:
      ValueError: when called on images of another size.
    """
    return lambda x: _classified(x, path).logits


def digit_maps(path: str | Path = WEIGHTS) -> Callable[[Float[Array, "n h w c"]], list[Float[Array, "n ..."]]]:
    """A function from grey images [n h w 1] in [0, 1] to the maps of the classifier's three convolutions, after ReLU:
    what a perceptual distance of digits compares (`jaxae.losses.perceptual`), of any size.

    Args:
      path: weights that `experiments/export_features.py` wrote; those of the package by default.

    Raises:
      ValueError: when called on images of several colours.
    """
    from jaxae.nn import Conv

    def maps(x):
        if x.shape[-1] != 1:
            raise ValueError(f"feature maps of digits are for images [n h w 1], not {list(x.shape)}: give features of "
                             f"your own, such as those of VGG16 (jaxae.nn.vgg)")
        net, params = _classifier(path)
        _, seen = net.apply({"params": params}, jnp.asarray(x, jnp.float32), mutable=["intermediates"],
                            capture_intermediates=lambda module, _: isinstance(module, Conv))
        layers = [*(f"conv{i}" for i in range(len(net.channels))), "conv_last"]
        return [jnp.maximum(seen["intermediates"][name]["__call__"][0], 0.0) for name in layers]

    return maps


def _classified(x, path):
    if x.shape[1:] != (28, 28, 1):
        raise ValueError(f"digit features are for images [n 28 28 1], not {list(x.shape)}: give the distance "
                         f"features of your own")
    net, params = _classifier(path)
    return net.apply({"params": params}, jnp.asarray(x, jnp.float32))


def _classifier(path):
    from jaxae.nn import ConvClassifier

    params, _ = _load(str(path))
    return ConvClassifier(params["logits"]["bias"].shape[0],
                          tuple(params[f"conv{i}"]["bias"].shape[0] for i in range(len(params) - 3)),
                          params["features"]["bias"].shape[0]), params


def digit_accuracy(path: str | Path = WEIGHTS) -> float:
    """Test accuracy of the classifier whose features these are, as measured when its weights were written."""
    return _load(str(path))[1]
