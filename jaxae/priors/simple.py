"""Priors that are fixed in advance: densities with a sampler and no parameters."""

import math

import jax
import jax.numpy as jnp

from jaxae.distributions import normal_log_prob
from jaxae.priors.base import Prior


def standard_normal(d: int) -> Prior:
    """The standard normal distribution N(0, I) on R^d, log p(z) = -|z|^2 / 2 - d/2 log 2 pi."""
    return _fixed(lambda z: normal_log_prob(z, 0.0, 0.0).sum(-1), lambda key, n: jax.random.normal(key, (n, d)))


def uniform(d: int) -> Prior:
    """The uniform distribution on the cube [-1, 1]^d; log p is -infinity outside."""
    return _fixed(lambda z: jnp.where(jnp.all(jnp.abs(z) <= 1.0, -1), -d * math.log(2.0), -jnp.inf),
                  lambda key, n: jax.random.uniform(key, (n, d), minval=-1.0))


def ring(inner: float = 0.5) -> Prior:
    """The uniform distribution on the plane's ring of radii in [inner, 1]; `inner=0` is the disk.

    The radius is sqrt(inner^2 + (1 - inner^2) u) with u uniform, so that the density is constant.

    Raises:
      ValueError: unless 0 <= inner < 1.
    """
    if not 0.0 <= inner < 1.0:
        raise ValueError(f"ring wants 0 <= inner < 1; got {inner}")
    log_density = -math.log(math.pi * (1.0 - inner**2))

    def log_prob(z):
        radius = jnp.linalg.norm(z, axis=-1)
        return jnp.where((radius >= inner) & (radius <= 1.0), log_density, -jnp.inf)

    def sample(key, n):
        radius_key, angle_key = jax.random.split(key)
        radius = jnp.sqrt(inner**2 + (1.0 - inner**2) * jax.random.uniform(radius_key, (n,)))
        angle = 2.0 * math.pi * jax.random.uniform(angle_key, (n,))
        return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], -1)

    return _fixed(log_prob, sample)


def circle_of_gaussians(components: int = 8, d: int = 2, radius: float = 4.0, std: float = 0.5) -> Prior:
    """Equal Gaussians N(m_j, std^2 I) with means evenly on a circle in the first two coordinates.

    Raises:
      ValueError: for fewer than 1 component or 2 dimensions.
    """
    if components < 1 or d < 2:
        raise ValueError(f"circle_of_gaussians wants components >= 1 and d >= 2; got {components} and {d}")
    angle = 2.0 * math.pi * jnp.arange(components) / components
    means = jnp.zeros((components, d)).at[:, 0].set(radius * jnp.cos(angle)).at[:, 1].set(radius * jnp.sin(angle))

    def log_prob(z):
        each = normal_log_prob(z[..., None, :], means, math.log(std)).sum(-1)
        return jax.nn.logsumexp(each, -1) - math.log(components)

    def sample(key, n):
        which, noise = jax.random.split(key)
        return means[jax.random.randint(which, (n,), 0, components)] + std * jax.random.normal(noise, (n, d))

    return _fixed(log_prob, sample)


def hypersphere(d: int) -> Prior:
    """The uniform distribution on the unit sphere S^(d-1) in R^d; log p is with respect to its surface measure."""
    log_area = math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)

    def sample(key, n):
        z = jax.random.normal(key, (n, d))
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    return _fixed(lambda z: jnp.full(z.shape[:-1], -log_area), sample)


def _fixed(log_prob, sample) -> Prior:
    return Prior(init=lambda key, latents, label=None: (),
                 log_prob=lambda params, z, label=None, key=None: log_prob(z),
                 sample=lambda params, key, n, label=None: sample(key, n))
