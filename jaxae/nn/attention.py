"""Multi-head self-attention and the pre-norm transformer block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.mlp import MLP


class SelfAttention(nn.Module):
    """Multi-head self-attention: `[b t d] -> [b t d]`.

    `y_t = W_o concat_h sum_u softmax_u(q_th . k_uh / sqrt(d / heads)) v_uh`, with u <= t where causal. The softmax
    is float32 whatever the dtype.

    Attributes:
      heads: number of heads; d must be a multiple.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32: `qkv` with kernel `[d 3 heads d/heads]`
        and `out` with kernel `[heads d/heads d]`.

    Raises:
      ValueError: d is not a multiple of heads.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.
    """

    heads: int
    causal: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        t, d = x.shape[1:]
        if d % self.heads:
            raise ValueError(f"SelfAttention: width {d} is not a multiple of {self.heads} heads: change one of them.")
        size = d // self.heads
        qkv = nn.DenseGeneral((3, self.heads, size), dtype=self.dtype, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [b t h e]
        logits = jnp.einsum("bthe,buhe->bhtu", q, k, preferred_element_type=jnp.float32) / size**0.5
        if self.causal:
            logits = jnp.where(jnp.tril(jnp.ones((t, t), bool)), logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        y = jnp.einsum("bhtu,buhe->bthe", weights, v)
        return nn.DenseGeneral(d, axis=(-2, -1), dtype=self.dtype, name="out")(y)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: `[b t d] -> [b t d]`.

    `x <- x + attention(norm(x))`, then `x <- x + mlp(norm(x))` with GELU in a hidden layer of `mlp_ratio * d`.

    Attributes:
      heads: number of heads; d must be a multiple.
      mlp_ratio: width of the hidden layer over d.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745.
    """

    heads: int
    mlp_ratio: int | float = 4
    causal: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype, name="norm0")(x)
        x = x + SelfAttention(self.heads, self.causal, self.dtype, name="attention")(y)
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x)
        return x + MLP((int(self.mlp_ratio * d), d), nn.gelu, self.dtype, name="mlp")(y)
