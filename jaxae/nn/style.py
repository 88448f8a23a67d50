"""Deep convolutions with instance normalisation: images to a vector, and back with the vector as the style of each map.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv, ConvTranspose
from jaxae.nn.pooled import leaky_relu


class StyleBlock(nn.Module):
    """A transposed convolution whose channels get their scale and shift from a vector: `[b h w c], [b d] ->
    [b h*strides w*strides features]`.

        h = leaky_relu(conv_transpose(x));   y_c = s_c (h_c - mean_c) / sqrt(var_c + 1e-6) + t_c

    with mean and variance of a channel over the pixels of one image, and `(s, t) = relu(W v + b)`, as in the paper's
    published code. The vector is all that a block learns of the image beside the pattern of the map before it.

    Attributes:
      features: channels of the map.
      kernel, strides: of the transposed convolution, which has no bias.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Raises:
      ValueError: for maps of one pixel, of which the normalisation leaves nothing.

    Reference: Hsu, Dorrell, Whittington, Wu, Finn, 'Disentanglement via latent quantization', 2023, arXiv 2305.18378;
    adaptive instance normalisation: Huang and Belongie, 2017, arXiv 1703.06868; from a learned constant: Karras,
    Laine, Aila, 2018, arXiv 1812.04948.
    """

    features: int
    kernel: int = 3
    strides: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], vector: Float[Array, "b d"]) -> Float[Array, "b oh ow o"]:
        h = leaky_relu(ConvTranspose(self.features, self.kernel, self.strides, use_bias=False, dtype=self.dtype,
                                     name="conv")(x))
        style = nn.relu(nn.Dense(2 * self.features, dtype=self.dtype, name="style")(vector))
        scale, shift = jnp.split(style[:, None, None], 2, axis=-1)
        return _instance_norm(h, self.dtype, "norm", affine=False) * scale + shift


class StyleDecoder(nn.Module):
    """A vector to images: dense layers with ReLU make the style, a learned constant map goes through `StyleBlock`s, and
    a 3x3 convolution ends it: `[b d] -> [b h*2^k w*2^k out]`, linear, `k = len(channels)`.

    Attributes:
      shape: `(h, w)` of the constant, 4x4 in the paper; it has `channels[0]` channels and starts at 0.1.
      channels: of the blocks before each doubling of the map.
      out: channels of the image, or parameters per pixel.
      features: widths of the dense layers.
      blocks: blocks with 3x3 kernels before each one of 4x4 that doubles the map.
      dtype: as in `StyleBlock`.

    Raises:
      ValueError: without channels.

    >>> import jax
    >>> net = StyleDecoder((4, 4), (16, 8), out=1, features=(32,))
    >>> images, variables = net.init_with_output(jax.random.key(0), jnp.ones((5, 6)))
    >>> images.shape
    (5, 16, 16, 1)

    Reference: Hsu et al., 2023, arXiv 2305.18378, appendix.
    """

    shape: tuple[int, int]
    channels: Sequence[int]
    out: int
    features: Sequence[int] = (256, 256)
    blocks: int = 2
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w out"]:
        if not self.channels:
            raise ValueError("StyleDecoder: channels is empty: name the width before each doubling of the image.")
        for i, width in enumerate(self.features):
            z = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(z))
        start = self.param("constant", nn.initializers.constant(0.1), (*self.shape, self.channels[0]), jnp.float32)
        x = jnp.broadcast_to(start, (z.shape[0], *start.shape)).astype(z.dtype)
        for i, width in enumerate(self.channels):
            for j in range(self.blocks):
                x = StyleBlock(width, 3, 1, self.dtype, name=f"block{i}{j}")(x, z)
            x = StyleBlock(width, 4, 2, self.dtype, name=f"up{i}")(x, z)
        # The same as a convolution with the kernel turned round, and cheaper to few channels on CPU.
        return ConvTranspose(self.out, 3, 1, dtype=self.dtype, name="out")(x)


class InstanceNormEncoder(nn.Module):
    """Images to a vector, the mirror of `StyleDecoder`: for every entry of `channels` convolutions of 3x3 and one of
    4x4 with stride 2, each with instance normalisation and leaky ReLU; then dense layers with ReLU: `[b h w c] ->
    [b features[-1]]`.

    Attributes:
      channels: of the convolutions up to each halving; an image of odd side is halved upwards.
      features: widths of the dense layers.
      blocks: convolutions of 3x3 before each halving.
      dtype: as in `StyleBlock`.

    Raises:
      ValueError: for images that shrink to one pixel, of which the normalisation leaves nothing.

    Reference: Hsu et al., 2023, arXiv 2305.18378, appendix.
    """

    channels: Sequence[int]
    features: Sequence[int] = (256, 256)
    blocks: int = 2
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        for i, width in enumerate(self.channels):
            for j in range(self.blocks + 1):
                down = j == self.blocks
                x = Conv(width, 4 if down else 3, 2 if down else 1, use_bias=False, dtype=self.dtype,
                         name=f"conv{i}{j}")(x)
                x = leaky_relu(_instance_norm(x, self.dtype, f"norm{i}{j}"))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.features):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{i}")(x))
        return x


def _instance_norm(x, dtype, name, affine=True):
    if x.shape[1] * x.shape[2] < 2:
        raise ValueError("instance normalisation of a map of one pixel leaves nothing: use larger images, or fewer "
                         "channels, each of which halves them")
    return nn.GroupNorm(None, group_size=1, epsilon=1e-6, use_bias=affine, use_scale=affine, dtype=dtype, name=name)(x)
