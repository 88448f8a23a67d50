"""Data: embedded digits, generators, files, and tensorflow-datasets without TensorFlow, behind one `load`.

Importing this is light: scikit-learn, Pillow, grain and tensorflow-datasets load when a source needs them.
"""

from jaxae.data import activations, dictionaries, gaussians, paraphrases, scenes, sprites, transforms
from jaxae.data.checks import check
from jaxae.data.dataset import DEFAULTS, SOURCES, Dataset, from_arrays, load
from jaxae.data.harvest import harvest
from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.paraphrases import chunk_template, make_triples
from jaxae.data.source import ArraySource, DataError, LazySource, Source
from jaxae.data.stream import stream

__all__ = [
    "ArraySource", "DEFAULTS", "DataError", "Dataset", "LazySource", "SOURCES", "Source", "activations",
    "batch_indices", "batches_per_epoch", "check", "chunk_template", "dictionaries", "from_arrays", "gaussians",
    "harvest", "load", "make_triples", "paraphrases", "scenes", "sprites", "stream", "transforms",
]
