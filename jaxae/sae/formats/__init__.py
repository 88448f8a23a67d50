"""Dictionaries of other libraries: files of SAELens and sparsify, and the npz of Gemma Scope; numpy alone."""

from jaxae.sae.formats.dictionary import Dictionary, make, threshold_of, uncentred
from jaxae.sae.formats.gemma_scope import load_gemma_scope, save_gemma_scope
from jaxae.sae.formats.saelens import load_saelens, save_saelens
from jaxae.sae.formats.scale import fold_scale, normalise_scale
from jaxae.sae.formats.sparsify import load_sparsify, save_sparsify

__all__ = [
    "Dictionary", "fold_scale", "load_gemma_scope", "load_saelens", "load_sparsify", "make", "normalise_scale",
    "save_gemma_scope", "save_saelens", "save_sparsify", "threshold_of", "uncentred",
]
