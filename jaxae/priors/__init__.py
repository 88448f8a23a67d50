"""Latent priors: densities on an autoencoder's latents, behind one protocol."""

from jaxae.priors.autoregressive import autoregressive
from jaxae.priors.base import Prior
from jaxae.priors.gaussian_mixture import EMResult, MixtureParams, em, gaussian_mixture

__all__ = ["EMResult", "MixtureParams", "Prior", "autoregressive", "em", "gaussian_mixture"]
