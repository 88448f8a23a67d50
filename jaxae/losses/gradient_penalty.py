"""The slope of a critic."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import collectives


def gradient_penalty(critic: Callable[[Array], Array], real: Float[Array, "n ..."], fake: Float[Array, "n ..."],
                     key: Array, axis_name: str | None = None) -> Float[Array, " n"]:
    """How far a critic is from slope 1 between real and generated examples, which the Wasserstein distance asks of it.

        (|grad D(u x + (1 - u) x')| - 1)^2,   u ~ U(0, 1) for each pair

    Args:
      critic: `[n ...] -> [n]`, example by example: each value a function of its own row alone.
      real: examples x.
      fake: as many generated ones x'. The penalty's gradient reaches both.
      key: for the points between them, the same on every replica.
      axis_name: the mapped axis over which the batch is spread, for the draws.

    Returns:
      `[n]`, without a unit; the norm is over all of an example's dimensions. Where the gradient is zero the penalty is
      1 and its own gradient 0.

    >>> gradient_penalty(lambda x: 3.0 * x[:, 0], jnp.ones((2, 4)), jnp.zeros((2, 4)), jax.random.key(0)).tolist()
    [4.0, 4.0]

    Reference: Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, 'Improved training of Wasserstein GANs', 2017,
    arXiv 1704.00028.
    """
    n = real.shape[0]
    share = collectives.draw(jax.random.uniform, key, (n,) + (1,) * (real.ndim - 1), axis_name)
    slopes = jax.grad(lambda x: critic(x).sum())(share * real + (1.0 - share) * fake).reshape(n, -1)
    squares = jnp.sum(slopes.astype(jnp.float32) ** 2, -1)
    flat = squares == 0.0  # the root's derivative there is infinite
    return (jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, squares))) - 1.0) ** 2
