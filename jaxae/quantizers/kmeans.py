"""Lloyd's k-means, for starting codebooks from data."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.quantizers.vector import nearest_code


def kmeans(x: Float[Array, "n d"], k: int, key: Array, iterations: int = 20) -> Float[Array, "k d"]:
    """Centres of k clusters of the rows, from k distinct random rows by Lloyd's iterations.

    e_i <- mean of the rows nearest to e_i; a centre without rows moves to a random row.

    Args:
      x: rows `[n d]`.
      k: number of centres.
      key: chooses the rows.
      iterations: of Lloyd; 0 gives the random rows themselves.

    Returns:
      `[k d]` float32.

    Raises:
      ValueError: with fewer rows than centres.
    """
    n = x.shape[0]
    if n < k:
        raise ValueError(f"k-means needs at least as many vectors as codes: {n} vectors, {k} codes. "
                         f"Use fewer codes or more data")
    x = x.astype(jnp.float32)
    start_key, empty_key = jax.random.split(key)
    centres = x[jax.random.choice(start_key, n, (k,), replace=False)]

    def lloyd(centres, key):
        nearest = nearest_code(x, centres)
        counts = jnp.zeros((k,)).at[nearest].add(1.0)
        sums = jnp.zeros_like(centres).at[nearest].add(x)
        spare = x[jax.random.randint(key, (k,), 0, n)]
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0, means, spare), None

    return lax.scan(lloyd, centres, jax.random.split(empty_key, max(iterations, 1))[:iterations])[0]
