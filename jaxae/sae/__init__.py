"""Sparse dictionaries: codes, encoders, sparsifiers, losses and the care of atoms, as pure functions that compose.

`configs/sae.py` names compositions; `jaxae.systems.sparse.dictionary` trains them.
"""

from jaxae.sae.archetypal import (
    Archetypes,
    archetypal_dictionary,
    candidate_points,
    project_archetypal,
    start_archetypes,
)
from jaxae.sae.atoms import (
    Activity,
    across,
    across_atoms,
    firing_frequency,
    geometric_median,
    matched_scale,
    note_activity,
    note_sparse_activity,
    random_atoms,
    ranks,
    start_activity,
    underused,
    unit_rows,
)
from jaxae.sae.batch_selection import batch_topk_entries
from jaxae.sae.bias_adaptation import (
    BiasAdaptation,
    geometric_targets,
    group_of,
    start_bias_adaptation,
)
from jaxae.sae.codes import (
    Codes,
    add_rows,
    decode,
    dense,
    gather_decode,
    gather_decode_entries,
    row_sums,
    sparse_pays,
    values_at,
)
from jaxae.sae.encoders import Encoded, gated, linear, of_pre
from jaxae.sae.factorizations import Factorization, archetypal_analysis, convex_nmf, factorize, semi_nmf
from jaxae.sae.formats import (
    Dictionary,
    fold_scale,
    load_gemma_scope,
    load_saelens,
    load_sparsify,
    normalise_scale,
    save_gemma_scope,
    save_saelens,
    save_sparsify,
)
from jaxae.sae.influence import (
    Activations,
    SteeringEffect,
    activation_gradients,
    attribution,
    influence_error,
    spliced,
    steering_effect,
)
from jaxae.sae.interventions import (
    Eraser,
    each_erased,
    erase_feature,
    greedy_patching,
    leace,
    mean_eraser,
    patch_features,
    patching_order,
)
from jaxae.sae.ista import curvature, ista, proximal_gradient, soft_threshold
from jaxae.sae.k_sparse import iterative_hard_threshold, k_schedule, support_recovery_bound, topk_mask
from jaxae.sae.kron import (
    combined,
    encoder_flops,
    encoder_parameters,
    kron_pre,
    kron_topk,
    kron_units,
    mand,
    split_index,
)
from jaxae.sae.linear_dictionaries import ica_dictionary, pca_dictionary
from jaxae.sae.losses import auxk, l0_target, l1, matryoshka, matryoshka_weights, revival, squared_error, tilted
from jaxae.sae.nested import matryoshka_ks, recovery_curve
from jaxae.sae.pursuit import (
    Pursuit,
    fit_support,
    gradient_pursuit,
    matching_pursuit,
    merged,
    orthogonal_matching_pursuit,
)
from jaxae.sae.ranking import kth_largest, largest_places
from jaxae.sae.refinement import refined, threshold_at
from jaxae.sae.sparsifiers import (
    above,
    absolute_topk,
    batch_topk,
    feature_choice,
    heaviside,
    influence_score,
    jump_relu,
    nested_topk,
    prolu,
    relu,
    score_topk,
    topk,
)
from jaxae.sae.stitching import stitched

__all__ = [
    "Activations", "Activity", "Archetypes", "BiasAdaptation", "Codes", "Dictionary", "Encoded", "Eraser",
    "Factorization", "Pursuit", "SteeringEffect", "above", "absolute_topk", "across", "across_atoms",
    "activation_gradients", "add_rows", "archetypal_analysis", "archetypal_dictionary", "attribution", "auxk",
    "batch_topk", "batch_topk_entries", "candidate_points", "combined", "convex_nmf", "curvature", "decode",
    "dense", "each_erased", "encoder_flops", "encoder_parameters", "erase_feature", "factorize", "feature_choice",
    "firing_frequency", "fit_support", "fold_scale", "gated", "gather_decode", "gather_decode_entries",
    "geometric_median", "geometric_targets", "gradient_pursuit", "greedy_patching", "group_of", "heaviside",
    "ica_dictionary", "influence_error", "influence_score", "ista", "iterative_hard_threshold", "jump_relu",
    "k_schedule", "kron_pre", "kron_topk", "kron_units", "kth_largest", "l0_target", "l1", "largest_places",
    "leace", "linear", "load_gemma_scope", "load_saelens", "load_sparsify", "mand", "matched_scale",
    "matching_pursuit", "matryoshka", "matryoshka_ks", "matryoshka_weights", "mean_eraser", "merged", "nested_topk",
    "normalise_scale", "note_activity", "note_sparse_activity", "of_pre", "orthogonal_matching_pursuit",
    "patch_features", "patching_order", "pca_dictionary", "project_archetypal", "prolu", "proximal_gradient",
    "random_atoms", "ranks", "recovery_curve", "refined", "relu", "revival", "row_sums", "save_gemma_scope",
    "save_saelens", "save_sparsify", "score_topk", "semi_nmf", "soft_threshold", "sparse_pays", "spliced",
    "split_index", "squared_error", "start_activity", "start_archetypes", "start_bias_adaptation",
    "steering_effect", "stitched", "support_recovery_bound", "threshold_at", "tilted", "topk", "topk_mask",
    "underused", "unit_rows", "values_at",
]
