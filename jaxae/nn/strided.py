"""Plain strided convolutions with dense layers, as in DCGAN: image to vector, and back."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose


def leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.01."""
    return nn.leaky_relu(x, 0.01)


class StridedEncoder(nn.Module):
    """Images to a vector: convolutions of stride 2, flattened, then dense layers: `[b h w c] -> [b f]`.

    Attributes:
      channels: of each convolution; an image of odd side is halved upwards.
      kernel: side of the kernels.
      features: widths of the dense layers.
      norm: a group normalisation (groups of 4 channels) before each activation of a convolution.
      activation: after every layer.
      dtype: of the computation; None keeps the input's. Parameters are float32.
    """

    channels: Sequence[int]
    kernel: int = 4
    features: Sequence[int] = ()
    norm: bool = False
    activation: Callable[[Array], Array] = nn.relu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        for i, width in enumerate(self.channels):
            x = Conv(width, self.kernel, 2, dtype=self.dtype, name=f"conv{i}")(x)
            x = self.activation(_normalise(x, f"norm{i}", self.dtype) if self.norm else x)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.features):
            x = self.activation(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(x))
        return x


class StridedDecoder(nn.Module):
    """A vector to images: dense layers to a map, then transposed convolutions of stride 2: `[b d] ->
    [b h*2^k w*2^k out]`, linear.

    Attributes:
      shape: `(h, w, c)` of the map.
      channels: of the transposed convolutions between the map and the image.
      out: channels of the image, or parameters per pixel.
      features: widths of the dense layers before the map.
      kernel: side of the kernels.
      last: stride and side of the kernel of the last convolution.
      activate_map: whether an activation follows the map.
      norm, activation, dtype: as in `StridedEncoder`.
    """

    shape: Sequence[int]
    channels: Sequence[int]
    out: int
    features: Sequence[int] = ()
    kernel: int = 4
    last: tuple[int, int] = (2, 4)
    activate_map: bool = True
    norm: bool = False
    activation: Callable[[Array], Array] = nn.relu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b oh ow o"]:
        for i, width in enumerate(self.features):
            z = self.activation(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(z))
        x = nn.Dense(math.prod(self.shape), dtype=self.dtype, name="map")(z).reshape(-1, *self.shape)
        x = self.activation(x) if self.activate_map else x
        for i, width in enumerate(self.channels):
            x = ConvTranspose(width, self.kernel, 2, dtype=self.dtype, name=f"conv{i}")(x)
            x = self.activation(_normalise(x, f"norm{i}", self.dtype) if self.norm else x)
        stride, side = self.last
        return ConvTranspose(self.out, side, stride, dtype=self.dtype, name="out")(x)


def _normalise(x, name, dtype):
    return nn.GroupNorm(None, group_size=math.gcd(x.shape[-1], 4), dtype=dtype, name=name)(x)
