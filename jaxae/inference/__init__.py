"""Samplers and exact inference as pure functions."""

from jaxae.inference.langevin import langevin

__all__ = ["langevin"]
