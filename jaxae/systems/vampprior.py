"""The VampPrior: a mixture of the model's own posteriors at learned pseudo-inputs."""

import math

import jax
import jax.numpy as jnp

from jaxae.priors.base import Prior
from jaxae.systems.posteriors import Posterior


def vampprior(count: int, shape: tuple[int, ...], family: Posterior, encode) -> Prior:
    """p(z) = 1/K sum_k q(z | u_k), with pseudo-inputs u_k in [0, 1] learned with the rest of the model.

    Args:
      count: K.
      shape: of one example.
      family: the model's posterior, which needs a density.
      encode: `(params, x) -> out`; the functions of the result get the whole model's `params`.

    Raises:
      ValueError: for K < 1 or a deterministic encoder.

    Reference: Tomczak and Welling, VAE with a VampPrior, AISTATS 2018, arXiv 1705.07120.
    """
    if count < 1 or family.log_prob is None:
        raise ValueError("a VampPrior needs model.pseudo_inputs >= 1 and a posterior with a density at any z: "
                         "model.posterior='diagonal', 'full' or 'mixture'")

    def init(key, x, label=None):
        return jax.random.normal(key, (count, *shape)) - 1.0  # logits of pixels: dark grey noise

    def components(params):
        return encode(params, jax.nn.sigmoid(params["prior"]))  # [K outputs]

    def log_prob(params, z, label=None, key=None):
        out = components(params)
        each = jax.vmap(lambda row: family.log_prob(jnp.broadcast_to(row, (z.shape[0], row.size)), z))(out)  # [K n]
        return jax.nn.logsumexp(each, axis=0) - math.log(count)

    def sample(params, key, n, label=None):
        which, noise = jax.random.split(key)
        chosen = components(params)[jax.random.randint(which, (n,), 0, count)]
        return family.sample(chosen, noise)

    return Prior(init, log_prob, sample)
