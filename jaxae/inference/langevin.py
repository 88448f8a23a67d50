"""Langevin dynamics over a pytree of parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def langevin(step_size: float) -> Callable[[PyTree, tuple, PyTree, Array], tuple[PyTree, tuple]]:
    """One step of the unadjusted Langevin algorithm.

    theta' = theta + (h/2) grad log p(theta) + sqrt(h) xi,  xi ~ N(0, I). With minibatch gradients this is
    stochastic gradient Langevin dynamics; its stationary law is p up to O(h).

    Args:
      step_size: h > 0, in squared units of theta.

    Returns:
      `(params, auxiliary, gradient, key) -> (params, auxiliary)`; the auxiliary is `()`.

    Raises:
      ValueError: if the step size is not positive.

    Reference: Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, ICML 2011.
    """
    if isinstance(step_size, (int, float)) and step_size <= 0:
        raise ValueError(f"langevin needs a positive step_size, got {step_size}")

    def transition(params, auxiliary, gradient, key):
        leaves, treedef = jax.tree.flatten(params)
        keys = treedef.unflatten(list(jax.random.split(key, len(leaves))))
        moved = jax.tree.map(
            lambda p, g, k: p + 0.5 * step_size * g + jnp.sqrt(step_size) * jax.random.normal(k, p.shape, p.dtype),
            params, gradient, keys)
        return moved, auxiliary

    return transition
