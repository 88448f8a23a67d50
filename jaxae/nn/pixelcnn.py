"""Gated PixelCNN: a convolutional network whose output at a pixel sees only the pixels before it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nn.conv import conv
from jaxae.nn.dropout import dropout


def _gate(x: Array) -> Array:
    content, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(content) * nn.sigmoid(gate)


class _GatedLayer(nn.Module):
    """One layer of both stacks; the first (`mask A`) hides the pixel itself from the horizontal stack."""

    hidden: int
    kernel: int
    first: bool
    dtype: Any

    @nn.compact
    def __call__(self, vertical: Array, horizontal: Array, bias: Array | None) -> tuple[Array, Array]:
        height, width = horizontal.shape[1:3]
        reach = self.kernel // 2
        # Row r of the vertical stack sees rows <= r, over the kernel's full width. The horizontal stack reads
        # it from one row above, so that all rows above a pixel reach it and there is no blind spot.
        above = []
        if height > 1:
            rows = reach if self.first else reach + 1
            shape = (rows, self.kernel, vertical.shape[-1], 2 * self.hidden)
            kernel = self.param("vertical", nn.initializers.lecun_normal(), shape, jnp.float32)
            padded = jnp.pad(vertical, ((0, 0), (rows - 1, 0), (reach, reach), (0, 0)))
            vertical = conv(padded, kernel.astype(self.dtype), padding="VALID")
            offset = self.param("vertical_bias", nn.initializers.zeros, (2 * self.hidden,), jnp.float32)
            vertical = vertical + offset.astype(self.dtype)
            if bias is not None:
                vertical = vertical + bias[..., 2 * self.hidden:]
            above = [jnp.pad(vertical, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]]
            vertical = _gate(vertical)  # [b h w hidden]
        # Columns c-reach..c-1 in the first layer, c-reach..c after it, and the rows above, in one product.
        taps = reach if self.first else reach + 1
        padded = jnp.pad(horizontal, ((0, 0), (0, 0), (reach, 0), (0, 0)))
        left = [padded[:, :, j:j + width] for j in range(taps)]
        seen = jnp.concatenate(left + above, axis=-1)
        out = nn.Dense(2 * self.hidden, dtype=self.dtype, name="horizontal")(seen)
        if bias is not None:
            out = out + bias[..., :2 * self.hidden]
        out = nn.Dense(self.hidden, dtype=self.dtype, name="mix")(_gate(out))
        return vertical, out if self.first else horizontal + out


class PixelCNN(nn.Module):
    """Gated PixelCNN over features `[b h w c]`: `out[i, j]` is a function of `x` strictly before `(i, j)`.

    Pixels are ordered row by row. Each layer computes `tanh(a) * sigmoid(g)` of

        vertical:    (a, g)[i, j] = sum of W v over rows <= i                                  + V s
        horizontal:  (a, g)[i, j] = sum of W h over columns <= j (< j in the first layer)
                                    + U (a, g)_vertical[i - 1, j]                              + V s

    with residual connections along the horizontal stack. Causality comes from padding and slicing, not
    from masked kernels: no weight is stored that is never used.

    With `R = first_kernel // 2 + (layers - 1) * (kernel // 2)` the output sees R pixels to its left, and R
    columns to either side in the R rows above: R no smaller than the map's sides less one sees every pixel
    before. A map of one row (a sequence) has no vertical stack, so its parameters differ from a map's.

    Attributes:
      out: channels of the output, e.g. the number of codes.
      hidden: channels of both stacks.
      layers: gated layers, the first included.
      kernel: odd width of the kernels after the first layer.
      first_kernel: odd width of the first layer's kernel, at least 3.
      dropout: rate on the horizontal stack after each layer; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      dtype: computation; parameters and the output are float32.

    Reference: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional image
    generation with PixelCNN decoders", 2016, arXiv 1606.05328.

    >>> import jax
    >>> net = PixelCNN(out=10, hidden=8, layers=2)
    >>> x = jax.numpy.zeros((2, 4, 4, 3))
    >>> logits, _ = net.init_with_output(jax.random.key(0), x)
    >>> logits.shape
    (2, 4, 4, 10)
    """

    out: int
    hidden: int = 64
    layers: int = 5
    kernel: int = 3
    first_kernel: int = 7
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        vector: Float[Array, "b v"] | None = None,
        spatial: Float[Array, "b h w s"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b h w out"]:
        """Args:
          x: embedded pixels or codes.
          vector: condition of the whole map, such as a class embedding or a latent.
          spatial: condition of each position, such as a decoder's feature map; need not be causal.
          deterministic: no dropout.

        Returns:
          float32 logits.

        Raises:
          ValueError: for even kernels, `first_kernel` below 3 or fewer than one layer.
        """
        if self.kernel % 2 == 0 or self.first_kernel % 2 == 0 or self.first_kernel < 3 or self.layers < 1:
            raise ValueError(
                "PixelCNN needs odd kernels, first_kernel >= 3 and layers >= 1; got "
                f"kernel={self.kernel}, first_kernel={self.first_kernel}, layers={self.layers}.")
        everywhere = None if vector is None else vector[:, None, None, :]
        conditions = {"vector": everywhere, "spatial": spatial}
        vertical = horizontal = x.astype(self.dtype)
        stacks = 2 if x.shape[1] > 1 else 1
        for i in range(self.layers):
            bias = None
            for name, condition in conditions.items():
                if condition is not None:
                    term = nn.Dense(2 * stacks * self.hidden, use_bias=False, dtype=self.dtype,
                                    name=f"{name}{i}")(condition)
                    bias = term if bias is None else bias + term
            layer = _GatedLayer(self.hidden, self.kernel if i else self.first_kernel, not i, self.dtype,
                                name=f"layer{i}")
            vertical, horizontal = layer(vertical, horizontal, bias)
            if self.dropout and not deterministic:
                horizontal = dropout(horizontal, self.dropout, self.make_rng("dropout"), self.axis_name)
        y = nn.Dense(self.hidden, dtype=self.dtype, name="readout")(nn.relu(horizontal))
        return nn.Dense(self.out, dtype=self.dtype, name="logits")(nn.relu(y)).astype(jnp.float32)
