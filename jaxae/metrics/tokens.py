"""How much of a token sequence a reconstruction gets right."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_accuracy(x: Int[Array, "n t"], x_hat: Int[Array, "n t"]) -> Float[Array, " n"]:
    """Share of the tokens of x, padding (0) left out, that x_hat has at the same position, `[n]`.

    >>> import jax.numpy as jnp
    >>> token_accuracy(jnp.array([[5, 3, 1, 0]]), jnp.array([[5, 4, 1, 6]])).tolist()
    [0.6666666865348816]
    """
    counted = x != 0
    return ((x == x_hat) & counted).sum(-1) / jnp.maximum(counted.sum(-1), 1)


def exact_match(x: Int[Array, "n t"], x_hat: Int[Array, "n t"]) -> Float[Array, " n"]:
    """1 where the whole sequences are equal, padding included, else 0, `[n]`.

    >>> import jax.numpy as jnp
    >>> exact_match(jnp.array([[5, 1, 0], [5, 1, 0]]), jnp.array([[5, 1, 0], [5, 1, 1]])).tolist()
    [1.0, 0.0]
    """
    return jnp.all(x == x_hat, -1).astype(jnp.float32)
