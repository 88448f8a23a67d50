"""Squared Euclidean distances between two samples."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """|x_i - y_j|^2, in float32 and centred, so that a common offset costs no precision; 0 where within rounding of 0.

    >>> squared_distances(jnp.array([[0.0, 3.0]]), jnp.array([[4.0, 0.0]])).tolist()
    [[25.0]]
    """
    x, y = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (x, y))
    centre = lax.stop_gradient(y.mean(0))
    x, y = x - centre, y - centre
    size = jnp.square(x).sum(1)[:, None] + jnp.square(y).sum(1)
    squared = size - 2.0 * jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
    return jnp.where(squared > 8.0 * jnp.finfo(size.dtype).eps * size, squared, 0.0)
