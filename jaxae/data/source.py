"""Sources: random access to the examples of one split, in memory or decoded when asked for."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Batch = dict[str, Any]
_CHUNK = 256   # examples decoded at a time by `LazySource.arrays`, so that no second copy of the split exists


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


class Source(abc.ABC):
    """One split of a data set.

    `source[i]` is a dict of numpy arrays: one example for an integer, a batch for a slice or an integer array
    of any shape (its axes come first). Every dict has `index`, int32: the example's position in this split.
    Storage stays compact (uint8 images stay uint8): `Dataset.transform` makes floats on the device.

    Attributes:
      spec: name -> `jax.ShapeDtypeStruct` of one example, `index` included.
      info: what is known about the data and is no array per example (`label_names`, `factor_sizes`, ...).
    """

    spec: dict[str, jax.ShapeDtypeStruct]
    info: Mapping[str, Any]

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def _read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays, without `index`, of the examples at `positions` `[b]`, all in range."""

    @abc.abstractmethod
    def take(self, n: int) -> "Source":
        """The first `n` examples as a source."""

    def __getitem__(self, i: Any) -> dict[str, np.ndarray]:
        positions = self._positions(i)
        batch = {**self._read(positions.reshape(-1)), "index": positions.reshape(-1).astype(np.int32)}
        return {name: np.asarray(a).reshape(positions.shape + a.shape[1:]) for name, a in batch.items()}

    def __repr__(self) -> str:
        fields = ", ".join(f"{name} {s.dtype}{list(s.shape)}" for name, s in self.spec.items())
        return f"{type(self).__name__}({len(self)} examples: {fields})"

    @property
    def nbytes(self) -> int:
        """Bytes of the whole split as `arrays()` holds it."""
        return len(self) * sum(int(np.prod(s.shape)) * s.dtype.itemsize for s in self.spec.values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole split: name -> `[n ...]`, `index` included."""
        out = {name: np.empty((len(self), *s.shape), s.dtype) for name, s in self.spec.items()}
        for start in range(0, len(self), _CHUNK):
            for name, array in self[start:start + _CHUNK].items():
                out[name][start:start + _CHUNK] = array
        return out

    def _positions(self, i: Any) -> np.ndarray:
        n = len(self)
        if isinstance(i, slice):
            return np.arange(*i.indices(n))
        positions = np.asarray(i)
        if not np.issubdtype(positions.dtype, np.integer):
            raise TypeError(f"a source takes integers, integer arrays or slices, not {positions.dtype}")
        if positions.size and (positions.min() < -n or positions.max() >= n):
            raise IndexError(f"index out of range for a source of {n} examples")
        return np.where(positions < 0, positions + n, positions)


class ArraySource(Source):
    """A split held in memory.

    Args:
      arrays: name -> `[n ...]`; must have `x`; `index` is added here.
      info: facts about the data, see `Source`.

    Raises:
      DataError: no `x`, an array called `index`, or arrays of different lengths.

    Example:
      >>> import numpy as np
      >>> source = ArraySource({'x': np.zeros((10, 8, 8, 1), np.uint8), 'label': np.arange(10)})
      >>> source[np.array([3, 1])]['index']
      array([3, 1], dtype=int32)
      >>> source.nbytes       # 64 bytes of image, 8 of label, 4 of index, ten times
      760
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None):
        if "x" not in arrays:
            raise DataError(f"a source needs the array 'x' (what is autoencoded); got {sorted(arrays)}")
        if "index" in arrays:
            raise DataError("'index' is the example's position and is added by the source: rename your array")
        self._arrays = {name: np.asarray(a) for name, a in arrays.items()}
        lengths = {name: len(a) if a.ndim else None for name, a in self._arrays.items()}
        if None in lengths.values() or len(set(lengths.values())) > 1:
            raise DataError(f"all arrays need one row per example; their lengths are {lengths}")
        self._length = lengths["x"]
        self.info = dict(info or {})
        self.spec = {name: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for name, a in self._arrays.items()}
        self.spec["index"] = jax.ShapeDtypeStruct((), np.int32)

    def __len__(self) -> int:
        return self._length

    def _read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {name: a[positions] for name, a in self._arrays.items()}

    def take(self, n: int) -> "ArraySource":
        return ArraySource({name: a[:n] for name, a in self._arrays.items()}, self.info)

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole split without a copy; treat it as read-only."""
        return {**self._arrays, "index": np.arange(self._length, dtype=np.int32)}


class LazySource(Source):
    """A split that is read and decoded when asked for.

    Args:
      read: positions `[b]` -> name -> `[b ...]`, without `index`; called from several threads when streaming.
      length: number of examples.
      spec: name -> shape and dtype of one example as `read` returns it.
      info: facts about the data, see `Source`.
    """

    def __init__(self, read: Callable[[np.ndarray], dict[str, np.ndarray]], length: int,
                 spec: Mapping[str, jax.ShapeDtypeStruct], info: Mapping[str, Any] | None = None):
        self._reader, self._length, self.info = read, int(length), dict(info or {})
        self.spec = {**spec, "index": jax.ShapeDtypeStruct((), np.int32)}

    def __len__(self) -> int:
        return self._length

    def _read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        if not positions.size:
            return {k: np.empty((0, *s.shape), s.dtype) for k, s in self.spec.items() if k != "index"}
        return self._reader(positions)

    def take(self, n: int) -> "LazySource":
        spec = {name: s for name, s in self.spec.items() if name != "index"}
        return LazySource(self._reader, min(n, self._length), spec, self.info)
