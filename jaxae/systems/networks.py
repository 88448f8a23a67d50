"""Encoders and observation models by config, shared by the systems."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxae.nn import MLP, ConvDecoder, ConvEncoder
from jaxae.nn.mnist_conv import MNISTConvDecoder, MNISTConvEncoder
from jaxae.nn.pooled import PooledDecoder, PooledEncoder
from jaxae.nn.resnet_v2 import ResNetV2Decoder, ResNetV2Encoder
from jaxae.nn.strided import StridedDecoder, StridedEncoder, leaky_relu
from jaxae.nn.style import InstanceNormEncoder, StyleDecoder
from jaxae.nn.taming import TamingDecoder, TamingEncoder
from jaxae.nn.waveform import WaveformDecoder, WaveformEncoder, hop_of
from jaxae.systems import sentence_networks
from jaxae.systems.observation import Observation
from jaxae.systems.pixels import pixel_observation

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "silu": nn.silu}
INITIALIZERS = {"lecun_normal": nn.initializers.lecun_normal(),
                "third_uniform": nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")}
NETWORKS = ("conv", "mlp", "mnist_conv", "resnet_v2", "dcgan", "wae", "unscented", "pooled", "style", "lstm", "taming",
            "waveform")
MAPS = ("conv", "taming", "waveform")  # those that have maps of features as outputs and inputs


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose the networks.

    `network`: 'conv' (strided 4x4 convolutions to `channels`, then `blocks` residual blocks), 'mlp' (`features`,
    whose weights start by `initializer`: 'lecun_normal' of variance 1 / inputs, or 'third_uniform' of a third of
    that), 'mnist_conv' (128-256-512-1024, for 28x28 images; with group normalisation where `norm`), 'resnet_v2'
    (`blocks` pre-activation blocks before each halving, half as many in the decoder; with `dropout`), 'dcgan' (4x4
    convolutions to `channels`, then dense `features`), 'wae' (5x5 convolutions to `channels`, one doubling less in
    the decoder), 'unscented' (3x3 convolutions to `channels`; the decoder starts from a map of 1/4 of the image's
    side and the last of `channels`, halved twice), 'pooled' (two 3x3 convolutions and a pooling for each of
    `channels`, then dense `features`), 'style' (`blocks` 3x3 convolutions before each halving to `channels`, with
    instance normalisation, then dense `features`; the decoder's maps take their scales and shifts from the latent),
    'taming' (VQGAN's: `blocks` residual blocks of as many channels as `channels` says at each resolution, the image's
    first, so that it is halved once less than there are; attention where a map's height is among `attention_sizes`;
    `z_channels` before the 1x1 convolution to a map's channels, 0 for as many), 'waveform' (Jukebox's, for waveforms
    [n t 1]: levels of convolutions with these `strides`, each followed by `blocks` residual blocks of `hidden` channels
    and of dilations 1, g, g^2, ... for g = `dilation_growth`; `z_channels` between levels, 0 for as many), or 'lstm'
    for sentences, with keys and a likelihood of its own (`sentence_networks`).

    `likelihood`: a name of `jaxae.distributions.likelihood`, with `scale` for the fixed Gaussian and `grey_levels` for
    the discretized logistic; systems may add 'mse'. `decoder`: 'factorised', or 'pixelcnn', whose pixels also see those
    before them, by `pixelcnn_layers` of kernels of side `pixelcnn_kernel`, after a first one of 7.
    """
    return dict(network="conv", channels=(32, 64), blocks=2, hidden=32, features=(512,), activation="relu", norm=False,
                dropout=0.0, initializer="lecun_normal", attention_sizes=(), z_channels=0,
                strides=((2, 2, 2), (2, 2), (2, 2)), dilation_growth=3, likelihood="bernoulli", scale=1.0,
                grey_levels=256, decoder="factorised", pixelcnn_hidden=32,
                pixelcnn_layers=4, pixelcnn_kernel=3) | sentence_networks.defaults()


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
    """Height and width of the feature map of a network of `MAPS` for images `(h, w, c)`, or its length for waveforms.

    Raises:
      ValueError: for data that are not images or waveforms, or sizes that the strides do not divide.
    """
    if model.network == "waveform":
        hop = hop_of(model.strides)
        if len(shape) != 2 or shape[0] % hop:
            raise ValueError(f"model.network='waveform' needs waveforms [n t 1] with t a multiple of {hop}, the "
                             f"product of model.strides; the data are [n {' '.join(map(str, shape))}]: set data.length")
        return (shape[0] // hop,)
    if len(shape) != 3:
        raise ValueError(f"model.network={model.network!r} needs images [n h w c], the data are [n "
                         f"{' '.join(map(str, shape))}]: use model.network='mlp'")
    times = len(model.channels) - (model.network == "taming")
    factor = 2 ** times
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(f"images of {shape[0]}x{shape[1]} cannot be halved {times} times: use fewer model.channels, "
                         f"or resize with data.size")
    return shape[0] // factor, shape[1] // factor


def _smaller(model, shape, factor: int) -> tuple[int, int]:
    """Height and width of a map that a decoder starts from."""
    last = model.channels[-1]
    if len(shape) != 3 or shape[0] % factor or shape[1] % factor or (model.network == "unscented" and last % 4):
        raise ValueError(f"model.network={model.network!r} needs images [n h w c] whose sides are multiples of {factor}"
                         f", and 'unscented' a last entry of model.channels that is one of 4: resize with data.size")
    return shape[0] // factor, shape[1] // factor


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


def vector_encoder(model, shape: tuple[int, ...], out: int, dtype, axis_name: str | None = None) -> nn.Module:
    """A module `x [n *shape] -> [n out]`, float32."""
    check_network(model)
    channels, features, kind = tuple(model.channels), tuple(model.features), model.network
    if kind == "mlp":
        return Reshape(features, (out,), activation(model), _initializer(model), dtype)
    if kind == "mnist_conv":
        body = MNISTConvEncoder(model.norm, dtype=dtype)
    elif kind == "lstm":
        body = sentence_networks.encoder(model, shape, dtype)
    elif kind == "pooled":
        body = PooledEncoder(channels, features, dtype=dtype)
    elif kind == "style":
        map_shape(model, shape)
        body = InstanceNormEncoder(channels, features, model.blocks, dtype)
    elif kind == "unscented":  # the map may shrink to one pixel before the last convolution
        _smaller(model, shape, 4)
        body = StridedEncoder(channels, 3, (), model.norm, leaky_relu, dtype)
    else:
        map_shape(model, shape)
        if kind == "dcgan":
            body = StridedEncoder(channels, 4, features, model.norm, activation(model), dtype)
        elif kind == "wae":
            body = StridedEncoder(channels, 5, (), model.norm, activation(model), dtype)
        elif kind == "resnet_v2":
            body = ResNetV2Encoder(channels, model.blocks, model.dropout, axis_name, dtype)
        else:
            body = map_encoder(model, shape, channels[-1], dtype)
    return VectorEncoder(body, out, dtype)


def vector_decoder(model, shape: tuple[int, ...], channels: int, dtype, axis_name: str | None = None) -> nn.Module:
    """A module `z [n d] -> [n *shape[:-1] channels]`; for 'lstm' what turns the state of a step into logits."""
    check_network(model)
    widths, features, kind = tuple(reversed(model.channels)), tuple(reversed(model.features)), model.network
    if kind == "lstm":
        return nn.Dense(channels, dtype=dtype)
    if kind == "mlp":
        return Reshape(features, (*shape[:-1], channels), activation(model), _initializer(model), dtype)
    if kind == "mnist_conv":
        return MNISTConvDecoder(channels, model.norm, dtype=dtype)
    if kind == "pooled":
        return PooledDecoder(shape[:2], widths, channels, features, dtype=dtype)
    if kind == "style":
        return StyleDecoder(map_shape(model, shape), widths, channels, tuple(model.features), model.blocks, dtype)
    if kind == "unscented":
        small, halved = (*_smaller(model, shape, 4), widths[0]), (widths[0] // 2, widths[0] // 4)
        return StridedDecoder(small, halved, channels, (), 4, (1, 3), False, model.norm, leaky_relu, dtype)
    if kind == "wae":
        small = (*_smaller(model, shape, 2 ** (len(widths) - 1)), widths[0])
        return StridedDecoder(small, widths[1:], channels, (), 5, (1, 5), True, model.norm, activation(model), dtype)
    small = (*map_shape(model, shape), widths[0])
    if kind == "dcgan":
        return StridedDecoder(small, widths[1:], channels, features, 4, (2, 4), bool(features), model.norm,
                              activation(model), dtype)
    if kind == "resnet_v2":  # its blocks begin with an activation
        body = ResNetV2Decoder(widths, channels, model.blocks // 2, model.dropout, axis_name, dtype)
        return VectorDecoder(body, small, lambda h: h, dtype)
    return VectorDecoder(map_decoder(model, channels, dtype), small, activation(model), dtype)


def map_encoder(model, shape: tuple[int, ...], out: int, dtype) -> nn.Module:
    """A module `x [n h w c] -> [n h' w' out]`, or `[n t c] -> [n t' out]` for waveforms."""
    check_network(model, MAPS)
    map_shape(model, shape)
    if model.network == "waveform":
        return WaveformEncoder(model.strides, model.hidden, model.z_channels or out, out, model.blocks,
                               model.dilation_growth, dtype)
    if model.network == "taming":
        return TamingEncoder(tuple(model.channels), out, model.blocks, tuple(model.attention_sizes), model.z_channels,
                             dtype, shape[0])
    return ConvEncoder(tuple(model.channels), out, model.blocks, model.hidden, dtype=dtype)


def map_decoder(model, channels: int, dtype, height: int = 0) -> nn.Module:
    """A module `z [n h' w' d] -> [n h w channels]`, whose last layer is named as `last_layer` says; `height` of the
    images it is trained on lets it decode larger maps by the same layers."""
    check_network(model, MAPS)
    if model.network == "waveform":
        return WaveformDecoder(channels, model.strides, model.hidden, model.z_channels or model.width, model.blocks,
                               model.dilation_growth, dtype)
    widths = tuple(reversed(tuple(model.channels)))
    if model.network == "taming":
        return TamingDecoder(widths, channels, model.blocks, tuple(model.attention_sizes), model.z_channels, dtype,
                             height)
    return ConvDecoder(widths, channels, model.blocks, model.hidden, dtype=dtype)


def last_layer(model) -> str:
    """The name of the last convolution of `map_decoder`, whose `kernel` gives the pixels."""
    return "out" if model.network in ("taming", "waveform") else f"up{len(model.channels) - 1}"


def check_network(model, allowed: tuple[str, ...] = NETWORKS) -> None:
    """Raises ValueError for a network that the system cannot use."""
    if model.network not in allowed:
        hint = "; a map of codes needs 'conv' or 'taming', of sounds 'waveform', or set model.positions" \
            if model.network in NETWORKS else ""
        raise ValueError(f"model.network={model.network!r} must be one of {', '.join(allowed)} here{hint}")
    if model.dropout and model.network != "resnet_v2":
        raise ValueError(f"model.dropout={model.dropout} is for model.network='resnet_v2': set it to 0")


def observation(model, shape: tuple[int, ...], decoder: Callable[[int], nn.Module], dtype,
                axis_name: str | None = None) -> Observation:
    """The observation model of the config: of sentences for 'lstm', else of pixels."""
    build = sentence_networks.observation if model.network == "lstm" else pixel_observation
    return build(model, shape, decoder, dtype, axis_name)
