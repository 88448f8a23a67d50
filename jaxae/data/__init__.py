"""Data: embedded digits, generators, files, and tensorflow-datasets without TensorFlow, behind one `load`.

Importing this is light: scikit-learn, Pillow, grain and tensorflow-datasets load when a source needs them.
"""

from jaxae.data import gaussians, paraphrases, scenes, sprites, transforms
from jaxae.data.checks import check
from jaxae.data.dataset import DEFAULTS, SOURCES, Dataset, from_arrays, load
from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.paraphrases import chunk_template, make_triples
from jaxae.data.source import ArraySource, DataError, LazySource, Source
from jaxae.data.stream import stream

__all__ = [
    "ArraySource", "DEFAULTS", "DataError", "Dataset", "LazySource", "SOURCES", "Source", "batch_indices",
    "batches_per_epoch", "check", "chunk_template", "from_arrays", "gaussians", "load", "make_triples", "paraphrases",
    "scenes", "sprites", "stream", "transforms",
]
