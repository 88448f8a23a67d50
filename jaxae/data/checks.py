"""What arrays may be autoencoded, and one clear error for each that may not.

The kinds of `x`, told apart by rank and dtype:

| x | kind |
|---|---|
| uint8 `[n h w c]` or `[n h w]` | image, 0 to 255; `[n h w]` gains a channel axis |
| bool `[n h w c]` or `[n h w]` | binary image, stored as uint8 0 and 255 |
| float `[n h w c]` or `[n h w]` | image in [0, 1]; `[n h w]` gains a channel axis |
| uint8, bool or float `[n t h w c]` | video of t frames, as images |
| float `[n t 1]` | waveform, any finite values |
| float `[n d]` | vector, any finite values |
| uint8 or bool `[n d]` | vector of pixels, 0 to 255 |
| int16, int32, int64, uint16, uint32 `[n t]` or `[n h w]` | tokens, stored as int32 |
"""

import warnings
from typing import Any

import numpy as np

from jaxae.data.source import ArraySource, DataError, Source

_SHAPES = ("x must be an image [n h w c] or [n h w], a video [n t h w c], a waveform [n t 1], a vector [n d], or "
           "integer tokens [n t] or [n h w]")


def as_x(x: Any, name: str = "x") -> np.ndarray:
    """Brings `x` to the form in which it is stored, by the table of this module.

    Args:
      x: array-like `[n ...]`.
      name: what to call it in errors.

    Returns:
      uint8, floating (at most 32 bits) or int32 array; images `[n h w c]`, videos `[n t h w c]`.

    Raises:
      DataError: for what is not in the table.
    """
    try:
        x = np.asarray(x)
    except ValueError as e:   # numpy refuses ragged lists
        raise DataError(f"{name} is ragged: make all examples one shape, by resizing or padding") from e
    kind = kind_of(x)
    if kind not in ("uint8", "bool", "float", "tokens"):
        raise DataError(f"{name} has dtype {x.dtype}, which no model here reads: use uint8 or float images, "
                        "float vectors or integer tokens" + _hint(kind))
    if not 2 <= x.ndim <= 5:
        raise DataError(f"{name} has shape {list(x.shape)}: {_SHAPES}" + _batch_hint(x))
    if kind == "tokens" and x.ndim >= 4:
        raise DataError(f"{name} is an image {list(x.shape)} of dtype {x.dtype}: use astype('uint8') for "
                        "values 0 to 255, or divide by the largest possible value to get floats in [0, 1]")
    if kind == "tokens":
        if x.size and x.max() > np.iinfo(np.int32).max:
            raise DataError(f"{name} has tokens up to {x.max()}, above int32: renumber them from 0")
        return x.astype(np.int32)
    if kind == "bool":
        x = x.astype(np.uint8) * np.uint8(255)
    if x.dtype == np.float64 or x.dtype.itemsize > 8:
        x = x.astype(np.float32)
    return x[..., None] if x.ndim == 3 and not (kind == "float" and x.shape[2] == 1) else x


def as_label(label: Any, n: int, name: str = "label") -> np.ndarray:
    """Class labels as an integer array `[n]`.

    Raises:
      DataError: a wrong length, shape or dtype.
    """
    label = np.asarray(label)
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim == 2:
        raise DataError(f"{name} has shape {list(label.shape)}: use class indices [n], "
                        f"{name}.argmax(1) if it is one-hot")
    if label.ndim != 1 or len(label) != n:
        raise DataError(f"{name} has shape {list(label.shape)} but there are {n} examples: it must be [{n}]")
    if label.dtype == bool:
        return label.astype(np.uint8)
    if not np.issubdtype(label.dtype, np.integer):
        raise DataError(f"{name} has dtype {label.dtype}: use integers, "
                        f"numpy.unique({name}, return_inverse=True)[1] numbers any values")
    return label


def check(dataset: Any) -> None:
    """Checks a `Dataset`, and warns if there is one class only.

    Arrays in memory are checked whole; of lazily decoded splits the first example is read, and the rest is
    guarded by the spec.

    Args:
      dataset: has `train` and `test`, each a `Source`.

    Raises:
      DataError: an empty split, a wrong shape or dtype, NaN or infinity, float images outside [0, 1],
        negative tokens, labels that do not fit, or splits that differ in shape or dtype.
    """
    for split, source in (("train", dataset.train), ("test", dataset.test)):
        if len(source) == 0:
            raise DataError(f"the {split} split is empty: " + (
                "bring data" if split == "train" else "bring test data or set test_fraction above 0"))
        _check_source(source, split)
    if dataset.train.spec != dataset.test.spec:
        raise DataError(f"train and test examples differ: {dataset.train!r} and {dataset.test!r}")
    label = dataset.train.arrays().get("label") if isinstance(dataset.train, ArraySource) else None
    if label is not None and np.all(label == label[0]):
        warnings.warn(f"all training labels are {label[0]}: probes and scores of classes will say nothing",
                      stacklevel=2)


def _check_source(source: Source, split: str) -> None:
    if "x" not in source.spec:
        raise DataError(f"the {split} split has no array 'x': {source!r}")
    arrays = source.arrays() if isinstance(source, ArraySource) else source[:1]
    x = arrays["x"]
    kept = as_x(x, f"{split} x")
    if (kept.shape, kept.dtype) != (x.shape, x.dtype):
        raise DataError(f"{split} x is {x.dtype} {list(x.shape)} and must be stored as {kept.dtype} "
                        f"{list(kept.shape)}: build the source with jaxae.data.from_arrays")
    for name, array in arrays.items():
        if array.shape[1:] != source.spec[name].shape or array.dtype != source.spec[name].dtype:
            raise DataError(f"{split} {name} is {array.dtype} {list(array.shape[1:])} but its spec says "
                            f"{source.spec[name]}: correct the source's spec")
        _check_finite(array, f"{split} {name}")
    if "label" in arrays:
        as_label(arrays["label"], len(x), f"{split} label")
    if kind_of(x) == "float" and x.ndim in (4, 5):
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            advice = "divide by 255" if low >= 0 and high <= 255 else "scale them, as (x - min) / (max - min)"
            raise DataError(f"{split} x: float images must lie in [0, 1], these lie in [{low:g}, {high:g}]: "
                            f"{advice}")
    if x.dtype == np.uint8 and isinstance(source, ArraySource) and x.max() == 1:
        raise DataError(f"{split} x is uint8 with no value but 0 and 1, nearly black on the scale 0 to 255: "
                        "pass x.astype(bool) for a binary image")
    if kind_of(x) == "tokens" and x.min() < 0:
        raise DataError(f"{split} x has the token {x.min()}: tokens are numbered from 0")


def _check_finite(array: np.ndarray, name: str) -> None:
    if kind_of(array) != "float":
        return
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()   # NaN goes through both: no temporary of the array's size
    if np.isfinite(low) and np.isfinite(high):
        return
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    raise DataError(f"{name} has NaN or infinity in {bad.sum()} of {len(array)} examples, the first at index "
                    f"{bad.argmax()}: remove or repair them")


def kind_of(x: np.ndarray) -> str:
    """'uint8', 'bool', 'float', 'tokens' (wider integers); 'complex', 'object' and 'other' are of no use."""
    if x.dtype == np.uint8:
        return "uint8"
    if x.dtype == bool:
        return "bool"
    if np.issubdtype(x.dtype, np.floating) or x.dtype.name == "bfloat16":   # no subtype of floating
        return "float"
    if np.issubdtype(x.dtype, np.integer) and x.dtype != np.int8:
        return "tokens"
    if np.issubdtype(x.dtype, np.complexfloating):
        return "complex"
    return "object" if x.dtype.kind == "O" else "other"


def _hint(kind: str) -> str:
    return {"complex": "; stack real and imaginary part as channels",
            "object": "; an object array is often ragged: make all examples one shape"}.get(kind, "")


def _batch_hint(x: np.ndarray) -> str:
    return "; the first axis counts the examples, x[:, None] makes vectors of length 1" if x.ndim < 2 else ""
