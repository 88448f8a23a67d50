"""Folders of a `cfg.json` and a safetensors file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG = "cfg.json"


def read_folder(folder: str | Path, weights: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config, arrays) of a folder.

    Raises:
      ValueError: for files that are not there or cannot be read.
    """
    folder = Path(folder)
    for name in (CONFIG, weights):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: name the folder that holds {CONFIG} and {weights}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / weights, "np") as file:  # of numpy's types and bfloat16
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    return config, arrays


def write_folder(folder: str | Path, weights: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes `config` as cfg.json and `arrays` as the safetensors file `weights`; returns the folder.

    Raises:
      ValueError: for a folder that cannot be made.
    """
    folder = folder_for(folder)
    (folder / CONFIG).write_text(json.dumps(dict(config), indent=2) + "\n")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / weights)
    return folder


def folder_for(path: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
      ValueError: where it cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {path}: {error.strerror or error}") from error
    return path


def need(entries: Mapping[str, Any], names: Sequence[str], where: str | Path) -> list[Any]:
    """The named entries.

    Raises:
      ValueError: with those that are missing and those that are there.
    """
    missing = [name for name in names if name not in entries]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}; it has {', '.join(sorted(entries))}")
    return [entries[name] for name in names]
