"""Images with their semantic maps as files of one name in two folders."""

from pathlib import Path
from typing import Any

import numpy as np
from jax import ShapeDtypeStruct

from jaxae.data.files import common_shape, decoded, image_files, split_order
from jaxae.data.images import check_options, fit
from jaxae.data.source import DataError, LazySource, Source

# What Cityscapes appends to the name of a place: left out, so that an image and its map have one name.
_ENDINGS = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds")
_MAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")  # of Pillow: one number a pixel


def pairs(path: str, size: int = 0, classes: int = 0, ignore: int = 255, test_fraction: float = 0.1,
          seed: int = 0) -> tuple[Source, Source]:
    """Images below `PATH/images` with the semantic maps of the same names below `PATH/maps`, decoded when asked for.

    A map is an image whose pixels are class numbers: greyscale of 8 or 16 bits, or a palette's indices. Names are
    compared with subfolders and without suffixes, and without what Cityscapes appends (`_leftImg8bit`,
    `_gtFine_labelIds`). Where there are `PATH/train` and `PATH/test`, each with both folders, they are the splits;
    otherwise the pairs, sorted by name, are shuffled by seed and split.

    Public sets, with folders linked to these names: ADE20K's scene parsing set, `images/training` and
    `annotations/training`, has 151 classes with 0 for what is none of 150; Cityscapes, `leftImg8bit/train` and the
    `labelIds` of `gtFine/train`, has 34; COCO-Stuff, `train2017` and its `stuffthingmaps`, has 182, and 255 where
    nothing is labelled.

    Args:
      path: the folder.
      size: pixels of a side: the centre square, resized, a map to the class of the nearest pixel; 0 requires images of
        one size.
      classes: class numbers lie in [0, classes); 0 takes any.
      ignore: the number of pixels without a class.
      test_fraction: share of the test split when there are no `train` and `test`.
      seed: seed of that split.

    Returns:
      Train and test; `x` uint8 `[n h w 3]`; `semantic` `[n h w]`, uint8 with 255 for no class, or int32 with -1 for no
      class where `classes` is 0 or above 255; `info` has `files`, names of images.

    Raises:
      DataError: no such folders, an image without a map or a map without an image, unequal sizes of images with
        size=0, or, when they are read, a damaged file, a map of another size than its image or of colours, or a number
        that is no class.
    """
    check_options(size, 3)
    if classes < 0:
        raise DataError(f"classes={classes} must be a number of classes, or 0 for any")
    root = Path(path).expanduser()
    if (root / "train").is_dir() and (root / "test").is_dir():
        parts = [_matched(root / "train"), _matched(root / "test")]
    else:
        found = _matched(root)
        order, at = split_order(len(found), test_fraction, seed)
        parts = [[found[i] for i in order[at:]], [found[i] for i in order[:at]]]
    shape = common_shape([image for part in parts for image, _ in part], size, 3)
    return tuple(_source(part, shape, size, classes, ignore) for part in parts)


def _matched(root: Path) -> list[tuple[Path, Path]]:
    """Each image with its map, by name."""
    named = {}
    for kind in ("images", "maps"):
        folder = root / kind
        if not folder.is_dir():
            raise DataError(f"no folder at {folder}: pairs:PATH reads PATH/images and, under the same names, "
                            "PATH/maps, or both in PATH/train and PATH/test")
        named[kind] = {}
        for file in image_files(folder):
            name = str(file.relative_to(folder).with_suffix(""))
            for ending in _ENDINGS:
                name = name.removesuffix(ending)
            if name in named[kind]:
                raise DataError(f"{named[kind][name]} and {file} have one name: leave one of them out")
            named[kind][name] = file
    for kind, other, missing in (("images", "maps", "map"), ("maps", "images", "image")):
        alone = sorted(named[kind].keys() - named[other].keys())
        if alone:
            raise DataError(f"{len(alone)} of {len(named[kind])} files in {root / kind} have no {missing}, the first "
                            f"is {named[kind][alone[0]]}: put a file of its name into {root / other}, or leave it out")
    return [(named["images"][name], named["maps"][name]) for name in sorted(named["images"])]


def _source(files: list[tuple[Path, Path]], shape: tuple[int, int, int], size: int, classes: int, ignore: int
            ) -> LazySource:
    dtype, void = (np.uint8, 255) if 0 < classes < 256 else (np.int32, -1)

    def read(positions: np.ndarray) -> dict[str, np.ndarray]:
        both = [_pair(*files[i], size, classes, ignore, void) for i in positions]
        return {"x": np.stack([x for x, _ in both]), "semantic": np.stack([s for _, s in both]).astype(dtype)}

    spec = {"x": ShapeDtypeStruct(shape, np.uint8), "semantic": ShapeDtypeStruct(shape[:2], dtype)}
    return LazySource(read, len(files), spec, {"files": tuple(str(image) for image, _ in files)})


def _pair(file: Path, of_map: Path, size: int, classes: int, ignore: int, void: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    def image(path):
        with Image.open(path) as opened:
            return opened.size, fit(opened, size, 3)

    def numbers(path):
        with Image.open(path) as opened:
            return opened.size, opened.mode, _fit_map(opened, size) if opened.mode in _MAP_MODES else None

    (shape, x), (map_shape, mode, semantic) = decoded(file, image), decoded(of_map, numbers)
    if semantic is None:
        raise DataError(f"{of_map} has colours (mode {mode}): a map's pixels must be class numbers, as of a greyscale "
                        "PNG; write the number of each colour in its place")
    if shape != map_shape:
        raise DataError(f"{file} is {shape[0]} x {shape[1]} but its map {of_map} is {map_shape[0]} x {map_shape[1]}: "
                        "give a class for each pixel")
    ignored = semantic == ignore
    wrong = (semantic < 0) | ((semantic >= classes) if classes else False)
    if np.any(wrong & ~ignored):
        row, column = np.argwhere(wrong & ~ignored)[0]
        raise DataError(f"{of_map} has the number {semantic[row, column]}, which is neither a class in [0, {classes}) "
                        f"nor config.data.ignore={ignore}: correct the map, or set config.data.classes")
    return x, np.where(ignored, void, semantic)


def _fit_map(image: Any, size: int) -> np.ndarray:
    """The class numbers of a map, int32 `[h w]`, cut and resized as `jaxae.data.images.fit` does with its image."""
    if image.mode == "1":
        image = image.convert("L").point(lambda value: value > 0)
    if size:
        w, h = image.size
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        from PIL import Image

        image = image.resize((size, size), Image.Resampling.NEAREST, (left, top, left + side, top + side))
    return np.asarray(image, np.int32)
