"""Convolutional encoder and decoder of waveforms: strided one-dimensional convolutions and dilated residual blocks."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose

Levels = Sequence[Sequence[int]]


def hop_of(levels: Levels) -> int:
    """Samples of a waveform for each vector of the map: the product of all strides.

    >>> hop_of(((2, 2, 2), (2, 2), (2, 2)))
    128
    """
    return math.prod(stride for level in levels for stride in level)


def dilated(x: Float[Array, "b t c"], dilation: int) -> Float[Array, "b s d c"]:
    """Time cut into columns of samples that are `dilation` apart, with zeros at the end: `[b t c] -> [b s d c]`.

    A convolution down the columns, of kernel (k, 1), is the dilated one: no kernel with holes is needed.

    >>> dilated(jnp.arange(5.0).reshape(1, 5, 1), 3)[0, :, :, 0].tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]]
    """
    b, t, c = x.shape
    rows = -(-t // dilation)
    return jnp.pad(x, ((0, 0), (0, rows * dilation - t), (0, 0))).reshape(b, rows, dilation, c)


class DilatedBlock(nn.Module):
    """`x + conv1(relu(conv3(relu(x))))`, the convolution of three with holes: `[b t c] -> [b t c]`.

    Attributes:
      hidden: channels between the two convolutions.
      dilation: distance of the taps of the first, in samples.
      dtype: of the computation; None keeps the input's.

    Reference: Dhariwal et al. 2020, arXiv 2005.00341.
    """

    hidden: int
    dilation: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        y = Conv(self.hidden, (3, 1), dtype=self.dtype, name="conv0")(dilated(nn.relu(x), self.dilation))
        y = Conv(x.shape[-1], 1, dtype=self.dtype, name="conv1")(nn.relu(y))
        return x + y.reshape(x.shape[0], -1, x.shape[-1])[:, :x.shape[1]]


class WaveformEncoder(nn.Module):
    """Waveforms to a row of vectors: `[b t c] -> [b t/hop out]`.

    Each level is, for each of its strides s, a convolution of kernel 2 s and stride s and `blocks` residual blocks of
    dilations 1, g, g^2, ..., and at its end a convolution of kernel 3.

    Attributes:
      levels: the strides of each level; their product is the hop.
      width: channels within a level.
      between: channels at the end of a level.
      out: channels at the end of the last one.
      blocks: residual blocks after each strided convolution.
      growth: g.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Raises:
      ValueError: a length that is not a multiple of the hop.

    Reference: Dhariwal et al. 2020, arXiv 2005.00341; the levels ((2, 2, 2), (2, 2), (2, 2)) are its top level.
    """

    levels: Levels = ((2, 2, 2), (2, 2), (2, 2))
    width: int = 32
    between: int = 64
    out: int = 64
    blocks: int = 4
    growth: int = 3
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b s o"]:
        if x.shape[1] % hop_of(self.levels):
            raise ValueError(f"waveforms of {x.shape[1]} samples are no multiple of the hop {hop_of(self.levels)}: cut "
                             "them, or take other strides")
        for i, level in enumerate(self.levels):
            for j, stride in enumerate(level):
                x = _resampled(Conv, x, self.width, stride, self.dtype, f"down{i}_{j}")
                for k in range(self.blocks):
                    x = DilatedBlock(self.width, self.growth**k, self.dtype, name=f"block{i}_{j}_{k}")(x)
            last = i == len(self.levels) - 1
            x = _row(x, self.out if last else self.between, self.dtype, f"out{i}")
        return x


class WaveformDecoder(nn.Module):
    """A row of vectors to waveforms, the mirror of `WaveformEncoder`: `[b s d] -> [b s*hop out]`.

    The levels from the last to the first, each a convolution of kernel 3 and, for each of its strides, the residual
    blocks in reverse and a transposed convolution; a convolution of kernel 3 at the end. The output is linear.

    Attributes:
      out: channels of the waveform, or parameters for each sample.
      levels, width, between, blocks, growth, dtype: as in `WaveformEncoder`.

    Reference: Dhariwal et al. 2020, arXiv 2005.00341.
    """

    out: int = 1
    levels: Levels = ((2, 2, 2), (2, 2), (2, 2))
    width: int = 32
    between: int = 64
    blocks: int = 4
    growth: int = 3
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b t o"]:
        for i, level in reversed([*enumerate(self.levels)]):
            x = _row(x, self.width, self.dtype, f"in{i}")
            for j, stride in reversed([*enumerate(level)]):
                for k in reversed(range(self.blocks)):
                    x = DilatedBlock(self.width, self.growth**k, self.dtype, name=f"block{i}_{j}_{k}")(x)
                x = _resampled(ConvTranspose, x, self.between if j == 0 else self.width, stride, self.dtype,
                               f"up{i}_{j}")
        return _row(x, self.out, self.dtype, "out")


def _resampled(conv, x, width, stride, dtype, name):
    """Kernel 2 s, stride s, and so much padding that lengths are divided or multiplied by s exactly."""
    low = stride // 2
    pads = ((low, stride - low), (0, 0))
    return conv(width, (2 * stride, 1), (stride, 1), pads, dtype=dtype, name=name)(x[:, :, None])[:, :, 0]


def _row(x, width, dtype, name):
    return Conv(width, (3, 1), dtype=dtype, name=name)(x[:, :, None])[:, :, 0]
