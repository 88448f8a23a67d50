"""Codebooks updated by exponential moving averages: online k-means."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae import collectives
from jaxae.quantizers.vector import sample_rows


class EMACodebook(NamedTuple):
    """State of a codebook that no gradient moves."""

    codes: Float[Array, "k d"]
    counts: Float[Array, " k"]  # N: moving average of assignments per batch
    sums: Float[Array, "k d"]  # m: moving average of the sums of the vectors assigned


def ema_codebook(codes: Float[Array, "k d"]) -> EMACodebook:
    """The state that starts at these codes: N = 1 and m = e.

    A code that is not used stays where it is as long as N is well above the smoothing's epsilon: for some 1,100 batches
    at a decay of 0.99, 50 at 0.8. Then the smoothing draws it to the origin, as in the public implementations.
    """
    codes = codes.astype(jnp.float32)
    return EMACodebook(codes, jnp.ones(codes.shape[0]), codes)


def ema_update(state: EMACodebook, z: Float[Array, "*n d"], indices: Int[Array, "*n"], decay: float = 0.99,
               epsilon: float = 1e-5, axis_name: str | None = None) -> EMACodebook:
    """One step of online k-means with the assignments that were made before it.

    N_i <- g N_i + (1-g) n_i,  m_i <- g m_i + (1-g) sum_{j -> i} z_j,  e_i = m_i / N~_i, with the counts
    Laplace-smoothed: N~_i = (N_i + eps) / (sum N + K eps) * sum N. Counts and sums are those of the global batch.

    Args:
      state: the codebook before the update.
      z: the vectors `[... d]` that were quantized; no gradient passes.
      indices: their codes `[...]`.
      decay: g.
      epsilon: of the smoothing.
      axis_name: the mapped axis, or None under `jit`.

    Returns:
      The new state.

    Reference: van den Oord, Vinyals and Kavukcuoglu, 2017, arXiv 1711.00937, appendix A.1.
    """
    k, d = state.codes.shape
    flat = lax.stop_gradient(z).reshape(-1, d).astype(jnp.float32)
    assigned = indices.reshape(-1)
    counts = jnp.zeros((k,), jnp.float32).at[assigned].add(1.0)
    sums = jnp.zeros((k, d), jnp.float32).at[assigned].add(flat)
    return _moved(state, counts, sums, decay, epsilon, axis_name)


def soft_ema_update(state: EMACodebook, z: Float[Array, "*n d"], weights: Float[Array, "*n k"], decay: float = 0.99,
                    epsilon: float = 1e-5, axis_name: str | None = None) -> EMACodebook:
    """`ema_update` where every vector belongs to every code by a weight, n_i = sum_j p_ji and sum_j p_ji z_j.

    Args:
      state: the codebook before the update.
      z: the vectors `[... d]` that were quantized; no gradient passes.
      weights: p, of each vector over the codes, `[... k]`, rows that sum to 1.
      decay: g.
      epsilon: of the smoothing.
      axis_name: the mapped axis, or None under `jit`.

    Returns:
      The new state.

    Reference: Roy, Vaswani, Neelakantan, Parmar, 'Theory and experiments on vector quantized autoencoders', 2018,
    arXiv 1805.11063 (by draws instead of weights).
    """
    k, d = state.codes.shape
    flat, p = (lax.stop_gradient(part).reshape(-1, part.shape[-1]).astype(jnp.float32) for part in (z, weights))
    return _moved(state, p.sum(0), jnp.matmul(p.T, flat, precision=lax.Precision.HIGHEST), decay, epsilon, axis_name)


def _moved(state, counts, sums, decay, epsilon, axis_name):
    """The state after a batch with these counts [k] and sums [k d] on this replica."""
    k = state.codes.shape[0]
    counts, sums = collectives.total((counts, sums), axis_name)
    counts = decay * state.counts + (1.0 - decay) * counts
    sums = decay * state.sums + (1.0 - decay) * sums
    mass = counts.sum()
    smoothed = (counts + epsilon) / (mass + k * epsilon) * mass
    return EMACodebook(sums / smoothed[:, None], counts, sums)


def revive(state: EMACodebook, z: Float[Array, "*n d"], key: Array, threshold: float,
           axis_name: str | None = None) -> EMACodebook:
    """Puts codes that are hardly used onto random vectors of the global batch.

    A code with N below the threshold (in assignments per batch) starts again at a vector of the batch with
    N = 2 threshold and m = N e: its old sums are forgotten, or they would pull it back, and it has
    log 2 / (1-g) batches to find vectors of its own before it counts as dead again.

    Args:
      state: the codebook.
      z: the batch's vectors `[... d]`.
      key: one key, the same on every replica.
      threshold: assignments per batch under which a code counts as dead; 0 revives none.
      axis_name: the mapped axis, or None under `jit`.
    """
    k, d = state.codes.shape
    fresh = sample_rows(lax.stop_gradient(z).reshape(-1, d).astype(jnp.float32), key, k, axis_name)
    dead = state.counts < threshold
    row = dead[:, None]
    return EMACodebook(jnp.where(row, fresh, state.codes), jnp.where(dead, 2.0 * threshold, state.counts),
                       jnp.where(row, 2.0 * threshold * fresh, state.sums))
