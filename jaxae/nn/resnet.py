"""Residual convolutional encoder and decoder: the bodies of VQ-VAE, and their vector-latent versions."""

from collections.abc import Sequence

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose
from jaxae.resizing import check_divisible


class ResidualBlock(nn.Module):
    """`x + conv1x1(relu(conv3x3(relu(x))))`: `[b h w channels] -> [b h w channels]`.

    Attributes:
      channels: channels in and out.
      hidden: channels between the two convolutions.
      norm: 'none', or 'group' for a group normalisation before each ReLU.
      dtype: of the computation; None keeps the input's.

    Reference: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning,
    arXiv:1711.00937, section 4.1.
    """

    channels: int
    hidden: int
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if x.shape[-1] != self.channels:
            raise ValueError(f"ResidualBlock(channels={self.channels}) got {x.shape[-1]} channels: the skip needs "
                             "the same number in and out.")
        y = nn.relu(_normalise(x, self.norm, "norm0", self.dtype))
        y = Conv(self.hidden, 3, dtype=self.dtype, name="conv0")(y)
        y = nn.relu(_normalise(y, self.norm, "norm1", self.dtype))
        return x + Conv(self.channels, 1, dtype=self.dtype, name="conv1")(y)


class ResidualStack(nn.Module):
    """`blocks` residual blocks, then a ReLU: `[b h w channels] -> [b h w channels]`.

    Attributes: as in `ResidualBlock`, and `blocks`, their number (0 leaves the ReLU).
    """

    channels: int
    hidden: int
    blocks: int = 2
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for i in range(self.blocks):
            x = ResidualBlock(self.channels, self.hidden, self.norm, self.dtype, name=f"block{i}")(x)
        return nn.relu(_normalise(x, self.norm, "norm", self.dtype))


class ConvEncoder(nn.Module):
    """Images to a feature map: `[b h w c] -> [b h/2^k w/2^k out]`, `k = len(channels)`.

    For every entry of `channels` a 4x4 convolution of stride 2 and a ReLU; residual blocks; a 1x1 convolution.

    Attributes:
      channels: after each halving of the image.
      out: channels of the feature map.
      blocks: residual blocks at the lowest resolution.
      hidden: channels inside a residual block.
      norm: 'none' or 'group', in the residual blocks.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Raises:
      ValueError: height or width is not a multiple of 2^k.

    Reference: van den Oord et al. 2017, arXiv:1711.00937, section 4.1.
    """

    channels: Sequence[int] = (32, 64)
    out: int = 64
    blocks: int = 2
    hidden: int = 32
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        check_divisible(x.shape[1:3], 2 ** len(self.channels))
        for i, width in enumerate(self.channels):
            x = nn.relu(Conv(width, 4, strides=2, dtype=self.dtype, name=f"down{i}")(x))
        x = ResidualStack(x.shape[-1], self.hidden, self.blocks, self.norm, self.dtype, name="residual")(x)
        return Conv(self.out, 1, dtype=self.dtype, name="out")(x)


class ConvDecoder(nn.Module):
    """A feature map to images, the mirror of `ConvEncoder`: `[b h w d] -> [b h*2^k w*2^k out]`, `k = len(channels)`.

    A 3x3 convolution; residual blocks; for every entry of `channels` a 4x4 transposed convolution of stride 2, with
    a ReLU between them. The output is linear: logits, or a mean.

    Attributes:
      channels: before each doubling of the image, so `ConvEncoder`'s in reverse.
      out: channels of the image, or parameters per pixel.
      blocks, hidden, norm, dtype: as in `ConvEncoder`.

    Reference: van den Oord et al. 2017, arXiv:1711.00937, section 4.1.
    """

    channels: Sequence[int] = (64, 32)
    out: int = 1
    blocks: int = 2
    hidden: int = 32
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b oh ow o"]:
        if not self.channels:
            raise ValueError("ConvDecoder: channels is empty: name the width before each doubling of the image.")
        x = Conv(self.channels[0], 3, dtype=self.dtype, name="in")(x)
        x = ResidualStack(self.channels[0], self.hidden, self.blocks, self.norm, self.dtype, name="residual")(x)
        for i, width in enumerate((*self.channels[1:], self.out)):
            x = nn.relu(x) if i else x  # the stack ends in a ReLU
            x = ConvTranspose(width, 4, strides=2, dtype=self.dtype, name=f"up{i}")(x)
        return x


class ImageEncoder(nn.Module):
    """Images to vectors: `ConvEncoder`, flattened, and a dense layer: `[b h w c] -> [b features]`.

    Attributes:
      features: size of the vector.
      channels, blocks, hidden, norm, dtype: as in `ConvEncoder`.
    """

    features: int
    channels: Sequence[int] = (32, 64)
    blocks: int = 2
    hidden: int = 32
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        x = ConvEncoder(self.channels, self.channels[-1], self.blocks, self.hidden, self.norm, self.dtype,
                        name="conv")(x)
        return nn.Dense(self.features, dtype=self.dtype, name="out")(nn.relu(x).reshape(x.shape[0], -1))


class ImageDecoder(nn.Module):
    """Vectors to images: a dense layer, then `ConvDecoder`: `[b d] -> [b h w c]`.

    Attributes:
      shape: `(h, w, c)` of the image; h and w multiples of `2^len(channels)`.
      channels, blocks, hidden, norm, dtype: as in `ConvDecoder`.
    """

    shape: Sequence[int]
    channels: Sequence[int] = (64, 32)
    blocks: int = 2
    hidden: int = 32
    norm: str = "none"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        height, width, out = self.shape
        factor = 2 ** len(self.channels)
        check_divisible((height, width), factor)
        size = (height // factor, width // factor, self.channels[0])
        x = nn.relu(nn.Dense(size[0] * size[1] * size[2], dtype=self.dtype, name="in")(z))
        return ConvDecoder(self.channels, out, self.blocks, self.hidden, self.norm, self.dtype,
                           name="conv")(x.reshape(-1, *size))


def _normalise(x, norm, name, dtype):
    if norm == "none":
        return x
    if norm != "group":
        raise ValueError(f"norm must be 'none' or 'group', got {norm!r}.")
    # Statistics in float32 whatever the dtype: flax's GroupNorm does so.
    return nn.GroupNorm(group_count(x.shape[-1]), dtype=dtype, name=name)(x)


def group_count(channels: int) -> int:
    """Groups of a group normalisation: 32, or the largest smaller power of two with two channels or more in a group.

    >>> group_count(128), group_count(24), group_count(3)
    (32, 8, 1)
    """
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels >= 2 * g or g == 1)
