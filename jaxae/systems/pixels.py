"""p(x | z) of images and vectors: a likelihood for each element, or a PixelCNN's conditionals."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxae.distributions import likelihood
from jaxae.nn import PixelCNN
from jaxae.systems.observation import Observation


class _PixelDecoder(nn.Module):
    """A feature map of z that conditions a PixelCNN over x."""

    body: nn.Module
    pixelcnn: nn.Module

    def __call__(self, z: Array, x: Array) -> Array:
        return self.pixelcnn(x, spatial=self.body(z))


def pixel_observation(model, shape: tuple[int, ...], decoder: Callable[[int], nn.Module], dtype,
                axis_name: str | None = None) -> Observation:
    """The observation model of `model.decoder` and `model.likelihood`, with dropout in training where
    `model.dropout` asks for it.

    Args:
      model: `config.model`.
      shape: of one example.
      decoder: `channels -> module` from z to `[n *shape[:-1] channels]`.
      dtype: of the computation.
      axis_name: the mapped axis of the batch.

    'mse' as likelihood is the Gaussian of unit variance without its constant: -1/2 |x - x_hat|^2.

    Raises:
      ValueError: for unknown names.
    """
    square = model.likelihood == "mse"
    density = likelihood("gaussian" if square else model.likelihood, 1.0 if square else model.scale,
                         model.get("grey_levels", 256))
    channels = density.channels * shape[-1]

    def log_density(x, out):
        if square:
            return -0.5 * jnp.sum((x - out.astype(jnp.float32)) ** 2, axis=tuple(range(1, x.ndim)))
        if density.channels == 1:  # flat: XLA on CPU has no vector instructions for a last axis of one channel
            x, out = x.reshape(x.shape[0], -1), out.reshape(x.shape[0], -1)
        return density.log_prob(x, out)

    if model.decoder == "factorised":
        module = decoder(channels)

        def parameters(params, z, key=None):
            return module.apply({"params": params}, z, rngs=None if key is None else {"dropout": key})

        noisy = {} if not model.dropout else dict(
            noisy_log_prob=lambda params, z, x, key: log_density(x, parameters(params, z, key)),
            noisy_mean=lambda params, z, key: density.mean(parameters(params, z, key)))
        return Observation(
            init=lambda key, z: module.init(key, z)["params"],
            log_prob=lambda params, z, x: log_density(x, parameters(params, z)),
            mean=lambda params, z, key: density.mean(parameters(params, z)), **noisy)
    if model.decoder != "pixelcnn":
        raise ValueError(f"model.decoder={model.decoder!r} must be 'factorised' or 'pixelcnn'")
    if len(shape) != 3:
        raise ValueError("model.decoder='pixelcnn' needs images [n h w c]")
    net = PixelCNN(channels, model.pixelcnn_hidden, model.pixelcnn_layers, model.pixelcnn_kernel, dtype=dtype,
                   axis_name=axis_name)
    module = _PixelDecoder(decoder(model.pixelcnn_hidden), net)

    def apply(params, z, x):
        return module.apply({"params": params}, z, x)

    def draw(params, z, key):
        """Pixel by pixel in raster order, each from its conditional."""
        height, width = shape[:2]

        def pixel(t, x):
            drawn = density.sample(jax.random.fold_in(key, t), apply(params, z, x), axis_name=axis_name)
            i, j = t // width, t % width
            return x.at[:, i, j].set(drawn[:, i, j])

        return lax.fori_loop(0, height * width, pixel, jnp.zeros((z.shape[0], *shape), jnp.float32))

    return Observation(init=lambda key, z: module.init(key, z, jnp.zeros((z.shape[0], *shape)))["params"],
                       log_prob=lambda params, z, x: log_density(x, apply(params, z, x)), mean=draw)
