"""Dictionaries for tests of files, and what reads and writes them; without jax beyond what `jaxae.sae` imports."""

import numpy as np

from jaxae.sae import formats
from jaxae.sae.formats import Dictionary

LOADERS = {"saelens": formats.load_saelens, "sparsify": formats.load_sparsify, "gemma_scope": formats.load_gemma_scope}
SAVERS = {"saelens": formats.save_saelens, "sparsify": formats.save_sparsify, "gemma_scope": formats.save_gemma_scope}
D, M = 6, 10


def example(kind="relu", out=D, seed=0, **options) -> Dictionary:
    """A dictionary whose every parameter counts."""
    rng = np.random.default_rng(seed)
    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)
    if kind == "jump_relu":
        options["threshold"] = np.where(np.arange(M) % 4 == 0, 0.0, rng.uniform(0.1, 1.5, M))
    if kind == "gated":
        options |= dict(gate=0.3 * normal(M), log_scale=0.3 * normal(M))
    if options.pop("skip", False):
        options["skip"] = normal(D, out)
    k = dict(k=3) if "topk" in kind else {}
    return formats.make(normal(D, M), normal(M, out), 0.3 * normal(M), normal(out), sparsifier=kind, **k, **options)
