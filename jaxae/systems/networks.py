"""Encoders and observation models by config, shared by the systems."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxae.distributions import likelihood
from jaxae.nn import MLP, ConvDecoder, ConvEncoder, PixelCNN
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder
from jaxae.nn.resnet_v2 import ResNetV2Decoder, ResNetV2Encoder
from jaxae.nn.strided import StridedDecoder, StridedEncoder, leaky_relu
from jaxae.systems import sentence_networks
from jaxae.systems.observation import Observation

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "silu": nn.silu}
INITIALIZERS = {"lecun_normal": nn.initializers.lecun_normal(),
                "third_uniform": nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")}
NETWORKS = ("conv", "mlp", "mnist_conv", "resnet_v2", "dcgan", "unscented", "lstm")


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose the networks.

    `network`: 'conv' (strided 4x4 convolutions to `channels`, then `blocks` residual blocks), 'mlp' (`features`, whose
    weights start by `initializer`: 'lecun_normal' of variance 1 / inputs, or 'third_uniform' of a third of that),
    'mnist_conv' (128-256-512-1024, for 28x28 images; with group normalisation where `norm`), 'resnet_v2' (`blocks`
    pre-activation blocks before each halving, half as many in the decoder), 'dcgan' (4x4 convolutions to `channels`,
    then dense `features`), 'unscented' (3x3 convolutions to `channels`; the decoder starts from a map of 1/4 of the
    image's side and the last of `channels`, halved twice), or 'lstm' for sentences, with keys and a likelihood of its
    own (`sentence_networks`). `likelihood`: a name of `jaxae.distributions.likelihood`, with `scale` for the fixed
    Gaussian; systems may add 'mse'. `decoder`: 'factorised', or 'pixelcnn', whose pixels also see those before them,
    by `pixelcnn_layers` of kernels of side `pixelcnn_kernel`, after a first one of 7.
    """
    return dict(network="conv", channels=(32, 64), blocks=2, hidden=32, features=(512,), activation="relu", norm=False,
                initializer="lecun_normal", likelihood="bernoulli", scale=1.0, decoder="factorised",
                pixelcnn_hidden=32, pixelcnn_layers=4, pixelcnn_kernel=3) | sentence_networks.defaults()


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
    kernel_init: Callable = INITIALIZERS["lecun_normal"]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sizes = (*self.features, math.prod(self.shape))
        body = MLP(sizes, self.activation, self.dtype, kernel_init=self.kernel_init, name="mlp")
        h = body(x.reshape(x.shape[0], -1))
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


def _quarter(model, shape):
    if len(shape) != 3 or shape[0] % 4 or shape[1] % 4 or model.channels[-1] % 4:
        raise ValueError("model.network='unscented' needs images [n h w c] whose sides are multiples of 4, and a last "
                         "entry of model.channels that is one: resize with data.size")
    return shape[0] // 4, shape[1] // 4


def activation(model) -> Callable:
    """The activation of that name.

    Raises:
      ValueError: for a name that is not there.
    """
    if model.activation not in ACTIVATIONS:
        raise ValueError(f"model.activation={model.activation!r} must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[model.activation]


def _initializer(model) -> Callable:
    if model.initializer not in INITIALIZERS:
        raise ValueError(f"model.initializer={model.initializer!r} must be one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[model.initializer]


def vector_encoder(model, shape: tuple[int, ...], out: int, dtype) -> nn.Module:
    """A module `x [n *shape] -> [n out]`, float32."""
    check_network(model)
    if model.network == "mlp":
        return Reshape(tuple(model.features), (out,), activation(model), _initializer(model), dtype)
    if model.network == "mnist_conv":
        return VectorEncoder(MNISTConvEncoder(model.norm, dtype=dtype), out, dtype)
    if model.network == "lstm":
        return VectorEncoder(sentence_networks.encoder(model, shape, dtype), out, dtype)
    channels = tuple(model.channels)
    if model.network == "unscented":  # the map may shrink to one pixel before the last convolution
        _quarter(model, shape)
        return VectorEncoder(StridedEncoder(channels, 3, (), model.norm, leaky_relu, dtype), out, dtype)
    map_shape(model, shape)
    if model.network == "dcgan":
        body = StridedEncoder(channels, 4, tuple(model.features), model.norm, activation(model), dtype)
        return VectorEncoder(body, out, dtype)
    if model.network == "resnet_v2":
        return VectorEncoder(ResNetV2Encoder(channels, model.blocks, dtype), out, dtype)
    body = ConvEncoder(channels, channels[-1], model.blocks, model.hidden, dtype=dtype)
    return VectorEncoder(body, out, dtype)


def vector_decoder(model, shape: tuple[int, ...], channels: int, dtype) -> nn.Module:
    """A module `z [n d] -> [n *shape[:-1] channels]`; for 'lstm' what turns the state of a step into logits."""
    check_network(model)
    if model.network == "lstm":
        return nn.Dense(channels, dtype=dtype)
    if model.network == "mlp":
        return Reshape(tuple(reversed(tuple(model.features))), (*shape[:-1], channels), activation(model),
                       _initializer(model), dtype)
    if model.network == "mnist_conv":
        return MNISTConvDecoder(channels, model.norm, dtype=dtype)
    widths = tuple(reversed(tuple(model.channels)))
    if model.network == "unscented":
        small, halved = (*_quarter(model, shape), widths[0]), (widths[0] // 2, widths[0] // 4)
        return StridedDecoder(small, halved, channels, (), 1, model.norm, leaky_relu, dtype)
    small = (*map_shape(model, shape), widths[0])
    if model.network == "dcgan":
        return StridedDecoder(small, widths[1:], channels, tuple(reversed(tuple(model.features))), 2, model.norm,
                              activation(model), dtype)
    if model.network == "resnet_v2":  # its blocks begin with an activation
        return VectorDecoder(ResNetV2Decoder(widths, channels, model.blocks // 2, dtype), small, lambda h: h, dtype)
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
    if model.network == "lstm":
        return sentence_networks.observation(model, shape, decoder, dtype, axis_name)
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
