"""Latent priors: distributions of an autoencoder's latents, behind one protocol."""

from jaxae.priors.autoregressive import autoregressive
from jaxae.priors.axial import axial
from jaxae.priors.base import Prior
from jaxae.priors.causal_continuous import CausalContinuousAR, causal_continuous
from jaxae.priors.coarse_to_fine import (
    Clusters,
    CoarseToFine,
    cluster_codebook,
    coarse_to_fine,
    random_within_cluster,
)
from jaxae.priors.diagonal_mixture import (
    DiagonalMixture,
    diagonal_mixture,
    diagonal_mixture_log_prob,
    diagonal_mixture_sample,
)
from jaxae.priors.diffusion import diffusion
from jaxae.priors.flow import flow
from jaxae.priors.gaussian_mixture import EMResult, MixtureParams, em, gaussian_mixture
from jaxae.priors.masked import masked
from jaxae.priors.masked_autoregressive import masked_autoregressive
from jaxae.priors.masked_continuous import masked_continuous
from jaxae.priors.next_scale import next_scale
from jaxae.priors.simple import circle_of_gaussians, hypersphere, ring, standard_normal, uniform
from jaxae.priors.sliding_window import sample_windows, window_logits
from jaxae.priors.tokens import Head, diffusion_head
from jaxae.priors.transformer import transformer

__all__ = [
    "CausalContinuousAR", "Clusters", "CoarseToFine", "DiagonalMixture", "EMResult", "Head", "MixtureParams", "Prior",
    "autoregressive", "axial", "causal_continuous", "circle_of_gaussians", "cluster_codebook", "coarse_to_fine",
    "diagonal_mixture", "diagonal_mixture_log_prob", "diagonal_mixture_sample", "diffusion", "diffusion_head", "em",
    "flow", "gaussian_mixture", "hypersphere", "masked", "masked_autoregressive", "masked_continuous", "next_scale",
    "random_within_cluster", "ring", "sample_windows", "standard_normal", "transformer", "uniform", "window_logits",
]
