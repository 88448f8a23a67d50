"""Pure objectives, in nats per example and unreduced over the batch. Importing them loads little but jax."""

from jaxae.losses.capacity import (
    CapacityLoss,
    WaterFilling,
    capacity_loss,
    joint_capacity_loss,
    linear_capacity,
    reverse_water_filling,
)
from jaxae.losses.coupling import (
    SemidualState,
    coupling_rows,
    dual_objective,
    marginal_weights,
    positive_epsilon,
    primal_objective,
    semidual_asgd,
    semidual_gradient,
    semidual_init,
    semidual_objective,
    soft_c_transform,
)
from jaxae.losses.distances import squared_distances
from jaxae.losses.elbo import bits_per_dim, elbo, gaussian_kl
from jaxae.losses.gaussian import cholesky_kl, gaussian_wasserstein
from jaxae.losses.gradient_penalty import gradient_penalty
from jaxae.losses.hinge_gan import adaptive_gan_weight, hinge_discriminator_loss, hinge_generator_loss
from jaxae.losses.iwae import (
    ImportanceWeighted,
    ciwae_bound,
    importance_weighted_loss,
    iwae_bound,
    miwae_bound,
    vae_k_bound,
)
from jaxae.losses.mmd import (
    RadialKernel,
    energy_distance,
    hsic,
    inverse_multiquadric,
    kernel_stein_discrepancy,
    median_bandwidth,
    mmd,
    rbf,
)
from jaxae.losses.moments import (
    AggregateMoments,
    aggregate_moments,
    dip_penalty,
    individual_variance_kl,
    population_kl,
)
from jaxae.losses.perceptual import feature_distance, perceptual_distance
from jaxae.losses.pyramid import pyramid_target
from jaxae.losses.sinkhorn import Sinkhorn, sinkhorn, sinkhorn_points, transport_plan
from jaxae.losses.sinkhorn_divergence import sinkhorn_divergence
from jaxae.losses.sliced_wasserstein import (
    MaxSliced,
    generalized_sliced_wasserstein,
    max_sliced_wasserstein,
    sample_sphere,
    sliced_wasserstein,
    wasserstein_1d,
)
from jaxae.losses.sorting import argsort, sort
from jaxae.losses.spectral import spectral_distance, spectrogram
from jaxae.losses.total_correlation import (
    AggregateLogDensity,
    KLDecomposition,
    aggregate_log_density,
    beta_tc_kl,
    decompose_kl,
    density_ratio_tc,
    permute_dims,
    tc_discriminator_loss,
)
from jaxae.losses.unscented import (
    SigmaPoints,
    cholesky_from_correlations,
    scaled_gradient_penalty,
    select_sigma,
    sigma_points,
    sigma_reconstruction,
    wasserstein_to_standard,
)
from jaxae.losses.von_mises_fisher import vmf_kl, vmf_log_normalizer, vmf_log_prob, vmf_mean_length, vmf_sample
from jaxae.losses.weighted_bounds import autogen_bound, infovae_loss

__all__ = [
    "AggregateLogDensity", "AggregateMoments", "CapacityLoss", "ImportanceWeighted", "KLDecomposition", "MaxSliced",
    "RadialKernel", "SemidualState", "SigmaPoints", "Sinkhorn", "WaterFilling", "adaptive_gan_weight",
    "aggregate_log_density", "aggregate_moments", "argsort", "autogen_bound", "beta_tc_kl", "bits_per_dim",
    "capacity_loss", "cholesky_from_correlations", "cholesky_kl", "ciwae_bound", "coupling_rows", "decompose_kl",
    "density_ratio_tc", "dip_penalty", "dual_objective", "elbo", "energy_distance", "feature_distance",
    "gaussian_kl", "gaussian_wasserstein", "generalized_sliced_wasserstein", "gradient_penalty",
    "hinge_discriminator_loss", "hinge_generator_loss", "hsic", "importance_weighted_loss",
    "individual_variance_kl", "infovae_loss", "inverse_multiquadric", "iwae_bound", "joint_capacity_loss",
    "kernel_stein_discrepancy", "linear_capacity", "marginal_weights", "max_sliced_wasserstein", "median_bandwidth",
    "miwae_bound", "mmd", "perceptual_distance", "permute_dims", "population_kl", "positive_epsilon",
    "primal_objective", "pyramid_target", "rbf", "reverse_water_filling", "sample_sphere", "scaled_gradient_penalty",
    "select_sigma", "semidual_asgd", "semidual_gradient", "semidual_init", "semidual_objective", "sigma_points",
    "sigma_reconstruction", "sinkhorn", "sinkhorn_divergence", "sinkhorn_points", "sliced_wasserstein",
    "soft_c_transform", "sort", "spectral_distance", "spectrogram", "squared_distances", "tc_discriminator_loss",
    "transport_plan", "vae_k_bound",
    "vmf_kl", "vmf_log_normalizer", "vmf_log_prob", "vmf_mean_length", "vmf_sample", "wasserstein_1d",
    "wasserstein_to_standard",
]
