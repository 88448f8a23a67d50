"""Samplers and exact inference as pure functions."""

from jaxae.inference.addend_tokens import (
    PairCounts,
    PairLikelihood,
    count_addend_pairs,
    count_addend_tokens,
    token_log_likelihood,
)
from jaxae.inference.annealed_importance import Annealed, annealed_importance_sampling, annealed_log_likelihood
from jaxae.inference.bitstream import compress, decompress
from jaxae.inference.langevin import langevin
from jaxae.inference.source_separation import (
    Refined,
    Separation,
    refine_sources,
    select_closest,
    separate_beam,
    separate_sample,
)

__all__ = [
    "Annealed", "PairCounts", "PairLikelihood", "Refined", "Separation", "annealed_importance_sampling",
    "annealed_log_likelihood", "compress", "count_addend_pairs", "count_addend_tokens", "decompress", "langevin",
    "refine_sources", "select_closest", "separate_beam", "separate_sample", "token_log_likelihood",
]
