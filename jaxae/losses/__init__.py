"""Pure objectives, in nats per example and unreduced over the batch. Importing them loads little but jax."""

from jaxae.losses.elbo import bits_per_dim, elbo, gaussian_kl
from jaxae.losses.iwae import iwae_bound

__all__ = ["bits_per_dim", "elbo", "gaussian_kl", "iwae_bound"]
