"""Dropout whose noise does not depend on how the batch is spread."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxae import collectives


def dropout(x: Shaped[Array, "n ..."], rate: float, key: Array, axis_name: str | None = None
            ) -> Shaped[Array, "n ..."]:
    """Each element becomes 0 with probability `rate`, else x / (1 - rate): `[n ...]`, in the dtype of x.

    Args:
      x: this replica's batch.
      rate: in [0, 1).
      key: one key, the same on every replica.
      axis_name: the mapped axis, or None under `jit`.

    Raises:
      ValueError: for another rate.

    Reference: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting, JMLR 2014.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout's rate {rate} must be in [0, 1)")
    kept = collectives.draw(lambda key, shape: jax.random.bernoulli(key, 1.0 - rate, shape), key, x.shape, axis_name)
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)
