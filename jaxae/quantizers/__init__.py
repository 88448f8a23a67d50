"""Quantizers as pure functions with explicit state: `z [... d]` in, codes, losses and new state out.

A `Quantizer` is the whole of a bottleneck: `vector`, `simvq`, `gumbel`, `finite_scalar`, `residual_finite_scalar`,
`lookup_free`, `binary_spherical`, `latent_quantization`, `multi_scale` and `per_token` make them; `product` and
`residual` make new ones of any of these.
"""

from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.codebook import CodeUse, code_probabilities, sample_code, to_unit_length, vector
from jaxae.quantizers.combine import product, residual
from jaxae.quantizers.decoder_gradient import gradient_by_decoder
from jaxae.quantizers.ema import EMACodebook, ema_codebook, ema_update, revive, soft_ema_update
from jaxae.quantizers.estimators import ESTIMATORS, householder_to, rotate_to, rotation_matrix, straight_through
from jaxae.quantizers.finite_scalar import (
    FSQ_LEVELS,
    FiniteScalars,
    finite_scalar,
    fsq,
    fsq_bound,
    fsq_codes_to_indices,
    fsq_indices_to_codes,
    residual_finite_scalar,
    residual_fsq,
    residual_fsq_indices_to_codes,
)
from jaxae.quantizers.global_tokens import (
    global_tokens,
    gradient_magnitudes,
    inverse_global_tokens,
    per_token,
    per_token_ema,
    per_token_vq,
    prefix_dropout_mask,
    principal_projections,
    voronoi_reset,
)
from jaxae.quantizers.gumbel import gumbel
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.latent import LatentQuantized, latent_lookup, latent_quantization, latent_quantize, latent_values
from jaxae.quantizers.lookup_free import (
    BitEntropies,
    binary_spherical,
    bit_entropies,
    bits_to_indices,
    indices_to_bits,
    lookup_free,
)
from jaxae.quantizers.multi_scale import MultiScale, multi_scale, multi_scale_lookup, multi_scale_quantize
from jaxae.quantizers.simvq import simvq
from jaxae.quantizers.vector import VectorQuantized, assign, lookup, nearest_code, sample_rows, vector_quantize

__all__ = [
    "BitEntropies", "CodeUse", "Codes", "EMACodebook", "ESTIMATORS", "FSQ_LEVELS", "FiniteScalars", "LatentQuantized",
    "MultiScale", "Quantized", "Quantizer", "VectorQuantized", "assign", "binary_spherical", "bit_entropies",
    "bits_to_indices", "code_probabilities", "ema_codebook", "ema_update", "finite_scalar", "fsq", "fsq_bound",
    "fsq_codes_to_indices", "fsq_indices_to_codes", "global_tokens", "gradient_by_decoder", "gradient_magnitudes",
    "gumbel", "householder_to", "indices_to_bits", "inverse_global_tokens", "kmeans", "latent_lookup",
    "latent_quantization", "latent_quantize", "latent_values", "lookup", "lookup_free", "multi_scale",
    "multi_scale_lookup", "multi_scale_quantize", "nearest_code", "per_token", "per_token_ema", "per_token_vq",
    "prefix_dropout_mask", "principal_projections", "product", "residual", "residual_finite_scalar", "residual_fsq",
    "residual_fsq_indices_to_codes", "revive", "rotate_to", "rotation_matrix", "sample_code", "sample_rows", "simvq",
    "soft_ema_update", "straight_through", "to_unit_length", "vector", "vector_quantize", "voronoi_reset",
]
