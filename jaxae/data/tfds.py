"""tensorflow-datasets without TensorFlow: sets prepared in the array_record format, read at random."""

from typing import Any

import numpy as np
from jax import ShapeDtypeStruct

from jaxae.data.checks import as_x
from jaxae.data.images import check_options, fit
from jaxae.data.source import DataError, LazySource


def tfds(name: str, train_split: str = "train", test_split: str = "test", data_dir: str = "", x: str = "",
         label: str = "", size: int = 0, channels: int = 0, frames: int = 0) -> tuple[LazySource, LazySource]:
    """A prepared set of tensorflow-datasets; nothing is downloaded here.

    Args:
      name: as tensorflow-datasets writes it: 'mnist', 'mnist:3.0.1', 'glue/cola'.
      train_split: split or slice, such as 'train[:90%]'.
      test_split: split or slice, such as 'train[90%:]'.
      data_dir: folder of prepared sets; '' is TFDS_DATA_DIR or ~/tensorflow_datasets.
      x: feature to autoencode; '' is 'x', 'image', or the only feature that is no label.
      label: feature of class indices; '' is 'label' if there is one. Other features are not read out.
      size: pixels of a side: the centre square, resized; 0 requires images of one size.
      channels: 1 or 3; 0 as the set says.
      frames: of videos `[t h w c]`, or sequences of images, so many from the first; 0 is all.

    Returns:
      Train and test, decoded when asked for; `info` has `label_names` where the set names its classes.

    Raises:
      DataError: the set is not prepared, in another format, or has no such split or feature.
    """
    check_options(size, channels)
    builder = _builder(name, data_dir)
    x = _feature(builder, x, ("x", "image"), "x")
    label = _feature(builder, label, ("label",), "label") if label or "label" in builder.info.features else ""
    options = (size, channels, frames)
    return tuple(_source(builder, split, x, label, options) for split in (train_split, test_split))


def _builder(name: str, data_dir: str) -> Any:
    try:
        from tensorflow_datasets.core import read_only_builder  # finds sets on disk; never asks the network
        from tensorflow_datasets.core.registered import DatasetNotFoundError
    except ImportError as e:
        raise DataError(f"cannot import tensorflow-datasets ({e}): "
                        "pip install tensorflow-datasets array_record importlib_resources") from e
    where = data_dir or "TFDS_DATA_DIR or ~/tensorflow_datasets"
    given = f", data_dir={data_dir!r}" if data_dir else ""
    command = ("python -c \"import tensorflow_datasets as tfds; "
               f"tfds.builder('{name}'{given}, file_format='array_record').download_and_prepare()\"")
    try:
        builder = read_only_builder.builder_from_files(name, **({"data_dir": data_dir} if data_dir else {}))
    except DatasetNotFoundError as e:
        raise DataError(f"'{name}' is not prepared in {where}: set config.data.data_dir to where it is, or "
                        f"prepare it once, with network and, for most sets, TensorFlow:\n  {command}") from e
    formats = {f.value for f in builder.info.available_file_formats()}
    if not formats & {"array_record", "bagz"}:
        raise DataError(f"'{name}' in {where} is stored as {', '.join(sorted(formats))}, which only "
                        "TensorFlow reads: prepare it again as array_record, into another data_dir:\n"
                        f"  {command}")
    return builder


def _feature(builder: Any, asked: str, usual: tuple[str, ...], what: str) -> str:
    features = builder.info.features
    names = sorted(features.keys()) if hasattr(features, "keys") else []
    if asked:
        found = [asked] if asked in names else []
    else:
        found = [n for n in usual if n in names][:1] or [n for n in names if n != "label"]
    if len(found) != 1:
        raise DataError(f"'{builder.name}' has the features {names}: name one by config.data.{what}"
                        + (f", {asked!r} is not among them" if asked else ""))
    return found[0]


def _source(builder: Any, split: str, x: str, label: str, options: tuple[int, int, int]) -> LazySource:
    try:
        data = builder.as_data_source(split)
        length = len(data)
    except (ValueError, KeyError, AssertionError) as e:   # an empty slice is a ValueError about paths
        raise DataError(f"'{builder.name}' has no split {split!r} with examples; its splits are "
                        f"{sorted(builder.info.splits)}: set config.data.train_split and test_split, to "
                        "slices such as 'train[:90%]' too") from e

    def read(positions: np.ndarray) -> dict[str, np.ndarray]:
        rows = data.__getitems__(positions.tolist())
        batch = {"x": as_x(_stack([_image(row[x], *options) for row in rows], builder.name, x), x)}
        return {**batch, "label": np.array([row[label] for row in rows], np.int32)} if label else batch

    first = read(np.zeros(1, np.int64))
    spec = {key: ShapeDtypeStruct(a.shape[1:], a.dtype) for key, a in first.items()}
    names = getattr(builder.info.features[label], "names", None) if label else None
    return LazySource(read, length, spec, {"label_names": tuple(names)} if names else {})


def _image(value: Any, size: int, channels: int, frames: int) -> np.ndarray:
    value = np.asarray(value)
    if frames and (value.ndim != 4 or len(value) < frames):
        raise DataError(f"frames={frames} is for videos [t h w c] of at least so many frames, not {list(value.shape)}: "
                        "set config.data.frames to 0, or to fewer")
    value = value[:frames] if frames else value
    if not size and not channels:
        return value
    from PIL import Image

    if value.dtype != np.uint8 or value.ndim != 3:
        raise DataError(f"size and channels convert uint8 images [h w c], not {value.dtype} "
                        f"{list(value.shape)}: leave both 0")
    channels = channels or min(value.shape[-1], 3)
    return fit(Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value), size, channels)


def _stack(values: list[np.ndarray], name: str, feature: str) -> np.ndarray:
    shapes = {v.shape for v in values}
    if len(shapes) > 1:
        raise DataError(f"'{name}': {feature} comes in shapes {sorted(shapes)[:3]}: "
                        "set config.data.size to resize, or of videos config.data.frames")
    return np.stack(values)
