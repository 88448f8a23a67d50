"""Linear attention: in parallel, in causal order by chunks, and step by step as a recurrent network."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_EPS = 1e-6  # of the denominator


class LinearState(NamedTuple):
    """What causal linear attention remembers of the past: float32, of constant size, zeros before the first token."""

    s: Array  # [b h c m] sum of phi(k) v^T
    z: Array  # [b h c] sum of phi(k)


def elu1(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The positive feature map phi(x) = elu(x) + 1, in float32."""
    x = x.astype(jnp.float32)
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))  # not expm1(x) + 1, which rounds small features


def linear_attention(q: Float[Array, "b n h c"], k: Float[Array, "b u h c"], v: Float[Array, "b u h m"],
                     mask: Bool[Array, "b u"] | None = None) -> Float[Array, "b n h m"]:
    """Attention with weights phi(q_i) . phi(k_j), in O(n c m) time: every query sees every key.

        y_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / (phi(q_i)^T sum_j phi(k_j) + 1e-6),   phi(x) = elu(x) + 1

    There is no scale 1/sqrt(c), and sums are float32 whatever the dtype.

    Args:
      q: queries `[b n h c]`.
      k: keys `[b u h c]`.
      v: values `[b u h m]`.
      mask: keys that count; the others get phi(k) = 0.

    Returns:
      `[b n h m]` in the values' dtype.

    Reference: Katharopoulos, Vyas, Pappas, Fleuret, 'Transformers are RNNs: fast autoregressive transformers with
    linear attention', 2020, arXiv 2006.16236.
    """
    q, k = _features(q, k, mask)
    state = jnp.einsum("buhc,buhm->bhcm", k, v.astype(jnp.float32))
    scale = jnp.einsum("bnhc,bhc->bnh", q, k.sum(1)) + _EPS
    return (jnp.einsum("bnhc,bhcm->bnhm", q, state) / scale[..., None]).astype(v.dtype)


def causal_linear_attention(q: Float[Array, "b n h c"], k: Float[Array, "b n h c"], v: Float[Array, "b n h m"],
                            chunk: int = 64, mask: Bool[Array, "b n"] | None = None) -> Float[Array, "b n h m"]:
    """Linear attention of every position to itself and those before it, in O(n c m) time.

        y_i = phi(q_i)^T S_i / (phi(q_i)^T z_i + 1e-6),   S_i = sum_{j<=i} phi(k_j) v_j^T,   z_i = sum_{j<=i} phi(k_j)

    S is carried from chunk to chunk, and inside a chunk the sum is a masked product: no `[b n h c m]` array is ever
    made, neither here nor in the gradient, whose backward pass carries the sums of the paper's formulas instead of
    storing S (first derivatives in reverse mode).

    Args:
      q: queries `[b n h c]`.
      k: keys `[b n h c]`.
      v: values `[b n h m]`.
      chunk: positions of one product; changes speed and memory only.
      mask: keys that count; the others get phi(k) = 0.

    Returns:
      `[b n h m]` in the values' dtype.

    Raises:
      ValueError: for a chunk below 1.

    Reference: Katharopoulos, Vyas, Pappas, Fleuret, 2020, arXiv 2006.16236, section 3.3.

    >>> q = k = v = jnp.ones((1, 5, 1, 2))
    >>> causal_linear_attention(q, k, v, chunk=2)[0, :, 0, 0].round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if chunk < 1:
        raise ValueError(f"causal_linear_attention needs chunk >= 1, got {chunk}")
    q, k = _features(q, k, mask)
    # A column of ones makes the denominator one more value of the same sums.
    ones = jnp.ones((*v.shape[:-1], 1), jnp.float32)
    sums = _causal_product(q, k, jnp.concatenate([v.astype(jnp.float32), ones], -1), min(chunk, q.shape[1]))
    return (sums[..., :-1] / (sums[..., -1:] + _EPS)).astype(v.dtype)


def linear_attention_step(state: LinearState, q_t: Float[Array, "b h c"], k_t: Float[Array, "b h c"],
                          v_t: Float[Array, "b h m"]) -> tuple[LinearState, Float[Array, "b h m"]]:
    """One step of the recurrent network that causal linear attention is: O(c m), whatever came before.

    Args:
      state: of the positions before; see `linear_attention_state`.
      q_t: query `[b h c]`.
      k_t: key `[b h c]`.
      v_t: value `[b h m]`.

    Returns:
      The state after it, and `[b h m]` in the value's dtype: what `causal_linear_attention` gives at this position.
    """
    q, k = elu1(q_t), elu1(k_t)
    s = state.s + k[..., None] * v_t.astype(jnp.float32)[..., None, :]
    z = state.z + k
    scale = jnp.einsum("bhc,bhc->bh", q, z) + _EPS
    return LinearState(s, z), (jnp.einsum("bhc,bhcm->bhm", q, s) / scale[..., None]).astype(v_t.dtype)


def linear_attention_state(b: int, h: int, c: int, m: int) -> LinearState:
    """The state before the first token: zeros for b sequences, h heads, keys of width c and values of width m."""
    return LinearState(jnp.zeros((b, h, c, m)), jnp.zeros((b, h, c)))


def _features(q, k, mask):
    k = elu1(k)
    # After the feature map: phi(0) is 1, not 0.
    return elu1(q), k if mask is None else jnp.where(mask[..., None, None], k, 0.0)


def _chunks(x, chunk):
    """`[b n h c]` to `[n/chunk b h chunk c]`, zeros after the end."""
    b, n, h, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -n % chunk), (0, 0), (0, 0)))
    return x.reshape(b, -1, chunk, h, c).transpose(1, 0, 3, 2, 4)


def _whole(x, n):
    """The inverse of `_chunks`."""
    chunks, b, h, chunk, c = x.shape
    return x.transpose(1, 0, 3, 2, 4).reshape(b, chunks * chunk, h, c)[:, :n]


def _outer(a, b):
    """`sum_j a_j b_j^T` over a chunk."""
    return jnp.einsum("bhjc,bhjm->bhcm", a, b)


def _causal_sums(queries, keys, values, chunk):
    """`sum_{j<=i} (queries_i . keys_j) values_j` for all i."""
    n = queries.shape[1]

    def step(state, parts):
        q, k, v = parts
        inside = jnp.tril(q @ k.swapaxes(-1, -2))
        return state + _outer(k, v), q @ state + inside @ v

    parts = tuple(_chunks(x, chunk) for x in (queries, keys, values))
    state = jnp.zeros((*parts[1].shape[1:3], keys.shape[-1], values.shape[-1]))
    return _whole(lax.scan(step, state, parts)[1], n)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _causal_product(q, k, v, chunk):
    """The numerators `q_i^T sum_{j<=i} k_j v_j^T` of features q and k."""
    return _causal_sums(q, k, v, chunk)


def _forward(q, k, v, chunk):
    return _causal_sums(q, k, v, chunk), (q, k, v)


def _backward(chunk, saved, gradient):
    q, k, v = saved
    # dq_i = S_i G_i: the same sums with values and keys in each other's place.
    grad_q = _causal_sums(gradient, v, k, chunk)

    def step(later, parts):  # from the end: later = sum_{j>i} q_j G_j^T
        q, k, v, g = parts
        grad_k = v @ later.swapaxes(-1, -2) + jnp.triu(v @ g.swapaxes(-1, -2)) @ q
        grad_v = k @ later + jnp.triu(k @ q.swapaxes(-1, -2)) @ g
        return later + _outer(q, g), (grad_k, grad_v)

    parts = tuple(_chunks(x, chunk) for x in (q, k, v, gradient))
    later = jnp.zeros((*parts[0].shape[1:3], q.shape[-1], v.shape[-1]))
    grad_k, grad_v = lax.scan(step, later, parts, reverse=True)[1]
    return grad_q, _whole(grad_k, q.shape[1]), _whole(grad_v, q.shape[1])


_causal_product.defvjp(_forward, _backward)
