"""Gradient estimators that ask the decoder: what its gradient would be at the encoder's own output."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def gradient_by_decoder(value: Callable[[Array], Array], z: Float[Array, "n *positions d"],
                        z_q: Float[Array, "n *positions d"], kind: str) -> Float[Array, " n"]:
    """Zeros whose gradient at z is that of `value` near z: add them to `value(sg[z_q])`.

    'exact': the gradient of `value` at z itself, as if nothing were quantized. 'hessian': g_q + H_q (z - z_q), the same
    to first order around the code. No gradient reaches z_q, or what else `value` depends on.

    Args:
      value: `z [n ... d] -> [n]`, of the decoder, by example.
      z: encoder outputs.
      z_q: their codes.
      kind: 'exact' (one more pass of the decoder, forward and backward) or 'hessian' (about two).

    Raises:
      ValueError: for another kind.

    Reference: the baselines of Fifty et al., 'Restructuring vector quantization with the rotation trick', 2024,
    arXiv 2410.06424.
    """
    gradient = jax.grad(lambda at: value(at).sum())
    fixed, codes = lax.stop_gradient(z), lax.stop_gradient(z_q)
    if kind == "exact":
        g = gradient(fixed)
    elif kind == "hessian":
        g = sum(jax.jvp(gradient, (codes,), (fixed - codes,)))
    else:
        raise ValueError(f"kind={kind!r} must be 'exact' or 'hessian'")
    return jnp.sum(lax.stop_gradient(g) * (z - fixed), axis=tuple(range(1, z.ndim)))
