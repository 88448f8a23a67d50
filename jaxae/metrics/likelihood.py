"""Log-likelihood of a latent variable model by importance sampling."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxae.distributions import bits_per_dim

__all__ = ["bits_per_dim", "importance_sampled_nll"]


def importance_sampled_nll(log_weight_fn: Callable[..., Float[Array, "k n"]], key: Array, x: PyTree,
                           samples: int = 5000, chunk: int = 100,
                           axis_name: str | None = None) -> Float[Array, " n"]:
    """Negative log-likelihood -log (1/k) sum_i w_i, w_i = p(x, z_i) / q(z_i | x), z_i ~ q(z | x).

    Its expectation is at least the true value and reaches it as k grows. Samples are drawn and summed chunk
    by chunk: memory is that of one chunk, and a number a chunk, whatever k is.

    Args:
      log_weight_fn: `log_weight_fn(key, x, k) -> [k n]`, log p(x, z) - log q(z | x) of k fresh samples for
        each example, in nats. With an `axis_name` it is called with `axis_name=` as well and must draw its
        noise by `collectives.draw`, batch axis first, so that N replicas get the noise of one device.
      key: the same on every replica.
      x: the batch, handed to `log_weight_fn` as it is.
      samples: k; 5,000 is customary.
      chunk: samples in memory at once; the estimate is of the same law for every chunk.
      axis_name: the mapped axis over which the batch is spread. The result stays per example.

    Returns:
      Nats of each example `[n]`.

    Raises:
      ValueError: for samples or chunk below 1.

    >>> import jax, jax.numpy as jnp
    >>> def log_weight(key, x, k):  # a prior as proposal: z ~ N(0, 1), x | z ~ N(z, 1), so x ~ N(0, 2)
    ...     z = jax.random.normal(key, (k, x.shape[0]))
    ...     return -0.5 * (x - z) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    >>> nll = importance_sampled_nll(log_weight, jax.random.key(0), jnp.zeros(1))
    >>> bool(abs(nll[0] - 0.5 * jnp.log(4 * jnp.pi)) < 0.03)
    True

    Reference: Rezende, Mohamed, Wierstra, 2014, arXiv 1401.4082, appendix E; Burda, Grosse, Salakhutdinov,
    'Importance weighted autoencoders', 2016, arXiv 1509.00519.
    """
    if samples < 1 or chunk < 1:
        raise ValueError(f"importance_sampled_nll wants samples and chunk above 0; got {samples}, {chunk}")
    mapped = {} if axis_name is None else {"axis_name": axis_name}
    chunk = min(chunk, samples)
    chunks, rest = divmod(samples, chunk)
    chunk_key, rest_key = jax.random.split(key)

    def log_sum(key, k):
        log_w = log_weight_fn(key, x, k, **mapped)
        if log_w.ndim != 2 or log_w.shape[0] != k:
            raise ValueError(f"log_weight_fn must return [k n], here k={k}; got {log_w.shape}")
        return jax.nn.logsumexp(log_w.astype(jnp.float32), axis=0)

    log_sums = lax.map(lambda key: log_sum(key, chunk), jax.random.split(chunk_key, chunks))  # [chunks n]
    log_total = jax.nn.logsumexp(log_sums, axis=0)
    if rest:
        log_total = jnp.logaddexp(log_total, log_sum(rest_key, rest))
    return math.log(samples) - log_total
