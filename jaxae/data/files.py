"""Users' own files: an npz of arrays, or a folder of images."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jax import ShapeDtypeStruct

from jaxae.data.checks import as_label, as_x
from jaxae.data.images import check_options, fit, fit_all
from jaxae.data.source import ArraySource, DataError, LazySource, Source

# x, label, test_x, test_label, factors, as files in circulation name them; the first whose x is there counts.
NPZ_NAMES = (
    ("x", "label", "test_x", "test_label", "factors"),
    ("x_train", "y_train", "x_test", "y_test", "factors"),                          # Keras
    ("train_images", "train_labels", "test_images", "test_labels", "factors"),      # MedMNIST
    ("images", "labels", "test_images", "test_labels", "factors"),
    ("imgs", "latents_classes[:, 0]", "", "", "latents_classes"),                   # dSprites
)
_SUFFIXES = (".png", ".jpg", ".jpeg")


def split_arrays(arrays: dict[str, np.ndarray], test_fraction: float, seed: int,
                 info: dict[str, Any] | None = None) -> tuple[ArraySource, ArraySource]:
    """Shuffles by seed and splits off a test part, of at least one example when test_fraction is above 0."""
    order, at = split_order(len(arrays["x"]), test_fraction, seed)
    train, test = ({name: a[ids] for name, a in arrays.items()} for ids in (order[at:], order[:at]))
    return ArraySource(train, info), ArraySource(test, info)


def npz(path: str, x: str = "", label: str = "", test_x: str = "", test_label: str = "", size: int = 0,
        channels: int = 0, test_fraction: float = 0.1, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Arrays of an npz file.

    Args:
      path: the file.
      x: name of the array to autoencode; '' takes the first of 'x', 'x_train', 'train_images', 'images',
        'imgs' with its companions by `NPZ_NAMES`.
      label: name of the integer labels; '' takes the companion if it is there.
      test_x: name of the test examples; '' takes the companion if it is there, and else splits.
      test_label: name of their labels.
      size: resizes uint8 images to this side; 0 leaves them.
      channels: converts uint8 images to 1 or 3 channels; 0 leaves them.
      test_fraction: share of the test split when the file has none.
      seed: seed of that split.

    Returns:
      Train and test, with `label` and `factors` where the file has them, `semantic` [n h w], the class of each pixel,
      and tokens called `paraphrase`, `exemplar`
      and `references` (for the test examples with `test_` before) as they are.

    Raises:
      DataError: no such file or array, or arrays that cannot be used.
    """
    file = _open(path)
    names = next((n for n in NPZ_NAMES if n[0] == x or (not x and n[0] in file)), None)
    if not x and names is None:
        raise DataError(f"{path} has the arrays {sorted(file)}: name the one to autoencode by config.data.x")
    names = dict(zip(("x", "label", "test_x", "test_label", "factors"), names or ("",) * 5, strict=True))
    asked = {"x": x, "label": label, "test_x": test_x, "test_label": test_label}
    names |= {key: name for key, name in asked.items() if name}
    if test_label and not names["test_x"]:
        raise DataError("test_label is set but test_x is not: name the test examples too")

    def array(name: str, required: bool) -> np.ndarray | None:
        name, _, column = name.partition("[")
        if name not in file:
            if required:
                raise DataError(f"{path} has no array {name!r}; it has {sorted(file)}")
            return None
        value = file[name][:, 0] if column else file[name]
        return value.astype(bool) if name == "imgs" and value.max(initial=0) <= 1 else value

    train, test = {}, {}
    for part, prefix in ((train, ""), (test, "test_")):
        data = array(names[prefix + "x"], required=bool(asked[prefix + "x"]) or not prefix)
        if data is None:
            break
        part["x"] = fit_all(as_x(data, names[prefix + "x"]), size, channels)
        target = array(names[prefix + "label"], required=bool(asked[prefix + "label"]))
        if target is not None:
            part["label"] = as_label(target, len(data), names[prefix + "label"])
        semantic = array(prefix + "semantic", required=False)
        if semantic is not None:
            if semantic.shape != part["x"].shape[:3]:
                raise DataError(f"{path}: {prefix}semantic {list(semantic.shape)} must hold a class for each pixel of "
                                f"{prefix}x {list(part['x'].shape)}; size=0 leaves both as they are")
            part["semantic"] = semantic
        for name in ("paraphrase", "exemplar", "references"):
            beside = array(prefix + name, required=False)
            if beside is not None:
                part[name] = as_x(beside, prefix + name)
    factors = array(names["factors"], required=False)
    if factors is not None and not test:
        train["factors"] = factors
    if not test:
        return split_arrays(train, test_fraction, seed)
    return ArraySource(train), ArraySource(test)


def folder(path: str, size: int = 0, channels: int = 0, test_fraction: float = 0.1,
           seed: int = 0) -> tuple[Source, Source]:
    """PNG and JPEG images below a folder, decoded when asked for.

    If the folder has subfolders `train` and `test`, they are the splits; otherwise the images, sorted by
    name, are shuffled by seed and split. When every image lies in a subfolder, the names of the subfolders,
    sorted, are the labels.

    Args:
      path: the folder.
      size: pixels of a side: the centre square, resized; 0 requires images of one size.
      channels: 1 greyscale, 3 RGB; 0 follows the first image.
      test_fraction: share of the test split when there are no `train` and `test`.
      seed: seed of that split.

    Returns:
      Train and test; `x` uint8 `[n h w channels]`, `label` int32 `[n]` if there are classes; `info` has
      `files` and `label_names`.

    Raises:
      DataError: no such folder, no images, unequal sizes with size=0, different classes in train and test,
        or, when it is read, a damaged file.
    """
    check_options(size, channels)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"no folder at {root}: give the path as folder:PATH")
    if (root / "train").is_dir() and (root / "test").is_dir():
        parts = [image_files(root / "train"), image_files(root / "test")]
        roots = [root / "train", root / "test"]
    else:
        files = image_files(root)
        order, at = split_order(len(files), test_fraction, seed)
        parts, roots = [[files[i] for i in order[at:]], [files[i] for i in order[:at]]], [root, root]
    classes = {p.relative_to(r).parts[0] if len(p.relative_to(r).parts) > 1 else ""
               for files, r in zip(parts, roots, strict=True) for p in files}
    names = () if "" in classes else tuple(sorted(classes))
    shape = common_shape([p for files in parts for p in files], size, channels)
    return tuple(_folder_source(files, r, names, shape, size) for files, r in zip(parts, roots, strict=True))


def _open(path: str) -> dict[str, np.ndarray]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {file}: give the path as npz:PATH")
    try:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.ndarray):
            with arrays:   # dSprites keeps a pickled dict beside its arrays: what needs pickle is left out
                return {name: a for name in arrays.files if (a := _plain(arrays, name)) is not None}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"{file} is no readable npz file ({e}): write it by numpy.savez(path, x=...)") from e
    raise DataError(f"{file} is a single array: save it by numpy.savez(path, x=array)")


def _plain(arrays: Any, name: str) -> np.ndarray | None:
    try:
        return arrays[name]
    except ValueError as e:
        if "pickle" in str(e):
            return None
        raise


def split_order(n: int, test_fraction: float, seed: int) -> tuple[np.ndarray, int]:
    """A random order of n examples, and how many of its first ones are the test split."""
    if not 0 <= test_fraction < 1:
        raise DataError(f"test_fraction must be at least 0 and below 1, got {test_fraction}")
    at = min(max(round(test_fraction * n), 1 if test_fraction else 0), max(n - 1, 0))
    return np.random.default_rng(seed).permutation(n), at


def image_files(root: Path) -> list[Path]:
    """PNG and JPEG files below a folder, sorted; a DataError where there are none."""
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"no {', '.join(_SUFFIXES)} files below {root}")
    return files


def common_shape(files: list[Path], size: int, channels: int) -> tuple[int, int, int]:
    """`(h, w, channels)` of images as they will be read; a DataError where size=0 and they differ."""
    from PIL import Image

    if not channels:
        with decoded(files[0], Image.open) as first:
            channels = 1 if first.mode in ("1", "L", "I;16") else 3
    if size:
        return size, size, channels
    shapes: dict[tuple[int, int], Path] = {}
    for file in sorted(files):
        with decoded(file, Image.open) as image:   # reads the header only
            shapes.setdefault(image.size, file)
        if len(shapes) > 1:
            (a, first), (b, other) = shapes.items()
            raise DataError(f"images differ in size: {first} is {a[0]} x {a[1]}, {other} is {b[0]} x {b[1]}. "
                            "Set config.data.size to resize them")
    (w, h), = shapes
    return h, w, channels


def _folder_source(files: list[Path], root: Path, names: tuple[str, ...], shape: tuple[int, int, int],
                   size: int) -> LazySource:
    from PIL import Image

    label = np.array([names.index(p.relative_to(root).parts[0]) for p in files] if names else [], np.int32)

    def load(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            return fit(image, size, shape[-1])

    def read(positions: np.ndarray) -> dict[str, np.ndarray]:
        batch = {"x": np.stack([decoded(files[i], load) for i in positions])}
        return {**batch, "label": label[positions]} if names else batch

    spec = {"x": ShapeDtypeStruct(shape, np.uint8)}
    if names:
        spec["label"] = ShapeDtypeStruct((), np.int32)
    info = {"files": tuple(map(str, files)), **({"label_names": names} if names else {})}
    return LazySource(read, len(files), spec, info)


def decoded(file: Path, load: Any) -> Any:
    """`load(file)`, with a DataError for a damaged file."""
    try:
        return load(file)
    except (OSError, SyntaxError, ValueError) as e:   # Pillow raises all three for damaged files
        raise DataError(f"{file} cannot be decoded as an image ({e}): repair or remove it") from e
