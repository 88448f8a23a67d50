"""Writes activation stores: shards that are whole or not there, and an index, so that an interruption costs little."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data.activations import DTYPES, VERSION, check_files, checksum, read_index, shard_file
from jaxae.data.source import DataError


def harvest(function: Callable[[Any], Any], batches: Iterable[Any] | Callable[[int], Iterable[Any]], path: str | Path,
            dtype: str = "float16", shard_rows: int = 65_536) -> dict[str, Any]:
    """Writes `function(batch)` for every batch to the store at `path`, or goes on where an earlier call stopped.

    A shard is whole or not there: it is written beside its place, moved there, and then entered in `index.json`. After
    an interruption the same call continues behind the last whole shard; batches that are stored already are passed
    over without calling `function`. They must come in the same order again.

    Args:
      function: batch -> `[r d]`, or a dict of arrays `[r ...]` that has 'x': rows of activations, any number of them
        for a batch (all tokens of all texts, say). Further arrays stand for themselves: 'y', the output of a
        transcoder; 'gradient'; 'layer' or 'pair', integers, which keep their dtype.
      batches: of the host model, or `start -> batches from number start on`, where passing over is slow.
      path: a folder, made if need be.
      dtype: of floats as stored: 'float16', 'bfloat16' or 'float32'.
      shard_rows: rows of a shard; the last one may have fewer.

    Returns:
      The index: `rows`, `complete`, `shards`, and for each of `arrays` its `shape` of a row, `dtype`, and of floats
      the `mean` and `mean_squared_norm` of the stored values, in float64.

    Raises:
      DataError: values that are not finite or too large for dtype, rows that differ in shape from earlier ones, or a
        store at `path` that was written otherwise.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as path:
      ...     index = harvest(lambda batch: 2.0 * batch, [np.ones((3, 4)), np.ones((2, 4))], path, shard_rows=4)
      >>> index["rows"], [shard["rows"] for shard in index["shards"]], index["arrays"]["x"]["mean_squared_norm"]
      (5, [4, 1], 16.0)
    """
    if dtype not in DTYPES or shard_rows < 1:
        raise DataError(f"a store has a dtype of {', '.join(DTYPES)} and shard_rows >= 1, got {dtype!r}, {shard_rows}")
    path = Path(path).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    fresh = {"version": VERSION, "dtype": dtype, "shard_rows": shard_rows, "rows": 0, "complete": False, "batch": 0,
             "skip": 0, "arrays": {}, "shards": []}
    index = read_index(path) if (path / "index.json").exists() else fresh
    for name in ("dtype", "shard_rows"):
        if index[name] != fresh[name]:
            raise DataError(f"the store at {path} was begun with {name}={index[name]!r}, not {fresh[name]!r}: go on "
                            "with that, or remove the folder")
    if index["complete"]:
        return index
    check_files(path, index)
    start, skip = index["batch"], index["skip"]
    rest = batches(start) if callable(batches) else itertools.islice(batches, start, None)
    held: list[dict[str, np.ndarray]] = []
    count = 0
    for number, batch in enumerate(rest, start):
        rows = _stored(function(batch), dtype, index, number, path)
        length = len(rows["x"])
        done = skip if number == start else 0   # rows of this batch that are in a shard
        while count + length - done >= shard_rows:
            take = shard_rows - count
            held.append({name: a[done:done + take] for name, a in rows.items()})
            done += take
            after = (number + 1, 0) if done == length else (number, done)
            _write_shard(path, index, held, after)
            held, count = [], 0
        if done < length:
            held.append({name: a[done:] for name, a in rows.items()})
            count += length - done
    if count:
        _write_shard(path, index, held, (index["batch"], index["skip"]))
    if not index["rows"]:
        raise DataError(f"no rows for the store at {path}: the batches were empty")
    index["complete"] = True
    _write_index(path, index)
    return index


def _stored(out: Any, dtype: str, index: dict, number: int, path: Path) -> dict[str, np.ndarray]:
    """The rows of a batch as they are stored; checked, and entered in the index if they are the first."""
    out = out if isinstance(out, Mapping) else {"x": out}
    rows = {}
    for name, value in out.items():
        a = np.asarray(value)
        floating = np.issubdtype(a.dtype, np.floating) or a.dtype == DTYPES["bfloat16"]
        if floating:
            a, exact = _cast(a, dtype), a
            bad = ~np.isfinite(a.reshape(len(a), -1).astype(np.float32)).all(1)
            if bad.any():
                finite = np.isfinite(exact[bad].astype(np.float64)).all()
                raise DataError(f"{name} of batch {number} " + (
                    f"exceeds {dtype}'s largest value: store it with dtype='bfloat16' or 'float32'" if finite else
                    f"has NaN or infinity in {bad.sum()} of {len(a)} rows: mend the host model or drop the rows"))
        elif not np.issubdtype(a.dtype, np.integer) and a.dtype != bool:
            raise DataError(f"{name} of batch {number} is {a.dtype}: a store takes floats, integers and bool")
        if name == "index":
            raise DataError("'index' is the example's position and is added by the source: rename your array")
        rows[name] = a
    lengths = {name: len(a) for name, a in rows.items()}
    if "x" not in rows or len(set(lengths.values())) > 1 or rows["x"].ndim < 2:
        raise DataError(f"batch {number} gave arrays of {lengths} rows: a store wants x [r d] and as many rows of all")
    found = {name: {"shape": list(a.shape[1:]), "dtype": a.dtype.name} for name, a in rows.items()}
    known = {name: {"shape": a["shape"], "dtype": a["dtype"]} for name, a in index["arrays"].items()}
    if known and found != known:
        raise DataError(f"batch {number} gave {found}, but the store at {path} holds {known}: harvest into another "
                        "folder")
    index["arrays"] = index["arrays"] or found
    return rows


def _cast(a: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return a.astype(DTYPES[dtype])


def _write_shard(path: Path, index: dict, held: list[dict[str, np.ndarray]], after: tuple[int, int]) -> None:
    i, files = len(index["shards"]), {}
    for name, about in index["arrays"].items():
        a = np.ascontiguousarray(np.concatenate([h[name] for h in held]))
        if about["dtype"] in DTYPES:
            _update_moments(about, a.reshape(len(a), -1).astype(np.float64), index["rows"])
        file = shard_file(path, name, i)
        beside = file.with_suffix(".part")
        with open(beside, "wb") as f:
            np.save(f, a.view(np.uint16) if about["dtype"] == "bfloat16" else a)   # npy does not know bfloat16
        os.replace(beside, file)
        files[name] = {"bytes": file.stat().st_size, "crc32": checksum(file)}
    index["shards"].append({"rows": len(a), "files": files})
    index["rows"] += len(a)
    index["batch"], index["skip"] = after
    _write_index(path, index)


def _update_moments(about: dict, a: np.ndarray, before: int) -> None:
    share = len(a) / (before + len(a))   # a running mean: exact to rounding, and the same after an interruption
    square = float(np.square(a).sum(1).mean())
    mean, old = np.array(about.get("mean", np.zeros(a.shape[1]))), about.get("mean_squared_norm", 0.0)
    about["mean"] = (mean + share * (a.mean(0) - mean)).tolist()
    about["mean_squared_norm"] = old + share * (square - old)


def _write_index(path: Path, index: dict) -> None:
    beside = path / "index.json.part"
    beside.write_text(json.dumps(index))
    os.replace(beside, path / "index.json")
