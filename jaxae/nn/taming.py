"""Residual networks with attention at low resolution: the encoder and decoder of VQGAN and of latent diffusion."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.attention import SelfAttention
from jaxae.nn.conv import Conv
from jaxae.nn.resnet import group_count
from jaxae.resizing import check_divisible


class TamingBlock(nn.Module):
    """`shortcut(x) + conv3x3(a(conv3x3(a(x))))`, a = SiLU after group normalisation: `[b h w c] -> [b h w features]`.

    The shortcut is x itself, or a 1x1 convolution where the channels change.

    Attributes:
      features: channels of the output.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: Esser, Rombach, Ommer, 'Taming transformers for high-resolution image synthesis', 2021, arXiv 2012.09841.
    """

    features: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = Conv(self.features, 3, dtype=self.dtype, name="conv0")(_activate(x, "norm0", self.dtype))
        y = Conv(self.features, 3, dtype=self.dtype, name="conv1")(_activate(y, "norm1", self.dtype))
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="shortcut")(x)
        return x + y


class MapAttention(nn.Module):
    """`x + attention(norm(x))` of all places to one another, with a single head: `[b h w c] -> [b h w c]`.

    Attributes:
      dtype: of the computation; None keeps the input's. Parameters are float32, and so is the softmax.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = nn.GroupNorm(group_count(x.shape[-1]), dtype=self.dtype, name="norm")(x)
        y = SelfAttention(1, dtype=self.dtype, name="attention")(y.reshape(x.shape[0], -1, x.shape[-1]))
        return x + y.reshape(x.shape)


class TamingEncoder(nn.Module):
    """Images to a feature map: `[b h w c] -> [b h/2^k w/2^k out]`, `k = len(channels) - 1`.

    A 3x3 convolution; at each resolution `blocks` residual blocks, each with attention after it where the map's height
    is among `attention_sizes`, and a 3x3 convolution of stride 2 to the next; a block, attention and a block at the
    lowest one; a 3x3 convolution to `z_channels`, and a 1x1 convolution to `out`.

    With channels 128, 128, 256, 256, 512, attention at 16 and 256 `z_channels` it is VQGAN's for 16 times smaller maps,
    with 29.3 million parameters before the 1x1 convolution; the decoder has 42.4 million.

    Attributes:
      channels: at each resolution, the image's first.
      out: channels of the feature map: the width of a code.
      blocks: residual blocks at each resolution.
      attention_sizes: heights of the maps that attend.
      height: of the images for which `attention_sizes` are meant; 0 for those that come. With it larger images are
        encoded by the same layers.
      z_channels: between the network and the 1x1 convolution; 0 for as many as `out`.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Raises:
      ValueError: height or width is not a multiple of 2^k.

    Reference: Esser, Rombach, Ommer, 2021, arXiv 2012.09841.
    """

    channels: Sequence[int]
    out: int
    blocks: int = 2
    attention_sizes: Sequence[int] = ()
    z_channels: int = 0
    dtype: Dtype | None = None
    height: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        check_divisible(x.shape[1:3], 2 ** (len(self.channels) - 1))
        height = self.height or x.shape[1]
        x = Conv(self.channels[0], 3, dtype=self.dtype, name="in")(x)
        for i, width in enumerate(self.channels):
            if i:  # of an even side 'SAME' pads one row and one column, at the end
                x = Conv(x.shape[-1], 3, 2, dtype=self.dtype, name=f"halve{i}")(x)
            x = _stack(self, x, width, self.blocks, f"block{i}", height // 2**i)
        x = _activate(_middle(self, x), "norm", self.dtype)
        x = Conv(self.z_channels or self.out, 3, dtype=self.dtype, name="out")(x)
        return Conv(self.out, 1, dtype=self.dtype, name="to_codes")(x)


class TamingDecoder(nn.Module):
    """A feature map to images, the mirror of `TamingEncoder`: `[b h w d] -> [b h*2^k w*2^k out]`, linear.

    A 1x1 convolution to `z_channels`; a 3x3 convolution; a block, attention and a block; at each resolution one
    residual block more than in the encoder, and to the next one nearest-neighbour upsampling and a 3x3 convolution. The
    last layer, a 3x3 convolution, is named `out`.

    Attributes:
      channels: at each resolution, the lowest first: `TamingEncoder`'s in reverse.
      out: channels of the image, or parameters per pixel.
      blocks, attention_sizes, height, dtype: as in `TamingEncoder`.
      z_channels: between the 1x1 convolution and the network; 0 for as many as there come in.

    Reference: Esser, Rombach, Ommer, 2021, arXiv 2012.09841.
    """

    channels: Sequence[int]
    out: int
    blocks: int = 2
    attention_sizes: Sequence[int] = ()
    z_channels: int = 0
    dtype: Dtype | None = None
    height: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b oh ow o"]:
        height = self.height or x.shape[1] * 2 ** (len(self.channels) - 1)
        x = Conv(self.z_channels or x.shape[-1], 1, dtype=self.dtype, name="from_codes")(x)
        x = Conv(self.channels[0], 3, dtype=self.dtype, name="in")(x)
        x = _middle(self, x)
        for i, width in enumerate(self.channels):
            if i:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = Conv(x.shape[-1], 3, dtype=self.dtype, name=f"double{i}")(x)
            x = _stack(self, x, width, self.blocks + 1, f"block{i}", height // 2 ** (len(self.channels) - 1 - i))
        return Conv(self.out, 3, dtype=self.dtype, name="out")(_activate(x, "norm", self.dtype))


def _stack(net, x, width, blocks, name, height):
    """The residual blocks of one resolution, at which maps of the trained size have this height."""
    for j in range(blocks):
        x = TamingBlock(width, net.dtype, name=f"{name}_{j}")(x)
        if height in tuple(net.attention_sizes):
            x = MapAttention(net.dtype, name=f"{name}_{j}_attention")(x)
    return x


def _middle(net, x):
    x = TamingBlock(x.shape[-1], net.dtype, name="middle0")(x)
    x = MapAttention(net.dtype, name="middle_attention")(x)
    return TamingBlock(x.shape[-1], net.dtype, name="middle1")(x)


def _activate(x, name, dtype):
    # Statistics in float32 whatever the dtype: flax's GroupNorm does so.
    return nn.silu(nn.GroupNorm(group_count(x.shape[-1]), dtype=dtype, name=name)(x))
