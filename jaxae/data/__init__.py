"""Data: embedded digits, generators, files, and tensorflow-datasets without TensorFlow, behind one `load`.

Importing this is light: scikit-learn, Pillow, grain and tensorflow-datasets load when a source needs them.
"""

from jaxae.data import activations, dictionaries, gaussians, paraphrases, scenes, sprites, transforms
from jaxae.data.checks import check
from jaxae.data.dataset import DEFAULTS, SOURCES, Dataset, from_arrays, load
from jaxae.data.harvest import harvest
from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.paraphrases import chunk_template, make_triples
from jaxae.data.selection import bm25_scores, dense_scores, select_top, tracin_scores
from jaxae.data.source import ArraySource, DataError, LazySource, Source
from jaxae.data.stream import stream
from jaxae.data.whitening import whiten

__all__ = [
    "ArraySource", "DEFAULTS", "DataError", "Dataset", "LazySource", "SOURCES", "Source", "activations",
    "batch_indices", "batches_per_epoch", "bm25_scores", "check", "chunk_template", "dense_scores", "dictionaries",
    "from_arrays", "gaussians", "harvest", "load", "make_triples", "paraphrases", "scenes", "select_top", "sprites",
    "stream", "tracin_scores", "transforms", "whiten",
]
