"""Lloyd's k-means, for starting codebooks from data."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.quantizers.vector import nearest_code


def kmeans(x: Float[Array, "n d"], k: int, key: Array, iterations: int = 20) -> Float[Array, "k d"]:
    """Centres of k clusters of the rows: k-means++ seeds, then Lloyd's iterations.

    Seeds are rows drawn one after the other with probability proportional to their squared distance to the
    nearest seed so far. Then e_i <- mean of the rows nearest to e_i; a centre without rows moves to a random row.

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
    """The seeds of k-means++."""
    first_key, rest_key = jax.random.split(key)

    def squares(centre):
        return jnp.sum((x - centre) ** 2, axis=-1)

    def seed(i, carry):
        centres, nearest = carry
        drawn = x[jax.random.categorical(jax.random.fold_in(rest_key, i), jnp.log(nearest))]
        return centres.at[i].set(drawn), jnp.minimum(nearest, squares(drawn))

    first = x[jax.random.randint(first_key, (), 0, x.shape[0])]
    return lax.fori_loop(1, k, seed, (jnp.zeros((k, x.shape[1])).at[0].set(first), squares(first)))[0]
