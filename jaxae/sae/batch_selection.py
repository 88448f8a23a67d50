"""BatchTopK as a list of entries: the work of k atoms for each example, though busy examples get more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.sae.codes import Codes
from jaxae.sae.encoders import Encoded
from jaxae.sae.ranking import largest_places
from jaxae.sae.sparsifiers import check_k


def batch_topk_entries(encoded: Encoded, k: int, axis_name: str | None = None) -> tuple[Codes, Float[Array, ""]]:
    """`batch_topk` in compressed rows, with room for the global budget of n k entries wherever they fall.

    As there, negative ones never fill the budget. Ties at the smallest one kept go to earlier examples and lower
    indices until the budget is spent, where `batch_topk` keeps all.

    Args:
      encoded: pre-activations `[n m]`.
      k: active atoms of an example on average.
      axis_name: the mapped axis: the budget is that of the global batch. Room on every replica is for all of it; the
        cost of products is that of the entries that fall to the replica.

    Returns:
      (codes with `starts`, the smallest pre-activation that was kept).

    Raises:
      ValueError: for k outside [1, m].

    Reference: as `batch_topk`.
    """
    n, m = encoded.pre.shape
    check_k(k, m)
    rows = n if axis_name is None else n * jax.lax.axis_size(axis_name)
    places, smallest = largest_places(jax.lax.stop_gradient(encoded.pre), rows * k, axis_name)
    starts = jnp.searchsorted(places, m * jnp.arange(n + 1)).astype(jnp.int32)
    real = places < n * m
    indices = jnp.where(real, places % m, 0)
    values = jnp.where(real, jax.nn.relu(encoded.at(indices, starts)), 0.0)
    return Codes(values, indices, starts), smallest
