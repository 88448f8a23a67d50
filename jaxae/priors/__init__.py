"""Latent priors: densities on an autoencoder's latents, behind one protocol."""

from jaxae.priors.autoregressive import autoregressive
from jaxae.priors.base import Prior
from jaxae.priors.diagonal_mixture import (
    DiagonalMixture,
    diagonal_mixture,
    diagonal_mixture_log_prob,
    diagonal_mixture_sample,
)
from jaxae.priors.flow import flow
from jaxae.priors.gaussian_mixture import EMResult, MixtureParams, em, gaussian_mixture
from jaxae.priors.masked_autoregressive import masked_autoregressive
from jaxae.priors.simple import circle_of_gaussians, hypersphere, ring, standard_normal, uniform

__all__ = ["DiagonalMixture", "EMResult", "MixtureParams", "Prior", "autoregressive", "circle_of_gaussians",
           "diagonal_mixture", "diagonal_mixture_log_prob", "diagonal_mixture_sample", "em", "flow", "gaussian_mixture",
           "hypersphere", "masked_autoregressive", "ring", "standard_normal", "uniform"]
