"""Metrics as pure functions of arrays, with small accumulators where they stream."""

from jaxae.metrics.audio import si_sdr
from jaxae.metrics.code_correlation import GroupCorrelation, code_correlation, group_correlation
from jaxae.metrics.codes import code_counts, perplexity, usage
from jaxae.metrics.concepts import LatentName, name_latents
from jaxae.metrics.coverage import cumulative_coverage, token_coverage, token_entropy, token_f1, worst_group_accuracy
from jaxae.metrics.dark_matter import (
    ActivationModel,
    ErrorDecomposition,
    Linear,
    activation_model,
    decompose_error,
    fit_linear,
    per_token_scaling,
    r2,
)
from jaxae.metrics.description_length import (
    DescriptionLength,
    Selection,
    cooccurrence_tree,
    decoder_bits,
    delta_for_mse,
    dense_bits,
    mdl_select,
    naive_bits,
    onehot_bits,
    quantize_codes,
    spike_bits,
    splitting_gain,
)
from jaxae.metrics.dictionaries import (
    FrequencyTable,
    Matching,
    MeanCorrelation,
    consistency_by_frequency,
    cross_seed_consistency,
    dictionary_stability,
    feature_recovery,
    match_atoms,
    max_cosine,
    mcc,
    mean_max_cosine,
    pw_mcc,
)
from jaxae.metrics.dictionary_geometry import (
    babel,
    babel_coactive,
    coherence,
    connectivity,
    effective_rank,
    hoyer,
    negative_interference,
    ood_score,
    plausibility,
    spark_lower_bound,
    stable_rank,
)
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
from jaxae.metrics.features import colour_features, digit_accuracy, digit_features, digit_logits, digit_maps
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
from jaxae.metrics.latent_probes import ProbeLoss, ablation_sparsity, cknna, probe_loss, soft_identifiability
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
from jaxae.metrics.retrieval import retrieval_accuracy
from jaxae.metrics.scaling_laws import ScalingLaw, Zipf, fit_scaling_law, fit_zipf, zipf_quotas
from jaxae.metrics.seed_alignment import Alignment, align, counterparts, union_growth
from jaxae.metrics.segmentation import confusion_matrix, mean_iou, pixel_accuracy
from jaxae.metrics.sparse_codes import (
    CodeStatistics,
    CodeSummary,
    alive_fraction,
    density,
    density_histogram,
    explained_variance,
    fvu,
    init_code_statistics,
    l0,
    latent_zscore,
    merge_code_statistics,
    normalised_mse,
    summarize_codes,
    support_changes,
    top_example_overlap,
    update_code_statistics,
)
from jaxae.metrics.text import bleu, bleu_counts, bleu_of_counts, ibleu, ibleu_of
from jaxae.metrics.tokens import exact_match, token_accuracy

__all__ = [
    "ActivationModel", "Alignment", "CodeStatistics", "CodeSummary", "DCI", "DescriptionLength",
    "ErrorDecomposition", "FrequencyTable", "GroupCorrelation", "InceptionScore", "InfoMEC", "InterventionScore",
    "KernelDistance", "LatentName", "Linear", "Matching", "MeanCorrelation", "Moments", "PrecisionRecall",
    "ProbeLoss", "ScalingLaw", "Selection", "Zipf", "ablation_sparsity", "activation_model", "active_units",
    "aggregate_logdet", "align", "alive_fraction", "babel", "babel_coactive", "beta_vae_score", "bits_per_dim",
    "bleu", "bleu_counts", "bleu_of_counts", "box_counting_dimension", "cknna", "class_mismatch",
    "cluster_accuracy", "code_correlation", "code_counts", "coherence", "colour_features", "confusion_matrix",
    "connectivity",
    "consistency_by_frequency", "cooccurrence_tree", "counterparts", "cross_seed_consistency",
    "cumulative_coverage", "dci", "dci_scores", "decoder_bits", "decompose_error", "delta_for_mse", "dense_bits",
    "density", "density_histogram", "dictionary_stability", "digit_accuracy", "digit_features", "digit_logits",
    "digit_maps", "discretize", "effective_rank", "exact_match", "explained_variance", "factor_vae_score",
    "feature_recovery", "fit_linear", "fit_scaling_law", "fit_zipf", "frechet_distance", "frechet_from_moments",
    "fvu", "group_correlation", "hoyer", "ibleu", "ibleu_of", "importance_sampled_nll", "inception_score",
    "infomec", "init_code_statistics", "init_moments", "intrinsic_dimension_mle", "intrinsic_dimension_two_nn",
    "kernel_distance", "kernel_distance_subsets", "l0", "laplacian_sharpness", "latent_mutual_information",
    "latent_zscore", "linear_probe", "match_atoms", "max_cosine", "mcc", "mdl_select", "mean_iou",
    "mean_max_cosine", "merge_code_statistics", "merge_moments", "mig", "modularity", "mse", "mutual_information",
    "mutual_information_matrix", "naive_bits", "name_latents", "negative_interference", "nmi_matrix",
    "normalised_mse", "onehot_bits", "ood_score", "per_token_scaling", "permutation_psnr", "perplexity",
    "pixel_accuracy",
    "plausibility", "precision_recall", "probe_loss", "psnr", "pw_mcc", "quantize_codes", "r2",
    "retrieval_accuracy", "sap", "sap_continuous", "si_sdr", "soft_identifiability", "spark_lower_bound", "spike_bits",
    "splitting_gain", "ssim", "stable_rank", "summarize_codes", "support_changes", "token_accuracy",
    "token_coverage", "token_entropy", "token_f1", "top_example_overlap", "union_growth", "update_code_statistics",
    "update_moments", "usage", "worst_group_accuracy", "zipf_quotas",
]
