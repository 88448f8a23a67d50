"""A discriminator of patches."""

import flax.linen as nn
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv


class PatchGAN(nn.Module):
    """Logits of patches, `[n h w c] -> [n h' w' 1]`: 3x3 convolutions with leaky ReLU.

    Attributes:
      channels: of each convolution.
      strides: of each convolution.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: Isola et al., 'Image-to-image translation with conditional adversarial networks', 2017, arXiv 1611.07004.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow 1"]:
        for i, (channels, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
            x = nn.leaky_relu(Conv(channels, 3, stride, dtype=self.dtype, name=f"conv{i}")(x), 0.2)
        return Conv(1, 3, dtype=self.dtype, name="logits")(x)
