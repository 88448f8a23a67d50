"""The importance-weighted bound of Burda, Grosse and Salakhutdinov."""

import math

import jax
from jaxtyping import Array, Float


def iwae_bound(log_w: Float[Array, "k n"]) -> Float[Array, " n"]:
    """log (1/k) sum_i w_i, to be maximized: a bound on log p(x) that tightens with k.

    With z_i ~ q(z | x) and w_i = p(x, z_i) / q(z_i | x); k = 1 is the (sampled) ELBO. Its gradient is the
    plain one, of the encoder through reparameterized z_i.

    Args:
      log_w: log importance weights log p(x, z_i) - log q(z_i | x), nats, samples first.

    Returns:
      The bound of each example `[n]`, nats.

    >>> import jax.numpy as jnp
    >>> iwae_bound(jnp.log(jnp.array([[1.0], [3.0]]))).round(4)  # log 2
    Array([0.6931], dtype=float32)

    Reference: Burda, Grosse, Salakhutdinov, 'Importance weighted autoencoders', 2016, arXiv 1509.00519.
    """
    return jax.nn.logsumexp(log_w, axis=0) - math.log(log_w.shape[0])
