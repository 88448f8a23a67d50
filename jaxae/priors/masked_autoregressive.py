"""Autoregressive prior on vectors: each dimension a mixture of Gaussians given those before it."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import logsumexp

from jaxae.distributions import normal_log_prob
from jaxae.nn import MADE
from jaxae.priors.base import Prior


def masked_autoregressive(d: int, components: int = 8, features: tuple[int, ...] = (128, 128),
                          classes: int = 0) -> Prior:
    """Prior on vectors by a masked network, trained on `-log_prob`; sampling takes d passes.

        log p(z) = sum_i log sum_k w_k(z_<i) N(z_i; m_k(z_<i), s_k(z_<i)^2)

    Args:
      d: dimension of the latents.
      components: Gaussians of each dimension.
      features: hidden widths of the network.
      classes: number of classes of a conditional prior, which then takes labels `[n]`; 0 for none.

    Raises:
      ValueError: for fewer than 1 dimension or component, or a label missing where there are classes.

    Reference: Germain, Gregor, Murray, Larochelle, 'MADE: masked autoencoder for distribution estimation', 2015,
    arXiv 1502.03509; mixtures as conditionals: Uria, Murray, Larochelle, 'RNADE', 2013, arXiv 1306.0186.

    >>> prior = masked_autoregressive(3, components=2)
    >>> params = prior.init(jax.random.key(0), jnp.zeros((5, 3)))
    >>> prior.log_prob(params, jnp.zeros((5, 3))).shape, prior.sample(params, jax.random.key(1), 4).shape
    ((5,), (4, 3))
    """
    if d < 1 or components < 1:
        raise ValueError(f"a masked autoregressive prior needs d >= 1 and components >= 1, got {d} and {components}")
    net = MADE(features, 3 * components)
    spread = jnp.linspace(-1.5, 1.5, components)[:, None] if components > 1 else jnp.zeros((1, 1))

    def context(label, n):
        if not classes:
            return None
        if label is None:
            raise ValueError(f"this prior has {classes} classes: give a label [n] of each latent")
        return jnp.broadcast_to(jax.nn.one_hot(label, classes), (n, classes))

    def conditionals(params, z, label):
        """Log weights, means and log standard deviations of every dimension, [n k d] each."""
        out = net.apply({"params": params}, z, context(label, z.shape[0]))
        logits, shift, log_std = jnp.split(out, 3, axis=1)
        return jax.nn.log_softmax(logits, axis=1), spread + shift, jnp.clip(log_std, -7.0, 7.0)

    def init(key, latents, label=None):
        return net.init(key, latents[:1], context(None if label is None else label[:1], 1))["params"]

    def log_prob(params, z, label=None, key=None):
        log_weights, mean, log_std = conditionals(params, z, label)
        return logsumexp(log_weights + normal_log_prob(z[:, None], mean, log_std), axis=1).sum(-1)

    def sample(params, key, n, label=None):
        def dimension(i, z):
            which_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            log_weights, mean, log_std = (part[:, :, i] for part in conditionals(params, z, label))
            which = jax.random.categorical(which_key, log_weights)[:, None]
            mean, log_std = (jnp.take_along_axis(part, which, axis=1)[:, 0] for part in (mean, log_std))
            return z.at[:, i].set(mean + jnp.exp(log_std) * jax.random.normal(noise_key, (n,)))

        return lax.fori_loop(0, d, dimension, jnp.zeros((n, d)))

    return Prior(init, log_prob, sample)

