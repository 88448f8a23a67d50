"""U-Nets whose every block sees the input, that may begin or end below the full resolution."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv
from jaxae.resizing import check_divisible, double, halve


def halvings(size: tuple[int, int], smallest: int = 8) -> int:
    """How often a map of that height and width can be halved exactly with no side below `smallest`.

    >>> halvings((32, 32)), halvings((28, 28), 7), halvings((14, 14))
    (2, 2, 0)
    """
    times = 0
    while all(n % 2 == 0 and n // 2 >= smallest for n in size):
        size, times = (size[0] // 2, size[1] // 2), times + 1
    return times


def positions(size: tuple[int, int], octaves: int) -> Float[np.ndarray, "h w p"]:
    """sin and cos of 2^i times the row and the column in [0, 1), i < octaves: p = 4 octaves channels."""
    place = np.stack(np.meshgrid(*(np.arange(n) / n for n in size), indexing="ij"), -1)  # [h w 2]
    angles = place[..., None] * 2.0 ** np.arange(octaves)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).reshape(*size, -1).astype(np.float32)


class ConditionedBlock(nn.Module):
    """`conv1x1(x) + conv3x3(a(conv3x3(a(x + conv1x1(condition)))))`, a = SiLU after group normalisation
    (8 channels a group): `[b h w c], [b h w m] -> [b h w features]`.

    Attributes:
      features: channels of the output.
      hidden: channels between the two convolutions; 0 for as many as `features`.
      dtype: of the computation; None keeps the input's. Parameters are float32.
    """

    features: int
    hidden: int = 0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], condition: Float[Array, "b h w m"]) -> Float[Array, "b h w o"]:
        hidden = self.hidden or self.features
        shortcut = Conv(self.features, 1, use_bias=False, dtype=self.dtype, name="shortcut")(x)
        x = x + Conv(x.shape[-1], 1, use_bias=False, dtype=self.dtype, name="condition")(condition)
        x = Conv(hidden, 3, dtype=self.dtype, name="conv0")(_activate(x, "norm0", self.dtype))
        return shortcut + Conv(self.features, 3, dtype=self.dtype, name="conv1")(_activate(x, "norm1", self.dtype))


class UNet(nn.Module):
    """Maps to maps: `[b h w c] -> [b h' w' out]`, down `levels` halvings and up again.

    Level i has 1/2^i of the image's height and width, and min(channels 2^i, most) channels. On the way down a 3x3
    convolution and `blocks` residual blocks at each level from `begin` on, then a halving; on the way up a doubling,
    `blocks` residual blocks and a 3x3 convolution at each level back to `end`. The input, resized, is a condition of
    every block: it takes the place of connections across the U. A linear 3x3 convolution of the resized input is
    added before the last one.

    With `end` = f it is an encoder to maps of 1/2^f of the image; with `begin` = f, given such maps, the decoder.

    Attributes:
      out: channels of the output.
      levels: halvings between the full size and the smallest map; `halvings` counts those that a size allows.
      channels: at level 0.
      most: channels at any level.
      blocks: residual blocks at each level, on each way.
      begin, end: level of the input and of the output.
      octaves: of the `positions` that the condition holds beside the input; 0 for none.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Raises:
      ValueError: height or width cannot be halved so often; begin or end are not among the levels.

    Reference: Ronneberger, Fischer and Brox, 'U-Net: convolutional networks for biomedical image segmentation', 2015,
    arXiv 1505.04597; in this form Elsner et al., 2024, arXiv 2407.11913.
    """

    out: int
    levels: int
    channels: int = 16
    most: int = 128
    blocks: int = 2
    begin: int = 0
    end: int = 0
    octaves: int = 0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        if not (0 <= self.begin <= self.levels and 0 <= self.end <= self.levels):
            raise ValueError(f"UNet: begin={self.begin} and end={self.end} must be between 0 and levels={self.levels}")
        check_divisible(x.shape[1:3], 2 ** (self.levels - self.begin))
        width = [min(self.channels * 2**i, self.most) for i in range(self.levels + 1)]
        given = x
        if self.octaves:
            place = jnp.asarray(positions(x.shape[1:3], self.octaves), x.dtype)
            given = jnp.concatenate([x, jnp.broadcast_to(place, (x.shape[0], *place.shape))], -1)
        conditions = {i: _resized(given, i - self.begin) for i in range(min(self.begin, self.end), self.levels + 1)}

        def stack(x, features, level, name):
            for i in range(self.blocks):
                x = ConditionedBlock(features, dtype=self.dtype, name=f"{name}{level}_{i}")(x, conditions[level])
            return x

        h = x
        for level in range(self.begin, self.levels + 1):
            h = Conv(width[level], 3, dtype=self.dtype, name=f"down{level}")(h)
            h = stack(h, width[min(level + 1, self.levels)], level, "down")
            h = halve(h) if level < self.levels else h
        for level in reversed(range(self.end, self.levels + 1)):
            h = double(h) if level < self.levels else h
            # As wide as what it gives: else a wide output would be no more than a mixture of a few maps.
            last = max(width[level], min(self.out, self.most)) if level == self.end else width[level]
            h = stack(h, last, level, "up")
            h = Conv(last, 3, dtype=self.dtype, name=f"up{level}")(h)
        past = Conv(h.shape[-1], 3, use_bias=False, dtype=self.dtype, name="past")(_resized(x, self.end - self.begin))
        return Conv(self.out, 3, dtype=self.dtype, name="out")(h + past)


def _resized(x, times):
    """Halved so often; doubled where it is negative."""
    return halve(x, times) if times >= 0 else double(x, -times)


def _activate(x, name, dtype):
    # Statistics in float32 whatever the dtype: flax's GroupNorm does so.
    return nn.silu(nn.GroupNorm(None, group_size=math.gcd(x.shape[-1], 8), dtype=dtype, name=name)(x))
