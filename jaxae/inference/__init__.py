"""Samplers and exact inference as pure functions."""

from jaxae.inference.annealed_importance import Annealed, annealed_importance_sampling, annealed_log_likelihood
from jaxae.inference.langevin import langevin

__all__ = ["Annealed", "annealed_importance_sampling", "annealed_log_likelihood", "langevin"]
