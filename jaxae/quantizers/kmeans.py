"""Lloyd's k-means, for starting codebooks from data."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.quantizers.vector import nearest_code


def kmeans(x: Float[Array, "n d"], k: int, key: Array, iterations: int = 20) -> Float[Array, "k d"]:
    """Centres of k clusters of the rows: k-means++ seeds, then Lloyd's iterations.

    Seeds are rows found one after the other: of 2 + log k rows drawn with probability proportional to their squared
    distance to the nearest seed so far, the one that leaves the least sum of these distances (greedy k-means++, as in
    scikit-learn). Then e_i <- mean of the rows nearest to e_i; a centre without rows moves to a random row.

    Args:
      x: rows `[n d]`.
      k: number of centres.
      key: chooses the rows.
      iterations: of Lloyd; 0 gives k distinct rows drawn uniformly.

    Returns:
      `[k d]` float32.

    Raises:
      ValueError: with fewer rows than centres.

    Reference: Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
    """
    n = x.shape[0]
    if n < k:
        raise ValueError(f"k-means needs at least as many vectors as codes: {n} vectors, {k} codes. "
                         f"Use fewer codes or more data")
    x = x.astype(jnp.float32)
    start_key, empty_key = jax.random.split(key)
    if not iterations:
        return x[jax.random.choice(start_key, n, (k,), replace=False)]

    def lloyd(centres, key):
        nearest = nearest_code(x, centres)
        counts = jnp.zeros((k,)).at[nearest].add(1.0)
        sums = jnp.zeros_like(centres).at[nearest].add(x)
        spare = x[jax.random.randint(key, (k,), 0, n)]
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0, means, spare), None

    return lax.scan(lloyd, _spread_rows(x, k, start_key), jax.random.split(empty_key, iterations))[0]


def _spread_rows(x, k, key):
    """The seeds of greedy k-means++."""
    first_key, rest_key = jax.random.split(key)
    trials = 2 + int(math.log(k))

    def squares(centres):
        return jnp.sum((x[:, None] - centres) ** 2, axis=-1)  # [n trials]

    def seed(i, carry):
        centres, nearest = carry
        rows = jax.random.categorical(jax.random.fold_in(rest_key, i), jnp.log(nearest), shape=(trials,))
        after = jnp.minimum(nearest[:, None], squares(x[rows]))
        best = jnp.argmin(after.sum(0))
        return centres.at[i].set(x[rows[best]]), after[:, best]

    first = x[jax.random.randint(first_key, (1,), 0, x.shape[0])]
    start = jnp.zeros((k, x.shape[1])).at[0].set(first[0])
    return lax.fori_loop(1, k, seed, (start, squares(first)[:, 0]))[0]
