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
    geometric_median,
    matched_scale,
    note_activity,
    note_sparse_activity,
    random_atoms,
    start_activity,
    unit_rows,
)
from jaxae.sae.bias_adaptation import (
    BiasAdaptation,
    geometric_targets,
    group_of,
    start_bias_adaptation,
)
from jaxae.sae.codes import Codes, add_rows, decode, dense, gather_decode, sparse_pays, values_at
from jaxae.sae.encoders import Encoded, gated, linear, of_pre
from jaxae.sae.ista import curvature, ista, proximal_gradient, soft_threshold
from jaxae.sae.k_sparse import iterative_hard_threshold, k_schedule, support_recovery_bound, topk_mask
from jaxae.sae.kron import combined, encoder_flops, kron_pre, kron_topk, kron_units, mand, split_index
from jaxae.sae.losses import auxk, l0_target, l1, matryoshka, matryoshka_weights, squared_error, tilted
from jaxae.sae.pursuit import Pursuit, fit_support, gradient_pursuit, matching_pursuit, orthogonal_matching_pursuit
from jaxae.sae.sparsifiers import (
    above,
    absolute_topk,
    batch_topk,
    feature_choice,
    heaviside,
    influence_score,
    jump_relu,
    kth_largest,
    nested_topk,
    prolu,
    relu,
    score_topk,
    topk,
)

__all__ = [
    "Activity", "Archetypes", "BiasAdaptation", "Codes", "Encoded", "Pursuit", "above", "absolute_topk",
    "across", "across_atoms", "add_rows", "archetypal_dictionary", "auxk", "batch_topk",
    "candidate_points", "combined", "curvature", "decode", "dense", "encoder_flops", "feature_choice",
    "fit_support", "gated", "gather_decode", "geometric_median", "geometric_targets", "gradient_pursuit",
    "group_of", "heaviside", "influence_score", "ista", "iterative_hard_threshold", "jump_relu", "k_schedule",
    "kron_pre", "kron_topk", "kron_units", "kth_largest", "l0_target", "l1", "linear", "mand", "matched_scale",
    "matching_pursuit", "matryoshka", "matryoshka_weights", "nested_topk", "note_activity", "note_sparse_activity",
    "of_pre", "orthogonal_matching_pursuit", "project_archetypal", "prolu", "proximal_gradient", "random_atoms",
    "relu", "score_topk", "soft_threshold", "sparse_pays", "split_index", "squared_error", "start_activity",
    "start_archetypes", "start_bias_adaptation", "support_recovery_bound", "tilted", "topk", "topk_mask",
    "unit_rows", "values_at",
]
