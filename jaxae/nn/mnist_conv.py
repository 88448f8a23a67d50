"""The four-layer convolutional network for 28x28 images that benchmarks of autoencoders use."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose

_CHANNELS = (128, 256, 512, 1024)


class MNISTConvEncoder(nn.Module):
    """Images `[n 28 28 c] -> [n 1024]`: four 4x4 convolutions, stride 2, padding 1, ReLU: 14, 7, 3, 1 pixels.

    The layers of the convolutional MNIST encoder in pythae's benchmark (Chadebec, Vincent and Allassonniere 2022,
    arXiv 2206.08309), without its batch normalisation; `norm` puts a group normalisation in its place.
    """

    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n f"]:
        if x.shape[1:3] != (28, 28):
            raise ValueError(f"network 'mnist_conv' is for 28x28 images, not {x.shape[1]}x{x.shape[2]}: use 'conv'")
        for i, channels in enumerate(_CHANNELS):
            x = Conv(channels, 4, 2, padding=((1, 1), (1, 1)), dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.GroupNorm(32, dtype=self.dtype, name=f"norm{i}")(x) if self.norm else x
            x = nn.relu(x)
        return x.reshape(x.shape[0], -1)


class MNISTConvDecoder(nn.Module):
    """Vectors `[n d] -> [n 28 28 channels]`: 4x4x1024, then 3x3 transposed convolutions to 7, 14 and 28 pixels."""

    channels: int = 1
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "n d"]) -> Float[Array, "n 28 28 c"]:
        x = nn.Dense(4 * 4 * 1024, dtype=self.dtype, name="spread")(z).reshape(-1, 4, 4, 1024)
        for i, (channels, extra) in enumerate(((512, 0), (256, 1), (self.channels, 1))):
            crop = (1, 1 - extra)  # padding 1 and output_padding `extra` of PyTorch
            x = ConvTranspose(channels, 3, 2, padding=(crop, crop), dtype=self.dtype, name=f"conv{i}")(x)
            if i < 2:
                x = nn.GroupNorm(32, dtype=self.dtype, name=f"norm{i}")(x) if self.norm else x
                x = nn.relu(x)
        return x
