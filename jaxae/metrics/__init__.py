"""Metrics as pure functions of arrays, with small accumulators where they stream."""

from jaxae.metrics.codes import code_counts, perplexity, usage
from jaxae.metrics.disentanglement import (
    DCI,
    dci,
    dci_scores,
    discretize,
    mig,
    modularity,
    mutual_information,
    mutual_information_matrix,
    sap,
    sap_continuous,
)
from jaxae.metrics.features import digit_accuracy, digit_features, digit_logits
from jaxae.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_from_moments,
    init_moments,
    merge_moments,
    update_moments,
)
from jaxae.metrics.image import laplacian_sharpness, mse, permutation_psnr, psnr, ssim
from jaxae.metrics.inception_score import InceptionScore, inception_score
from jaxae.metrics.infomec import InfoMEC, infomec, nmi_matrix
from jaxae.metrics.intervention import InterventionScore, beta_vae_score, factor_vae_score
from jaxae.metrics.kernel import KernelDistance, kernel_distance, kernel_distance_subsets
from jaxae.metrics.latents import (
    active_units,
    aggregate_logdet,
    box_counting_dimension,
    class_mismatch,
    cluster_accuracy,
    intrinsic_dimension_mle,
    intrinsic_dimension_two_nn,
    latent_mutual_information,
)
from jaxae.metrics.likelihood import bits_per_dim, importance_sampled_nll
from jaxae.metrics.precision_recall import PrecisionRecall, precision_recall
from jaxae.metrics.probe import linear_probe
from jaxae.metrics.segmentation import confusion_matrix, mean_iou
from jaxae.metrics.text import bleu, bleu_counts, bleu_of_counts, ibleu, ibleu_of
from jaxae.metrics.tokens import exact_match, token_accuracy

__all__ = [
    "DCI", "InceptionScore", "InfoMEC", "InterventionScore", "KernelDistance", "Moments", "PrecisionRecall",
    "active_units", "aggregate_logdet", "beta_vae_score", "bits_per_dim", "bleu", "bleu_counts", "bleu_of_counts",
    "box_counting_dimension", "class_mismatch", "cluster_accuracy", "code_counts", "confusion_matrix", "dci",
    "dci_scores", "digit_accuracy", "digit_features", "digit_logits", "discretize", "exact_match", "factor_vae_score",
    "frechet_distance", "frechet_from_moments", "ibleu", "ibleu_of", "importance_sampled_nll", "inception_score",
    "infomec", "init_moments", "intrinsic_dimension_mle", "intrinsic_dimension_two_nn", "kernel_distance",
    "kernel_distance_subsets", "laplacian_sharpness", "latent_mutual_information", "linear_probe", "mean_iou",
    "merge_moments", "mig", "modularity", "mse", "mutual_information", "mutual_information_matrix", "nmi_matrix",
    "permutation_psnr", "perplexity", "precision_recall", "psnr", "sap", "sap_continuous", "ssim", "token_accuracy",
    "update_moments", "usage",
]
