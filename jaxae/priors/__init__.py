"""Latent priors: densities on an autoencoder's latents, behind one protocol."""

from jaxae.priors.autoregressive import autoregressive
from jaxae.priors.base import Prior
from jaxae.priors.flow import flow
from jaxae.priors.gaussian_mixture import EMResult, MixtureParams, em, gaussian_mixture
from jaxae.priors.simple import circle_of_gaussians, hypersphere, ring, standard_normal, uniform

__all__ = ["EMResult", "MixtureParams", "Prior", "autoregressive", "circle_of_gaussians", "em", "flow",
           "gaussian_mixture", "hypersphere", "ring", "standard_normal", "uniform"]
