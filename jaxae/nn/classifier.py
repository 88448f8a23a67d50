"""A small convolutional classifier, whose hidden layer serves as features of images."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nn.conv import Conv


class Classified(NamedTuple):
    """Output of `ConvClassifier`."""

    logits: Float[Array, "n classes"]
    features: Float[Array, "n d"]


class ConvClassifier(nn.Module):
    """Images `[n h w c]` to class logits and a feature vector.

    Strided 4x4 convolutions with ReLU to `channels`, the mean over 2x2 quarters of the map, a dense layer of
    `features` with ReLU, and a linear read-out.
    """

    classes: int = 10
    channels: tuple[int, ...] = (32, 64)
    features: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Classified:
        for i, width in enumerate(self.channels):
            x = nn.relu(Conv(width, 4, 2, dtype=self.dtype, name=f"conv{i}")(x))
        x = nn.relu(Conv(self.channels[-1], 3, dtype=self.dtype, name="conv_last")(x))
        half, other = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
        quarters = [part.mean((1, 2)) for rows in (x[:, :half], x[:, half:])
                    for part in (rows[:, :, :other], rows[:, :, other:])]
        x = jnp.concatenate(quarters, -1).astype(jnp.float32)
        features = nn.relu(nn.Dense(self.features, name="features")(x))
        return Classified(nn.Dense(self.classes, name="logits")(features), features)
