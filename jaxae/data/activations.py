"""Activation stores: hidden activations of a host model in shards, read by memory map; `harvest` writes them."""

import functools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jax import ShapeDtypeStruct

from jaxae.data.source import DataError, LazySource

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
NORMALISE = ("none", "mean_norm", "example")
VERSION = 1
_NORMALISED = ("x", "y")   # what goes in and what is to come out; gradients, layers and the like stay as they are
_REPAIR = "restore the file, or remove the folder and harvest it again"


def activations(path: str, normalise: str = "none", test_fraction: float = 0.1) -> tuple[LazySource, LazySource]:
    """Reads a store of `harvest` by memory map: shards are never loaded whole, batches mix rows of all of them.

    Args:
      path: the folder. If it has stores `train` and `test`, they are the splits; otherwise the last rows are the test
        split, so that texts are not torn apart: harvest them in random order.
      normalise: of x and y, each by itself: 'none'; 'mean_norm', one factor for all rows, such that the mean of |x|^2
        over the training store is d; 'example', each row minus its mean over the coordinates, divided by its norm.
      test_fraction: share of rows of the test split.

    Returns:
      Train and test; floats are float32, whatever they are stored as; `info` has `mean` and `mean_squared_norm` of x
      as stored, and `scale`, name -> factor of 'mean_norm' (1 otherwise).

    Raises:
      DataError: no store, one that is not complete, a missing or truncated shard, or one of another width or dtype.
    """
    root = Path(path).expanduser()
    if normalise not in NORMALISE:
        raise DataError(f"normalise is one of {', '.join(NORMALISE)}, got {normalise!r}")
    if not 0 <= test_fraction < 1:
        raise DataError(f"test_fraction must be at least 0 and below 1, got {test_fraction}")
    split = all((root / part / "index.json").exists() for part in ("train", "test"))
    roots = [root / "train", root / "test"] if split else [root]
    indices = [read_index(r) for r in roots]
    for r, index in zip(roots, indices, strict=True):
        if not index["complete"]:
            raise DataError(f"the store at {r} stops after {index['rows']} rows: call harvest again to complete it")
        check_files(r, index)
    arrays = indices[0]["arrays"]
    scale = {name: 1.0 for name in _NORMALISED if name in arrays}
    if normalise == "mean_norm":
        for name in scale:
            square = arrays[name]["mean_squared_norm"]
            if not square > 0:
                raise DataError(f"{name} in {roots[0]} is zero everywhere: normalise='mean_norm' has nothing to scale")
            scale[name] = math.sqrt(math.prod(arrays[name]["shape"]) / square)
    info = {"mean": np.array(arrays["x"]["mean"]), "mean_squared_norm": arrays["x"]["mean_squared_norm"],
            "scale": scale}

    def part(at: int, first: int, last: int) -> LazySource:
        spec = {name: ShapeDtypeStruct(tuple(a["shape"]), np.float32 if a["dtype"] in DTYPES else np.dtype(a["dtype"]))
                for name, a in indices[at]["arrays"].items()}
        read = functools.partial(_read, _Shards(roots[at], indices[at]), first, normalise, scale)
        return LazySource(read, last - first, spec, info)

    if split:
        return part(0, 0, indices[0]["rows"]), part(1, 0, indices[1]["rows"])
    n = indices[0]["rows"]
    test = min(max(round(test_fraction * n), 1 if test_fraction else 0), n - 1)
    return part(0, 0, n - test), part(0, n - test, n)


def verify(path: str | Path) -> int:
    """Reads a store through and compares every shard with its checksum.

    Args:
      path: the folder that holds `index.json`.

    Returns:
      The number of rows.

    Raises:
      DataError: the first shard that is missing, truncated or changed.
    """
    path = Path(path).expanduser()
    index = read_index(path)
    check_files(path, index)
    for i, shard in enumerate(index["shards"]):
        for name, file in shard["files"].items():
            if checksum(shard_file(path, name, i)) != file["crc32"]:
                raise DataError(f"{shard_file(path, name, i)} is not what harvest wrote (its checksum differs): "
                                f"{_REPAIR}")
    return index["rows"]


def read_index(path: Path) -> dict[str, Any]:
    """The index of the store at `path`, or a DataError."""
    file = path / "index.json"
    if not file.is_file():
        raise DataError(f"no store of activations at {path} (no index.json): write one by jaxae.data.harvest")
    try:
        index = json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise DataError(f"{file} cannot be read ({e}): {_REPAIR}") from e
    if not isinstance(index, dict) or index.get("version") != VERSION:
        raise DataError(f"{file} is no index of version {VERSION}: harvest the store again")
    return index


def check_files(path: Path, index: dict) -> None:
    """Raises DataError for a shard that is not there, or not of the size and kind that the index says."""
    for i, shard in enumerate(index["shards"]):
        for name, about in index["arrays"].items():
            file, expected = shard_file(path, name, i), shard["files"][name]["bytes"]
            if not file.is_file():
                raise DataError(f"{file} is missing: {_REPAIR}")
            if file.stat().st_size != expected:
                raise DataError(f"{file} has {file.stat().st_size} bytes and should have {expected}: {_REPAIR}")
            a = _map(file)
            dtype = np.dtype(np.uint16 if about["dtype"] == "bfloat16" else about["dtype"])
            if (a.dtype, list(a.shape)) != (dtype, [shard["rows"], *about["shape"]]):
                raise DataError(f"{file} holds {a.dtype} {list(a.shape)}, but index.json says {dtype} "
                                f"{[shard['rows'], *about['shape']]}: {_REPAIR}")


def _map(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"{file} is no readable npy file ({e}): {_REPAIR}") from e


def shard_file(path: Path, name: str, shard: int) -> Path:
    """Where one array of one shard is."""
    return path / f"{name}-{shard:05d}.npy"


def checksum(file: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with open(file, "rb") as f:
        while chunk := f.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc


class _Shards:
    """The maps of a store, opened when first read; can be pickled, for loaders with processes."""

    def __init__(self, path: Path, index: dict):
        self.path, self.arrays = path, index["arrays"]
        self.ends = np.cumsum([shard["rows"] for shard in index["shards"]])
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": {}}

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        about = self.arrays[name]
        stored = DTYPES[about["dtype"]] if about["dtype"] in DTYPES else np.dtype(about["dtype"])
        out = np.empty((len(positions), *about["shape"]), np.float32 if about["dtype"] in DTYPES else stored)
        shard = np.searchsorted(self.ends, positions, side="right")
        for i in np.unique(shard):
            a = self._maps.get((name, int(i)))
            if a is None:
                a = self._maps[name, int(i)] = _map(shard_file(self.path, name, int(i)))
            at = shard == i
            start = self.ends[i - 1] if i else 0
            out[at] = a[positions[at] - start].view(stored)
        return out


def _read(shards: _Shards, first: int, normalise: str, scale: dict[str, float],
          positions: np.ndarray) -> dict[str, np.ndarray]:
    positions = np.asarray(positions) + first
    out = {name: shards.rows(name, positions) for name in shards.arrays}
    for name, a in out.items():
        if a.dtype == np.float32 and not np.isfinite(a).all():
            at = int(positions[(~np.isfinite(a.reshape(len(a), -1))).any(1).argmax()])
            raise DataError(f"{name} of row {at} in {shards.path} has NaN or infinity, which harvest does not write: "
                            f"{_REPAIR}")
    for name in scale:
        if normalise == "mean_norm":
            out[name] *= np.float32(scale[name])
        elif normalise == "example":
            flat = out[name].reshape(len(positions), -1)
            flat = flat - flat.mean(1, keepdims=True)
            norm = np.linalg.norm(flat, axis=1, keepdims=True)
            out[name] = (flat / np.where(norm > 0, norm, 1)).reshape(out[name].shape)
    return out
