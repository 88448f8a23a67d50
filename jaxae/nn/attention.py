"""Multi-head self-attention and the pre-norm transformer block, in parallel or step by step with a cache."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxae.nn.dropout import dropout
from jaxae.nn.linear_attention import (
    causal_linear_attention,
    linear_attention,
    linear_attention_state,
    linear_attention_step,
)
from jaxae.nn.mlp import MLP

KINDS = ("softmax", "linear")


class KeyValueCache(NamedTuple):
    """Keys and values of the positions that softmax attention has seen."""

    k: Array  # [b h n e]
    v: Array  # [b h n e]
    length: Array  # int32 scalar: how many of the n are filled


def empty_cache(kind: str, b: int, n: int, heads: int, width: int, dtype: Dtype = jnp.float32) -> PyTree:
    """The cache of one attention layer before the first token.

    Args:
      kind: 'softmax' for keys and values of all n positions, 'linear' for the recurrent state, whatever n.
      b: number of sequences.
      n: their length.
      heads: of the attention.
      width: of the layer, all heads together.
      dtype: of the layer's computation.
    """
    if kind == "linear":
        return linear_attention_state(b, heads, width // heads, width // heads)
    zeros = jnp.zeros((b, heads, n, width // heads), dtype)
    return KeyValueCache(zeros, zeros, jnp.int32(0))


class SelfAttention(nn.Module):
    """Multi-head self-attention: `[b t d] -> [b t d]`.

    `y_t = W_o concat_h sum_u softmax_u(q_th . k_uh / sqrt(d / heads)) v_uh`, with u <= t where causal. The softmax
    is float32 whatever the dtype. With a cache, x continues the sequences that the cache holds, and the new cache is
    returned beside y: what the whole sequence gives at these positions, without its cost.

    Attributes:
      heads: number of heads; d must be a multiple.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32: `qkv` with kernel `[d 3 heads d/heads]`
        and `out` with kernel `[heads d/heads d]`.
      kind: 'softmax', or 'linear' for `linear_attention` of the same projections.

    Raises:
      ValueError: d is not a multiple of heads, the kind is unknown, or a cache is given to attention that is not
        causal.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.
    """

    heads: int
    causal: bool = False
    dtype: Dtype | None = None
    kind: str = "softmax"

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], cache: PyTree = None) -> Float[Array, "b t d"] | tuple:
        d = x.shape[-1]
        if d % self.heads:
            raise ValueError(f"SelfAttention: width {d} is not a multiple of {self.heads} heads: change one of them.")
        if self.kind not in KINDS:
            raise ValueError(f"SelfAttention: kind={self.kind!r} must be one of {', '.join(KINDS)}.")
        if cache is not None and not self.causal:
            raise ValueError("SelfAttention: a cache holds the past of causal attention: set causal=True.")
        qkv = nn.DenseGeneral((3, self.heads, d // self.heads), dtype=self.dtype, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [b t h e]
        y, cache = (self._softmax if self.kind == "softmax" else self._linear)(q, k, v, cache)
        y = nn.DenseGeneral(d, axis=(-2, -1), dtype=self.dtype, name="out")(y)
        return y if cache is None else (y, cache)

    def _softmax(self, q, k, v, cache):
        t, past = q.shape[1], 0
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [b h u e]
        if cache is not None:
            past = cache.length
            k = lax.dynamic_update_slice_in_dim(cache.k, k.astype(cache.k.dtype), past, axis=2)
            v = lax.dynamic_update_slice_in_dim(cache.v, v.astype(cache.v.dtype), past, axis=2)
            cache = KeyValueCache(k, v, past + t)
        logits = jnp.einsum("bthe,bhue->bhtu", q, k, preferred_element_type=jnp.float32) / q.shape[-1]**0.5
        if self.causal:
            seen = jnp.arange(k.shape[2]) <= past + jnp.arange(t)[:, None]
            logits = jnp.where(seen, logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return jnp.einsum("bhtu,bhue->bthe", weights, v), cache

    def _linear(self, q, k, v, cache):
        if cache is None:
            return (causal_linear_attention if self.causal else linear_attention)(q, k, v), None
        tokens = tuple(part.swapaxes(0, 1) for part in (q, k, v))  # [t b h e]
        cache, y = lax.scan(lambda state, token: linear_attention_step(state, *token), cache, tokens)
        return y.swapaxes(0, 1), cache


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: `[b t d] -> [b t d]`.

    `x <- x + attention(norm(x))`, then `x <- x + mlp(norm(x))` with GELU in a hidden layer of `mlp_ratio * d`. With a
    cache the block continues its sequences and returns the new cache too, as `SelfAttention` does.

    Attributes:
      heads: number of heads; d must be a multiple.
      mlp_ratio: width of the hidden layer over d.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32.
      kind: of the attention, 'softmax' or 'linear'.
      dropout: rate on what attention and MLP add; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).

    Reference: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745.
    """

    heads: int
    mlp_ratio: int | float = 4
    causal: bool = False
    dtype: Dtype | None = None
    kind: str = "softmax"
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], cache: PyTree = None, *,
                 deterministic: bool = True) -> Float[Array, "b t d"] | tuple:
        def drop(y):
            if deterministic or not self.dropout:
                return y
            return dropout(y, self.dropout, self.make_rng("dropout"), self.axis_name)

        d = x.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype, name="norm0")(x)
        y = SelfAttention(self.heads, self.causal, self.dtype, self.kind, name="attention")(y, cache)
        if cache is not None:
            y, cache = y
        x = x + drop(y)
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + drop(MLP((int(self.mlp_ratio * d), d), nn.gelu, self.dtype, name="mlp")(y))
        return x if cache is None else (x, cache)
