"""Multi-head attention and the transformer block, in parallel or step by step with a cache."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxae.nn.dropout import dropout
from jaxae.nn.linear_attention import (
    causal_linear_attention,
    linear_attention,
    linear_attention_state,
    linear_attention_step,
)
from jaxae.nn.mlp import MLP
from jaxae.nn.rotary import rotate_pairs

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
    returned beside y: what the whole sequence gives at these positions, without its cost. Keys that are not `seen`
    have no weight; at least one of a sequence must be. With `angles` of these positions q and k are rotated first.

    Attributes:
      heads: number of heads; d must be a multiple.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32: `qkv` with kernel `[d 3 heads d/heads]`
        and `out` with kernel `[heads d/heads d]`.
      kind: 'softmax', or 'linear' for `linear_attention` of the same projections.
      bias: whether the projections have one.

    Raises:
      ValueError: d is not a multiple of heads, the kind is unknown, a cache is given to attention that is not
        causal, or `seen` to one that is, or is linear.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.
    """

    heads: int
    causal: bool = False
    dtype: Dtype | None = None
    kind: str = "softmax"
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], cache: PyTree = None, seen: Bool[Array, "b t"] | None = None,
                 angles: Float[Array, "t p"] | None = None) -> Float[Array, "b t d"] | tuple:
        d = x.shape[-1]
        _check_heads("SelfAttention", d, self.heads)
        if self.kind not in KINDS:
            raise ValueError(f"SelfAttention: kind={self.kind!r} must be one of {', '.join(KINDS)}.")
        if cache is not None and not self.causal:
            raise ValueError("SelfAttention: a cache holds the past of causal attention: set causal=True.")
        if seen is not None and (self.causal or self.kind == "linear"):
            raise ValueError("SelfAttention: only full softmax attention can leave out keys that are not seen.")
        qkv = nn.DenseGeneral((3, self.heads, d // self.heads), use_bias=self.bias, dtype=self.dtype, name="qkv")(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [b t h e]
        if angles is not None:
            q, k = rotate_pairs(q, angles), rotate_pairs(k, angles)
        y, cache = self._linear(q, k, v, cache) if self.kind == "linear" else self._softmax(q, k, v, cache, seen)
        y = nn.DenseGeneral(d, axis=(-2, -1), use_bias=self.bias, dtype=self.dtype, name="out")(y)
        return y if cache is None else (y, cache)

    def _softmax(self, q, k, v, cache, seen):
        t, past = q.shape[1], 0
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [b h u e]
        if cache is not None:
            past = cache.length
            k = lax.dynamic_update_slice_in_dim(cache.k, k.astype(cache.k.dtype), past, axis=2)
            v = lax.dynamic_update_slice_in_dim(cache.v, v.astype(cache.v.dtype), past, axis=2)
            cache = KeyValueCache(k, v, past + t)
        if self.causal:
            seen = jnp.arange(k.shape[2]) <= past + jnp.arange(t)[:, None]
        elif seen is not None:
            seen = seen[:, None, None]
        return _attend(q, k, v, seen), cache

    def _linear(self, q, k, v, cache):
        if cache is None:
            return (causal_linear_attention if self.causal else linear_attention)(q, k, v), None
        tokens = tuple(part.swapaxes(0, 1) for part in (q, k, v))  # [t b h e]
        cache, y = lax.scan(lambda state, token: linear_attention_step(state, *token), cache, tokens)
        return y.swapaxes(0, 1), cache


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence to a memory: `[b t d]` and `[b m e]` to `[b t d]`.

    As `SelfAttention`, with the keys and values of the memory.

    Attributes:
      heads: number of heads; d must be a multiple.
      dtype: of the computation; None keeps the input's. Parameters are float32, in `q`, `kv` and `out`.

    Raises:
      ValueError: d is not a multiple of heads.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762.
    """

    heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], memory: Float[Array, "b m e"]) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        _check_heads("CrossAttention", d, self.heads)
        q = nn.DenseGeneral((self.heads, d // self.heads), dtype=self.dtype, name="q")(x)
        kv = nn.DenseGeneral((2, self.heads, d // self.heads), dtype=self.dtype, name="kv")(memory)
        y = _attend(q, kv[:, :, 0].swapaxes(1, 2), kv[:, :, 1].swapaxes(1, 2), None)
        return nn.DenseGeneral(d, axis=(-2, -1), dtype=self.dtype, name="out")(y)


def _attend(q, k, v, seen):
    """q [b t h e], k and v [b h u e], seen [... t u] or None -> [b t h e]."""
    logits = jnp.einsum("bthe,bhue->bhtu", q, k, preferred_element_type=jnp.float32) / q.shape[-1]**0.5
    if seen is not None:
        logits = jnp.where(seen, logits, -jnp.inf)
    return jnp.einsum("bhtu,bhue->bthe", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


def _check_heads(name, d, heads):
    if d % heads:
        raise ValueError(f"{name}: width {d} is not a multiple of {heads} heads: change one of them.")


class TransformerBlock(nn.Module):
    """Transformer block: `[b t d] -> [b t d]`.

    `x <- x + attention(norm(x))`, then, where there is a memory, `x <- x + cross(norm(x), memory)`, then
    `x <- x + mlp(norm(x))` with `activation` in a hidden layer of `mlp_ratio * d`. With a cache the block continues its
    sequences and returns the new cache too; tokens that are not `seen` `[b t]` are no keys: both as in `SelfAttention`.
    With norm_place 'post' each of the three is `x <- norm(x + layer(x))`, as in the first transformer.

    The style 'llama' has root-mean-square norms, no biases, and in the MLP's place down(silu(gate x) * up x) with 2/3
    of the hidden units, rounded up to a multiple of 256 from 256 on; it takes `angles`, rotary positions.

    Attributes:
      heads: number of heads; d must be a multiple.
      mlp_ratio: width of the hidden layer over d.
      causal: position t sees positions up to t only.
      dtype: of the computation; None keeps the input's. Parameters are float32.
      kind: of the attention, 'softmax' or 'linear'.
      dropout: rate on what attention and MLP add; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread (dropout noise is that of the global batch).
      activation: of the MLP.
      style: 'gpt' or 'llama'.
      norm_place: 'pre', before each layer, or 'post', after each sum.

    Raises:
      ValueError: for a style or a place of the norm that does not exist.

    Reference: Touvron et al. 2023, LLaMA, arXiv:2302.13971, for that style; Xiong et al. 2020, On Layer
    Normalization in the Transformer Architecture, arXiv:2002.04745.
    """

    heads: int
    mlp_ratio: int | float = 4
    causal: bool = False
    dtype: Dtype | None = None
    kind: str = "softmax"
    dropout: float = 0.0
    axis_name: str | None = None
    activation: Callable[[Array], Array] = nn.gelu
    style: str = "gpt"
    norm_place: str = "pre"

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], cache: PyTree = None, seen: Bool[Array, "b t"] | None = None, *,
                 memory: Float[Array, "b m e"] | None = None, angles: Float[Array, "t p"] | None = None,
                 deterministic: bool = True) -> Float[Array, "b t d"] | tuple:
        if self.norm_place not in ("pre", "post"):
            raise ValueError(f"TransformerBlock: norm_place={self.norm_place!r} must be one of pre, post.")
        pre, gpt, norm = self.norm_place == "pre", self.style == "gpt", block_norm(self.style)

        def before(x, name):
            return norm(dtype=self.dtype, name=name)(x) if pre else x

        def add(x, y, name):
            if not deterministic and self.dropout:
                y = dropout(y, self.dropout, self.make_rng("dropout"), self.axis_name)
            return x + y if pre else norm(dtype=self.dtype, name=name)(x + y)

        d = x.shape[-1]
        y = SelfAttention(self.heads, self.causal, self.dtype, self.kind, gpt, name="attention")(
            before(x, "norm0"), cache, seen, angles)
        if cache is not None:
            y, cache = y
        x = add(x, y, "norm0")
        if memory is not None:
            y = CrossAttention(self.heads, self.dtype, name="cross")(before(x, "cross_norm"), memory)
            x = add(x, y, "cross_norm")
        y, hidden = before(x, "norm1"), int(self.mlp_ratio * d)
        mlp = MLP((hidden, d), self.activation, self.dtype, name="mlp") if gpt else GatedMLP(
            _gated_width(hidden), self.dtype, name="mlp")
        x = add(x, mlp(y), "norm1")
        return x if cache is None else (x, cache)


class GatedMLP(nn.Module):
    """down(silu(gate x) * up x) without biases: `[... d] -> [... d]`.

    Attributes:
      hidden: units.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Reference: Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202.
    """

    hidden: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        def dense(width, name):
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        return dense(x.shape[-1], "down")(nn.silu(dense(self.hidden, "gate")(x)) * dense(self.hidden, "up")(x))


def block_norm(style: str) -> type[nn.Module]:
    """The normalisation of a style of blocks.

    Raises:
      ValueError: for a style that does not exist.
    """
    norms = {"gpt": nn.LayerNorm, "llama": nn.RMSNorm}
    if style not in norms:
        raise ValueError(f"style={style!r} of a transformer must be one of {', '.join(norms)}")
    return norms[style]


def _gated_width(hidden: int) -> int:
    """2/3 of the units, as three matrices are as large then as two; from 256 on a multiple of 256."""
    hidden = max(1, 2 * hidden // 3)
    return hidden if hidden < 256 else -(-hidden // 256) * 256
