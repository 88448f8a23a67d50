"""Pairs of 3x3 convolutions with average pooling, and the mirror with nearest-neighbour upsampling."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv


def leaky_relu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)


class PooledEncoder(nn.Module):
    """Images to a vector: for every entry of `channels` two 3x3 convolutions and a 2x2 average; then dense layers
    with ReLU: `[b h w c] -> [b features[-1]]`.

    Attributes:
      channels: of each pair of convolutions; an image of odd side is halved upwards, its edge repeated.
      features: widths of the dense layers.
      activation: after every convolution.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: the network of Kolouri, Pope, Martin and Rohde, Sliced-Wasserstein autoencoder, 2018, arXiv 1804.01947
    (published code).
    """

    channels: Sequence[int]
    features: Sequence[int] = (128,)
    activation: Callable[[Array], Array] = leaky_relu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        for i, width in enumerate(self.channels):
            x = _pair(x, width, i, self.activation, self.dtype)
            h, w = x.shape[1:3]
            x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.features):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(x))
        return x


class PooledDecoder(nn.Module):
    """A vector to images, the mirror of `PooledEncoder`: dense layers with ReLU to a map, then for every entry of
    `channels` a doubling and two 3x3 convolutions, and a last 3x3 convolution: `[b d] -> [b h w out]`, linear.

    Attributes:
      shape: `(h, w)` of the image; where halving rounded up, a doubled map is cut to the size that it had.
      channels: of each pair of convolutions.
      out: channels of the image, or parameters per pixel.
      features: widths of the dense layers before the map.
      activation, dtype: as in `PooledEncoder`.
    """

    shape: tuple[int, int]
    channels: Sequence[int]
    out: int
    features: Sequence[int] = (128,)
    activation: Callable[[Array], Array] = leaky_relu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w out"]:
        sizes = [tuple(self.shape)]
        for _ in self.channels:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        *larger, small = sizes
        for i, width in enumerate((*self.features, math.prod(small) * self.channels[0])):
            z = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(z))
        x = z.reshape(-1, *small, self.channels[0])
        for i, (width, (h, w)) in enumerate(zip(self.channels, reversed(larger), strict=True)):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :h, :w]
            x = _pair(x, width, i, self.activation, self.dtype)
        return Conv(self.out, 3, dtype=self.dtype, name="out")(x)


def _pair(x, width, i, activation, dtype):
    for name in ("a", "b"):
        x = activation(Conv(width, 3, dtype=dtype, name=f"conv{i}{name}")(x))
    return x
