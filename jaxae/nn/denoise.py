"""Denoisers of diffusion models: a head for vectors and a transformer for maps, modulated by time and condition."""

import math

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Real

from jaxae.nn.attention import SelfAttention
from jaxae.nn.mlp import MLP

_EPSILON = 1e-6


def time_embedding(t: Real[Array, " n"], width: int, period: float = 10_000.0) -> Float[Array, "n width"]:
    """Cosines, then sines, of t at width / 2 frequencies from 1 down to 1 / period in a geometric row.

    Args:
      t: times, in units in which neighbours are about 1 apart.
      width: even.

    Raises:
      ValueError: for an odd width.
    """
    if width % 2:
        raise ValueError(f"a time embedding needs an even width, got {width}")
    frequency = jnp.exp(-math.log(period) * jnp.arange(width // 2) / (width // 2))
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class _Condition(nn.Module):
    """Embedding of time plus a linear map of the condition, through the SiLU that every modulation starts with."""

    width: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, t, condition):
        embedded = time_embedding(t, 2 * max(self.width // 2, 16))
        c = MLP((self.width, self.width), nn.silu, self.dtype, name="time")(embedded)
        if condition is not None:
            c = c + nn.Dense(self.width, dtype=self.dtype, name="condition")(condition)
        return nn.silu(c)


def modulation(module: nn.Module, c: Float[Array, "n w"], parts: int, width: int, name: str) -> list[Array]:
    """`parts` vectors `[n width]` as a linear map of c that starts at zero, a submodule of the module that calls."""
    layer = nn.Dense(parts * width, dtype=module.dtype, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(layer(c), parts, axis=-1)


def modulated_norm(module: nn.Module, x: Float[Array, "n *t d"], shift: Float[Array, "n d"], scale: Float[Array, "n d"],
                   name: str) -> Float[Array, "n *t d"]:
    """(1 + scale) norm(x) + shift with the layer norm without parameters of its own."""
    norm = nn.LayerNorm(_EPSILON, use_bias=False, use_scale=False, dtype=module.dtype, name=name)(x)
    shift, scale = (part.reshape(part.shape[0], *(1,) * (x.ndim - 2), -1) for part in (shift, scale))
    return (1.0 + scale) * norm + shift


class DenoiseMLP(nn.Module):
    """The diffusion head: `x_t [n d]`, times `[n]` and a condition `[n c]` -> `[n features]`, float32.

    `depth` times x <- x + gate * mlp((1 + scale) norm(x) + shift), where shift, scale and gate are linear maps of
    SiLU(time + condition) that start at zero, as does the output: a new head returns zero.

    Attributes:
      features: width of the output, d or 2 d (with a fraction of the variance for each dimension).
      width: of the residual stream.
      depth: residual blocks.
      dtype: of the computation; parameters are float32.

    Reference: Li et al., 'Autoregressive image generation without vector quantization', 2024, arXiv 2406.11838.

    >>> import jax
    >>> head = DenoiseMLP(4, width=32, depth=2)
    >>> head.init_with_output(jax.random.key(0), jnp.ones((5, 4)), jnp.arange(5), jnp.ones((5, 7)))[0].shape
    (5, 4)
    """

    features: int
    width: int = 256
    depth: int = 3
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n d"], t: Real[Array, " n"], condition: Float[Array, "n c"] | None = None
                 ) -> Float[Array, "n o"]:
        c = _Condition(self.width, self.dtype, name="embed")(t, condition)
        x = nn.Dense(self.width, dtype=self.dtype, name="in")(x)
        for i in range(self.depth):
            shift, scale, gate = modulation(self, c, 3, self.width, f"modulation{i}")
            y = modulated_norm(self, x, shift, scale, f"norm{i}")
            x = x + gate * MLP((self.width, self.width), nn.silu, self.dtype, name=f"mlp{i}")(y)
        x = modulated_norm(self, x, *modulation(self, c, 2, self.width, "modulation"), "norm")
        out = nn.Dense(self.features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(x)
        return out.astype(jnp.float32)


class ModulatedBlock(nn.Module):
    """Transformer block with adaLN-zero: `[n t d]` and a condition `[n c]` -> `[n t d]`; a new one is the identity.

    x <- x + gate attention((1 + scale) norm(x) + shift), and the same with an MLP; the six vectors are a linear map of
    the condition that starts at zero.

    Attributes:
      attention: maps `[n t d]` to itself.
      mlp_ratio: width of the hidden layer over d.
      dtype: of the computation; parameters are float32.

    Reference: Peebles, Xie, 'Scalable diffusion models with transformers', 2022, arXiv 2212.09748.
    """

    attention: nn.Module
    mlp_ratio: int | float = 4
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"], c: Float[Array, "n c"]) -> Float[Array, "n t d"]:
        d = x.shape[-1]
        shift, scale, gate, shift2, scale2, gate2 = modulation(self, c, 6, d, "modulation")
        y = modulated_norm(self, x, shift, scale, "norm0")
        x = x + gate[:, None] * self.attention(y)
        y = modulated_norm(self, x, shift2, scale2, "norm1")
        return x + gate2[:, None] * MLP((int(self.mlp_ratio * d), d), nn.gelu, self.dtype, name="mlp")(y)


class DenoiseTransformer(nn.Module):
    """A denoiser of maps: `x_t [n h w c]`, times `[n]` and a condition `[n e]` -> `[n h w features]`, float32.

    Patches become tokens with learned positions, `depth` blocks with full attention follow, and every token is mapped
    back to its patch. A new network returns zero.

    Attributes:
      features: channels of the output.
      width: of the tokens, a multiple of `heads`.
      depth: blocks.
      heads: of the attention.
      patch: pixels along a patch's side; h and w must be multiples.
      dtype: of the computation; parameters are float32.

    Raises:
      ValueError: for maps that patches do not tile.

    Reference: Peebles, Xie, 'Scalable diffusion models with transformers', 2022, arXiv 2212.09748.
    """

    features: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], t: Real[Array, " n"], condition: Float[Array, "n e"] | None = None
                 ) -> Float[Array, "n h w o"]:
        n, h, w, channels = x.shape
        p = self.patch
        if h % p or w % p:
            raise ValueError(f"patches of {p} x {p} do not tile maps of {h} x {w}: change `patch`")
        c = _Condition(self.width, self.dtype, name="embed")(t, condition)
        tiles = x.reshape(n, h // p, p, w // p, p, channels).swapaxes(2, 3).reshape(n, -1, p * p * channels)
        position = self.param("position", nn.initializers.normal(1.0), (tiles.shape[1], self.width), jnp.float32)
        x = nn.Dense(self.width, dtype=self.dtype, name="in")(tiles)
        x = x + position.astype(x.dtype)
        for i in range(self.depth):
            attention = SelfAttention(self.heads, dtype=self.dtype, name=f"attention{i}")
            x = ModulatedBlock(attention, dtype=self.dtype, name=f"block{i}")(x, c)
        x = modulated_norm(self, x, *modulation(self, c, 2, self.width, "modulation"), "norm")
        x = nn.Dense(p * p * self.features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(x)
        x = x.reshape(n, h // p, w // p, p, p, self.features).swapaxes(2, 3)
        return x.reshape(n, h, w, self.features).astype(jnp.float32)
