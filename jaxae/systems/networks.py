"""Encoders and observation models by config, shared by the systems."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from jaxae.distributions import likelihood
from jaxae.nn import MLP, ConvDecoder, ConvEncoder, PixelCNN
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "silu": nn.silu}
NETWORKS = ("conv", "mlp", "mnist_conv")


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose the networks.

    `network`: 'conv' (strided 4x4 convolutions to `channels`, then `blocks` residual blocks), 'mlp' (`features`)
    or 'mnist_conv' (128-256-512-1024, for 28x28 images; with group normalisation where `norm`). `likelihood`: a name of
    `jaxae.distributions.likelihood`, with `scale` for the fixed Gaussian; systems may add 'mse'. `decoder`:
    'factorised', or 'pixelcnn', whose pixels also see those before them.
    """
    return dict(network="conv", channels=(32, 64), blocks=2, hidden=32, features=(512,), activation="relu", norm=False,
                likelihood="bernoulli", scale=1.0, decoder="factorised", pixelcnn_hidden=32, pixelcnn_layers=4)


class VectorEncoder(nn.Module):
    """Any network, flattened to one vector `[n out]`."""

    body: nn.Module | None
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x if self.body is None else self.body(x)
        h = h.reshape(h.shape[0], -1)
        return nn.Dense(self.out, dtype=self.dtype, name="head")(h).astype(jnp.float32)


class VectorDecoder(nn.Module):
    """A vector `[n d]` spread to a map `[n *shape]`, then a network."""

    body: nn.Module
    shape: tuple[int, ...]
    activation: Callable = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        h = nn.Dense(math.prod(self.shape), dtype=self.dtype, name="spread")(z)
        return self.body(self.activation(h).reshape(z.shape[0], *self.shape))


class Reshape(nn.Module):
    """An MLP between flattened inputs and outputs of a given shape, `[n *shape]`."""

    features: tuple[int, ...]
    shape: tuple[int, ...]
    activation: Callable = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sizes = (*self.features, math.prod(self.shape))
        h = MLP(sizes, activation=self.activation, dtype=self.dtype, name="mlp")(x.reshape(x.shape[0], -1))
        return h.reshape(x.shape[0], *self.shape)


def map_shape(model, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of the feature map of network 'conv' for images `(h, w, c)`.

    Raises:
      ValueError: for data that are not images, or sizes that the strides do not divide.
    """
    if len(shape) != 3:
        raise ValueError(f"model.network={model.network!r} needs images [n h w c], the data are [n "
                         f"{' '.join(map(str, shape))}]: use model.network='mlp'")
    factor = 2 ** len(model.channels)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(f"images of {shape[0]}x{shape[1]} cannot be halved {len(model.channels)} times: use fewer "
                         f"model.channels, or resize with data.size")
    return shape[0] // factor, shape[1] // factor


def activation(model) -> Callable:
    """The activation of that name.

    Raises:
      ValueError: for a name that is not there.
    """
    if model.activation not in ACTIVATIONS:
        raise ValueError(f"model.activation={model.activation!r} must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[model.activation]


def vector_encoder(model, shape: tuple[int, ...], out: int, dtype) -> nn.Module:
    """A module `x [n *shape] -> [n out]`, float32."""
    check_network(model)
    if model.network == "mlp":
        return Reshape(tuple(model.features), (out,), activation(model), dtype)
    if model.network == "mnist_conv":
        return VectorEncoder(MNISTConvEncoder(model.norm, dtype=dtype), out, dtype)
    map_shape(model, shape)
    body = ConvEncoder(tuple(model.channels), model.channels[-1], model.blocks, model.hidden, dtype=dtype)
    return VectorEncoder(body, out, dtype)


def vector_decoder(model, shape: tuple[int, ...], channels: int, dtype) -> nn.Module:
    """A module `z [n d] -> [n *shape[:-1] channels]`."""
    check_network(model)
    if model.network == "mlp":
        return Reshape(tuple(reversed(tuple(model.features))), (*shape[:-1], channels), activation(model), dtype)
    if model.network == "mnist_conv":
        return MNISTConvDecoder(channels, model.norm, dtype=dtype)
    small = (*map_shape(model, shape), model.channels[-1])
    return VectorDecoder(map_decoder(model, channels, dtype), small, activation(model), dtype)


def map_encoder(model, shape: tuple[int, ...], out: int, dtype) -> nn.Module:
    """A module `x [n h w c] -> [n h' w' out]`."""
    check_network(model, ("conv",))
    map_shape(model, shape)
    return ConvEncoder(tuple(model.channels), out, model.blocks, model.hidden, dtype=dtype)


def map_decoder(model, channels: int, dtype) -> nn.Module:
    """A module `z [n h' w' d] -> [n h w channels]`."""
    check_network(model, ("conv",))
    return ConvDecoder(tuple(reversed(tuple(model.channels))), channels, model.blocks, model.hidden, dtype=dtype)


def check_network(model, allowed: tuple[str, ...] = NETWORKS) -> None:
    """Raises ValueError for a network that the system cannot use."""
    if model.network not in allowed:
        hint = "; a map of codes needs 'conv', or set model.positions" if model.network in NETWORKS else ""
        raise ValueError(f"model.network={model.network!r} must be one of {', '.join(allowed)} here{hint}")


class Observation(NamedTuple):
    """p(x | z): a decoder with its likelihood. `params` below are the decoder's."""

    init: Callable[[Array, Array], PyTree]  # (key, z) -> params
    log_prob: Callable[[PyTree, Array, Array], Array]  # (params, z, x) -> [n] nats, summed over data dimensions
    mean: Callable[[PyTree, Array, Array], Array]  # (params, z, key) -> x_hat; the key serves 'pixelcnn'


class _PixelDecoder(nn.Module):
    """A feature map of z that conditions a PixelCNN over x."""

    body: nn.Module
    pixelcnn: nn.Module

    def __call__(self, z: Array, x: Array) -> Array:
        return self.pixelcnn(x, spatial=self.body(z))


def observation(model, shape: tuple[int, ...], decoder: Callable[[int], nn.Module], dtype,
                axis_name: str | None = None) -> Observation:
    """The observation model of `model.decoder` and `model.likelihood`.

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
    density = likelihood("gaussian" if square else model.likelihood, 1.0 if square else model.scale)
    channels = density.channels * shape[-1]

    def log_density(x, out):
        if square:
            return -0.5 * jnp.sum((x - out.astype(jnp.float32)) ** 2, axis=tuple(range(1, x.ndim)))
        if density.channels == 1:  # flat: XLA on CPU has no vector instructions for a last axis of one channel
            x, out = x.reshape(x.shape[0], -1), out.reshape(x.shape[0], -1)
        return density.log_prob(x, out)

    if model.decoder == "factorised":
        module = decoder(channels)
        return Observation(
            init=lambda key, z: module.init(key, z)["params"],
            log_prob=lambda params, z, x: log_density(x, module.apply({"params": params}, z)),
            mean=lambda params, z, key: density.mean(module.apply({"params": params}, z)))
    if model.decoder != "pixelcnn":
        raise ValueError(f"model.decoder={model.decoder!r} must be 'factorised' or 'pixelcnn'")
    if len(shape) != 3:
        raise ValueError("model.decoder='pixelcnn' needs images [n h w c]")
    net = PixelCNN(channels, model.pixelcnn_hidden, model.pixelcnn_layers, dtype=dtype, axis_name=axis_name)
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
