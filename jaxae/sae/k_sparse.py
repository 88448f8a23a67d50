"""Codes of k active atoms as support recovery: when the k largest products are the true support, and schedules of k."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxae.sae.codes import Codes, decode, dense
from jaxae.sae.pursuit import fit_support
from jaxae.sae.sparsifiers import check_k

SELECT = ("value", "abs")
_ROWS = 64  # rows of the products in memory at once


def support_recovery_bound(z: Float[Array, "n m"], mu: Float[Array, ""] | float) -> Bool[Array, " n"]:
    r"""Whether the k largest of $D x$, $x = z D$, are sure to be the support of z: $k \mu \le z_{(k)} / (2 z_{(1)})$.

    Sufficient, not necessary. k is the number of nonzero codes of the example, z_(1) and z_(k) their largest and least
    magnitude. With codes of both signs it is a statement on the k largest of $|D x|$.

    Args:
      z: true codes of atoms of unit norm.
      mu: the atoms' coherence (`jaxae.metrics.coherence`).

    Returns:
      `[n]`; true where no code is active.

    Reference: Makhzani and Frey, k-sparse autoencoders, 2013, arXiv 1312.5663, theorem 3.1.
    """
    size = jnp.abs(z)
    active = size > 0
    largest, least = size.max(-1), jnp.where(active, size, jnp.inf).min(-1)
    return active.sum(-1) * mu * 2.0 * largest <= least


def iterative_hard_threshold(x: Float[Array, "n d"], atoms: Float[Array, "m w"], k: int, steps: int = 1,
                             select: str = "value") -> Codes:
    r"""Iterative thresholding with inversion: $S = \mathrm{supp}_k(z + D (x - z D))$, $z_S = x D_S^+$, from z = 0.

    A k-sparse autoencoder is its first step with products in the place of the inversion.

    Args:
      x: examples.
      atoms: D, rows of unit norm.
      k: active atoms.
      steps: at least 1.
      select: 'value' takes the k largest with sign, as the autoencoder does, 'abs' the k of largest magnitude.

    Returns:
      Codes of k atoms; values can have either sign.

    Raises:
      ValueError: for other widths, k outside [1, m], no steps or another selection.

    Reference: Maleki, Coherence analysis of iterative thresholding algorithms, 2009; Makhzani and Frey, 2013,
    arXiv 1312.5663.
    """
    check_k(k, atoms.shape[0])
    _check_select(select)
    if x.shape[-1] != atoms.shape[-1]:
        raise ValueError(f"examples of width {x.shape[-1]} do not fit atoms of width {atoms.shape[-1]}: use the "
                         f"dictionary that was made for them")
    if steps < 1:
        raise ValueError(f"{steps} steps choose nothing: use at least one")

    def step(_, codes):
        score = dense(codes, atoms.shape[0]) + (x - decode(codes, atoms)) @ atoms.T
        indices = lax.top_k(lax.stop_gradient(jnp.abs(score) if select == "abs" else score), k)[1]
        return Codes(fit_support(x, atoms, indices), indices)

    nothing = Codes(jnp.zeros((x.shape[0], k), x.dtype), jnp.zeros((x.shape[0], k), jnp.int32))
    return lax.fori_loop(0, steps, step, nothing)


def k_schedule(step: Int[Array, ""] | int, start: int, end: int, anneal_steps: int) -> Int[Array, ""]:
    """k falls linearly from `start` to `end` over `anneal_steps` and stays: a small k from the start kills atoms.

    Args:
      step: updates so far; traced or not.
      start: many, such as half of the atoms.
      end: as many as are wanted.
      anneal_steps: such as half of the training; 0 is `end` from the start.

    Returns:
      A scalar for `topk_mask`.

    >>> [int(k_schedule(s, 20, 4, 8)) for s in (0, 4, 8, 100)]
    [20, 12, 4, 4]

    Reference: Makhzani and Frey, 2013, arXiv 1312.5663, section 4.2.
    """
    share = jnp.minimum(jnp.asarray(step, jnp.float32) / anneal_steps, 1.0) if anneal_steps else 1.0
    return jnp.round(start + (end - start) * jnp.asarray(share, jnp.float32)).astype(jnp.int32)


def topk_mask(z: Float[Array, "n m"], k: Int[Array, ""] | int, select: str = "value") -> Bool[Array, "n m"]:
    """Which codes are the k largest of their example, for a k that may be traced; to be multiplied by.

    Exactly k: ties at the smallest go to the lower index, as `lax.top_k`'s do. A constant k is cheaper by
    `sparsifiers.topk`, which does not sort.

    Args:
      z: codes, of any sign.
      k: 0 to m; more are all.
      select: 'value' or 'abs'.

    Raises:
      ValueError: for another selection.

    Reference: as `k_schedule`.
    """
    _check_select(select)
    score = lax.stop_gradient(jnp.abs(z) if select == "abs" else z)
    place = jnp.clip(jnp.asarray(k, jnp.int32), 1, z.shape[-1])
    smallest = jnp.take(jnp.sort(score, axis=-1), z.shape[-1] - place, axis=-1)[:, None]  # [n 1]
    above, tied = score > smallest, score == smallest
    spare = place - above.sum(-1, keepdims=True)
    return (above | (tied & (jnp.cumsum(tied, axis=-1) <= spare))) & (jnp.asarray(k) > 0)


def _check_select(select):
    if select not in SELECT:
        raise ValueError(f"select is one of {SELECT}, not {select!r}")
