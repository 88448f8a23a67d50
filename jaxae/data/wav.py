"""Sounds in WAV files of 16 bits: a folder of them as a data set of clips, and what is written to listen to."""

import os
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jax import ShapeDtypeStruct

from jaxae.data.source import DataError, LazySource

_LEVELS = 32_768  # of a half-wave


def wav(path: str, length: int = 0, test_fraction: float = 0.1, seed: int = 0) -> tuple[LazySource, LazySource]:
    """Clips of the WAV files below a folder, read when asked for, such as separate recordings of drums and of a bass.

    Every file is cut into clips of `length` samples, and what is left at its end is dropped; silent clips stay.
    Channels are averaged. If the folder has subfolders `train` and `test`, they are the splits; otherwise files, sorted
    by name, are shuffled by seed and split, so that no recording is in both. When every file lies in a subfolder, the
    names of the subfolders, sorted, are the labels.

    Args:
      path: the folder.
      length: samples of a clip; 0 is 131,072, three seconds at 44,100 samples a second.
      test_fraction: share of the files that are for testing, when there are no `train` and `test`.
      seed: of that split.

    Returns:
      Train and test; `x` float32 `[n length 1]` in [-1, 1], `label` int32 `[n]` if there are classes; `info` has
      `label_names` and `sample_rate` in Hz.

    Raises:
      DataError: no such folder, no file long enough, files that are not of 16 bits or of several sample rates.
    """
    root, length = Path(path), length or 131_072
    if not root.is_dir():
        raise DataError(f"{path} is no folder of WAV files")
    if (root / "train").is_dir() and (root / "test").is_dir():
        splits = [_files(root / name) for name in ("train", "test")]
    else:
        files = _files(root)
        order = np.random.default_rng(seed).permutation(len(files))
        at = max(1, round(test_fraction * len(files))) if test_fraction else 0
        splits = [[files[i] for i in sorted(part)] for part in (order[at:], order[:at])]
    names = sorted({name for split in splits for name, _ in split})
    labels = None if "" in names else names
    made = [_source(split, length, labels) for split in splits]
    rates = {source.info["sample_rate"] for source in made if len(source)}
    if len(rates) > 1:
        raise DataError(f"{path} has files of {sorted(rates)} samples a second: resample them to one rate")
    return made[0], made[1]


def write_wav(path: str | os.PathLike, x: np.ndarray, sample_rate: int) -> None:
    """Writes a waveform `[t]` or `[t 1]`, clipped to [-1, 1], as a file of 16 bits; makes its folder if missing."""
    samples = np.round(np.clip(np.asarray(x, np.float64).reshape(-1), -1, 1) * (_LEVELS - 1)).astype("<i2")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())


def _files(root: Path) -> list[tuple[str, Path]]:
    """(name of the subfolder or '', file) of each, sorted."""
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() == ".wav")
    return [(file.relative_to(root).parts[0] if file.parent != root else "", file) for file in found]


def _source(files: Sequence[tuple[str, Path]], length: int, names: list[str] | None) -> LazySource:
    clips, rate = [], 0  # (file, first sample, label)
    for name, file in files:
        try:
            with wave.open(str(file), "rb") as opened:
                frames, width, this = opened.getnframes(), opened.getsampwidth(), opened.getframerate()
        except (wave.Error, EOFError) as error:
            raise DataError(f"{file} cannot be read as WAV ({error}): convert it to PCM of 16 bits") from error
        if width != 2 or rate not in (0, this):
            raise DataError(f"{file} has {8 * width} bits at {this} samples a second: all files must have 16 bits and "
                            "one rate; convert them")
        rate = this
        clips += [(file, start, names.index(name) if names else 0) for start in range(0, frames - length + 1, length)]
    if not clips:
        raise DataError(f"none of {len(files)} WAV files has {length} samples: set data.length, or bring longer ones")
    spec = {"x": ShapeDtypeStruct((length, 1), np.float32)}
    if names:
        spec["label"] = ShapeDtypeStruct((), np.int32)

    def read(positions):
        rows = {"x": np.stack([_read(*clips[i][:2], length) for i in positions])[..., None]}
        return rows | ({"label": np.array([clips[i][2] for i in positions], np.int32)} if names else {})

    info = {"sample_rate": rate} | ({"label_names": tuple(names)} if names else {})
    return LazySource(read, len(clips), spec, info)


def _read(file, start, length):
    with wave.open(str(file), "rb") as opened:
        opened.setpos(start)
        samples = np.frombuffer(opened.readframes(length), "<i2").reshape(length, opened.getnchannels())
    return samples.mean(1).astype(np.float32) / _LEVELS
