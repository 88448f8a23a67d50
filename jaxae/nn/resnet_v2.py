"""Residual networks with activations before the convolutions (ResNetV2): image to vector's map, and back."""

import math
from collections.abc import Sequence

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose
from jaxae.nn.dropout import dropout
from jaxae.resizing import check_divisible


class PreActivationBlock(nn.Module):
    """`shortcut(x) + conv1x1(a(conv3x3(a(conv3x3(a(x))))))`, a = ReLU after group normalisation: `[b h w c] ->
    [b h/s w/s channels]`.

    Groups of 4 channels take the place of the published batch normalisation. The shortcut is x itself, or, where
    the stride is not 1, a 1x1 convolution of a(x).

    Attributes:
      channels: of the output.
      strides: of the last convolution and of the shortcut.
      dropout: rate before the last convolution, active where there is an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread, for dropout's noise.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: He, Zhang, Ren and Sun, 'Identity mappings in deep residual networks', 2016, arXiv 1603.05027.
    """

    channels: int
    strides: int = 1
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        y = Conv(self.channels, 3, dtype=self.dtype, name="conv0")(_activate(x, "norm0", self.dtype))
        y = Conv(self.channels, 3, dtype=self.dtype, name="conv1")(_activate(y, "norm1", self.dtype))
        y = _drop(self, _activate(y, "norm2", self.dtype))
        y = Conv(self.channels, 1, self.strides, dtype=self.dtype, name="conv2")(y)
        if self.strides == 1 and x.shape[-1] == self.channels:
            return x + y
        x = _activate(x, "norm", self.dtype)
        return y + Conv(self.channels, 1, self.strides, dtype=self.dtype, name="shortcut")(x)


class PreActivationUpBlock(nn.Module):
    """The sum of a 1x1 and a transposed 3x3 convolution, and a transposed 3x3 shortcut, stride 2: `[b h w c] ->
    [b 2h 2w channels]`. Attributes as in `PreActivationBlock`."""

    channels: int
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        y = Conv(self.channels, 1, dtype=self.dtype, name="conv0")(_activate(x, "norm0", self.dtype))
        y = _drop(self, _activate(y, "norm1", self.dtype))
        y = ConvTranspose(self.channels, 3, 2, dtype=self.dtype, name="conv1")(y)
        x = _activate(x, "norm", self.dtype)
        return y + ConvTranspose(self.channels, 3, 2, dtype=self.dtype, name="shortcut")(x)


class ResNetV2Encoder(nn.Module):
    """Images to a feature map: `[b h w c] -> [b h/2^k w/2^k channels[-1]]`, `k = len(channels)`.

    A 3x3 convolution; for every entry of `channels`, `blocks` residual blocks and one that halves the image.

    Attributes:
      channels: after each halving.
      blocks: residual blocks before each.
      dropout, axis_name: of every block.
      dtype: of the computation; None keeps the input's.

    Raises:
      ValueError: height or width is not a multiple of 2^k.

    Reference: the networks of Rivera, 'How to train your VAE', 2023, arXiv 2309.13160 (published code).
    """

    channels: Sequence[int]
    blocks: int = 2
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        check_divisible(x.shape[1:3], 2 ** len(self.channels))
        x = Conv(self.channels[0], 3, dtype=self.dtype, name="in")(x)
        rest = (self.dropout, self.axis_name, self.dtype)
        for i, width in enumerate(self.channels):
            for j in range(self.blocks):
                x = PreActivationBlock(x.shape[-1], 1, *rest, name=f"block{i}_{j}")(x)
            x = PreActivationBlock(width, 2, *rest, name=f"down{i}")(x)
        return _activate(x, "norm", self.dtype)


class ResNetV2Decoder(nn.Module):
    """A feature map to images, the mirror of `ResNetV2Encoder`: `[b h w d] -> [b h*2^k w*2^k out]`.

    The output is linear: logits, or a mean.

    Attributes:
      channels: before each doubling of the image.
      out: channels of the image, or parameters per pixel.
      blocks: residual blocks before each doubling; the published decoder has 1 where its encoder has 2.
      dropout, axis_name: of every block.
      dtype: of the computation; None keeps the input's.
    """

    channels: Sequence[int]
    out: int
    blocks: int = 1
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b oh ow o"]:
        x = Conv(self.channels[0], 3, dtype=self.dtype, name="in")(x)
        rest = (self.dropout, self.axis_name, self.dtype)
        for i, width in enumerate((*self.channels[1:], self.channels[-1])):
            for j in range(self.blocks):
                x = PreActivationBlock(x.shape[-1], 1, *rest, name=f"block{i}_{j}")(x)
            x = PreActivationUpBlock(width, *rest, name=f"up{i}")(x)
        return Conv(self.out, 1, dtype=self.dtype, name="out")(_activate(x, "norm", self.dtype))


def _drop(block, x):
    if not block.dropout or not block.has_rng("dropout"):
        return x
    return dropout(x, block.dropout, block.make_rng("dropout"), block.axis_name)


def _activate(x, name, dtype):
    return nn.relu(nn.GroupNorm(None, group_size=math.gcd(x.shape[-1], 4), dtype=dtype, name=name)(x))
