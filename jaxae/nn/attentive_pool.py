"""Attentive pooling: a sequence of vectors to one, each head with weights of its own."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxae.nn.dropout import dropout

_HIDDEN = -1e30  # finite: a sequence of padding alone has finite weights


def multihead_pool(values: Float[Array, "b t h e"], scores: Float[Array, "b t h"],
                   mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b h e"]:
    """Head h is the mean of its values under a softmax over positions: sum_t softmax_t(s_th) v_th.

    Args:
      values: v, `[b t h e]`.
      scores: s, `[b t h]`.
      mask: False where a position is padding; None for none.

    Returns:
      `[b h e]`, in the dtype of the values; the softmax is float32.

    >>> multihead_pool(jnp.array([[[[1.0]], [[3.0]]]]), jnp.zeros((1, 2, 1))).tolist()
    [[[2.0]]]

    Reference: Liu and Lapata, 'Hierarchical transformers for multi-document summarization', 2019, arXiv 1905.13164.
    """
    return jnp.einsum("bth,bthe->bhe", _weights(scores, mask).astype(values.dtype), values)


def _weights(scores, mask):
    scores = scores.astype(jnp.float32)
    return jax.nn.softmax(scores if mask is None else jnp.where(mask[..., None], scores, _HIDDEN), axis=1)


class MultiheadPool(nn.Module):
    """`multihead_pool` with scores and values that are linear in the sequence: `[b t d] -> [b heads width]`.

    Attributes:
      heads: number of heads.
      width: of each.
      dropout: rate on the weights of positions; needs an rng named `dropout`.
      axis_name: mapped axis over which the batch is spread.
      dtype: of the computation; the parameters, dense layers `scores` and `values`, are float32.
    """

    heads: int
    width: int
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"] | None = None, *,
                 deterministic: bool = True) -> Float[Array, "b h e"]:
        scores = nn.Dense(self.heads, dtype=self.dtype, name="scores")(x)
        values = nn.DenseGeneral((self.heads, self.width), dtype=self.dtype, name="values")(x)
        if deterministic or not self.dropout:
            return multihead_pool(values, scores, mask)
        weights = dropout(_weights(scores, mask), self.dropout, self.make_rng("dropout"), self.axis_name)
        return jnp.einsum("bth,bthe->bhe", weights.astype(values.dtype), values)
