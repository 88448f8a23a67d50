"""Metrics as pure functions of arrays, with small accumulators where they stream."""

from jaxae.metrics.codes import code_counts, perplexity, usage
from jaxae.metrics.features import digit_accuracy, digit_features
from jaxae.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_from_moments,
    init_moments,
    merge_moments,
    update_moments,
)
from jaxae.metrics.image import mse, psnr, ssim
from jaxae.metrics.kernel import KernelDistance, kernel_distance, kernel_distance_subsets
from jaxae.metrics.likelihood import bits_per_dim, importance_sampled_nll
from jaxae.metrics.probe import linear_probe

__all__ = [
    "KernelDistance", "Moments", "bits_per_dim", "code_counts", "digit_accuracy", "digit_features",
    "frechet_distance", "frechet_from_moments",
    "importance_sampled_nll", "init_moments", "kernel_distance", "kernel_distance_subsets", "linear_probe",
    "merge_moments", "mse", "perplexity", "psnr", "ssim", "update_moments", "usage",
]
