"""Quantizers as pure functions with explicit state: `z [... d]` in, codes, losses and new state out."""

from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.ema import EMACodebook, ema_codebook, ema_update, revive
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.vector import (
    VectorQuantized,
    lookup,
    nearest_code,
    sample_rows,
    straight_through,
    vector_quantize,
)

__all__ = ["Codes", "EMACodebook", "Quantized", "Quantizer", "VectorQuantized", "ema_codebook", "ema_update", "kmeans",
           "lookup", "nearest_code", "revive", "sample_rows", "straight_through", "vector_quantize"]
