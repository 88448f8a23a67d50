"""Mixtures of diagonal Gaussians that train by gradient: as prior, and as a posterior with exact gradients of draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import collectives
from jaxae.distributions import normal_log_prob
from jaxae.priors.base import Prior


class DiagonalMixture(NamedTuple):
    """sum_k w_k N(mean_k, diag std_k^2) with w = softmax(logits); leading axes are of examples."""

    logits: Float[Array, "*batch k"]
    means: Float[Array, "*batch k d"]
    log_std: Float[Array, "*batch k d"]


def diagonal_mixture_log_prob(z: Float[Array, "*batch d"], mixture: DiagonalMixture) -> Float[Array, "*batch"]:
    """log sum_k w_k N(z; mean_k, diag std_k^2), nats summed over the dimensions.

    Args:
      z: points; their leading axes and the mixture's broadcast.
      mixture: the parameters.

    >>> one = DiagonalMixture(jnp.zeros(2), jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    >>> f'{diagonal_mixture_log_prob(jnp.zeros((1, 3)), one)[0]:.4f}'  # -3/2 log 2 pi
    '-2.7568'
    """
    each = normal_log_prob(z[..., None, :], mixture.means, mixture.log_std).sum(-1)
    return jax.nn.logsumexp(jax.nn.log_softmax(mixture.logits) + each, axis=-1)


def diagonal_mixture_sample(key: Array, mixture: DiagonalMixture, axis_name: str | None = None) -> Float[Array, "n d"]:
    """One draw of each example's mixture, with the exact gradient by implicit reparameterization.

    A draw does not move smoothly with its component's index, but its distribution function does: with
    S_i(z) = P(Z_i <= z_i | z_1 ... z_{i-1}), held at its value, dz = -(dS/dz)^{-1} (dS/dphi) dphi. dS/dz is
    triangular, [d d] for each example.

    Args:
      key: of the draw.
      mixture: parameters `[n k]`, `[n k d]`, `[n k d]`.
      axis_name: the mapped axis of the batch; one device and many draw the same noise.

    Reference: Figurnov, Mohamed and Mnih, 'Implicit reparameterization gradients', NeurIPS 2018, arXiv 1805.08498.

    >>> parameters = DiagonalMixture(jnp.zeros((5, 2)), jnp.zeros((5, 2, 3)), jnp.zeros((5, 2, 3)))
    >>> diagonal_mixture_sample(jax.random.key(0), parameters).shape
    (5, 3)
    """
    which_key, noise_key = jax.random.split(key)
    n, _, d = mixture.means.shape
    gumbel = collectives.draw(jax.random.gumbel, which_key, mixture.logits.shape, axis_name)
    which = jnp.argmax(mixture.logits + gumbel, axis=-1)[:, None, None]
    noise = collectives.draw(jax.random.normal, noise_key, (n, d), axis_name)
    mean, log_std = (jnp.take_along_axis(part, which, axis=1)[:, 0] for part in mixture[1:])
    z = jax.lax.stop_gradient(mean + jnp.exp(log_std) * noise)
    slope = jax.lax.stop_gradient(jax.vmap(jax.jacfwd(_conditional_cdf))(z, mixture))
    level = jax.vmap(_conditional_cdf)(z, mixture)
    change = (level - jax.lax.stop_gradient(level))[..., None]  # zero, with the gradient that is wanted
    return z - jax.scipy.linalg.solve_triangular(slope, change, lower=True)[..., 0]


def _conditional_cdf(z: Float[Array, " d"], mixture: DiagonalMixture) -> Float[Array, " d"]:
    """P(Z_i <= z_i | z_1 ... z_{i-1}) of one point under one mixture."""
    each = normal_log_prob(z, mixture.means, mixture.log_std)  # [k d]
    before = jnp.cumsum(each, axis=-1) - each
    share = jax.nn.softmax(mixture.logits[:, None] + before, axis=0)
    return jnp.sum(share * jax.scipy.stats.norm.cdf((z - mixture.means) * jnp.exp(-mixture.log_std)), axis=0)


def diagonal_mixture(components: int, d: int) -> Prior:
    """A mixture of diagonal Gaussians as a prior that is trained with the model: its parameters are a
    `DiagonalMixture` without leading axes, and it starts as unit Gaussians around draws of N(0, I).

    Args:
      components: k.
      d: dimension of the latent.

    Raises:
      ValueError: for fewer than 1 component.

    Reference: as prior of a VAE with clusters, Dilokthanakul et al., 2016, arXiv 1611.02648; Jiang et al., 'Variational
    deep embedding', 2017, arXiv 1611.05148.

    >>> prior = diagonal_mixture(4, 2)
    >>> prior.sample(prior.init(jax.random.key(0), None), jax.random.key(1), 7).shape
    (7, 2)
    """
    if components < 1:
        raise ValueError(f"a mixture needs at least 1 component, got {components}")

    def init(key, latents, label=None):
        return DiagonalMixture(jnp.zeros(components), jax.random.normal(key, (components, d)),
                               jnp.zeros((components, d)))

    def sample(params, key, n, label=None):
        spread = jax.tree.map(lambda part: jnp.broadcast_to(part, (n, *part.shape)), params)
        return diagonal_mixture_sample(key, spread)

    return Prior(init, lambda params, z, label=None, key=None: diagonal_mixture_log_prob(z, params), sample)
