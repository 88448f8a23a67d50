"""Data: embedded digits, generators, files, and tensorflow-datasets without TensorFlow, behind one `load`.

Importing this is light: scikit-learn, Pillow, grain and tensorflow-datasets load when a source needs them.
"""

from jaxae.data import gaussians, sprites, transforms
from jaxae.data.checks import check
from jaxae.data.dataset import DEFAULTS, SOURCES, Dataset, from_arrays, load
from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.source import ArraySource, DataError, LazySource, Source
from jaxae.data.stream import stream

__all__ = [
    "DEFAULTS", "SOURCES", "ArraySource", "DataError", "Dataset", "LazySource", "Source", "batch_indices",
    "batches_per_epoch", "check", "from_arrays", "gaussians", "load", "sprites", "stream", "transforms",
]
