"""Scenes with a semantic map: shapes of known classes, coloured by class, each with a random texture of its own.

The class of every pixel is known and can be read off its hue, so that images which a model generates for a map are
segmented exactly. What a map does not say is the texture of each object.
"""

import colorsys

import numpy as np

from jaxae.data.source import ArraySource, DataError

CLASSES = ("background", "square", "disc", "triangle", "cross")
OBJECTS = (3, 4)  # fewest and most in a scene
TEXTURES = ("plain", "rows", "columns", "checks")
_LEVELS = (0.5, 0.95)  # of brightness
_SATURATION = 0.8
_RADII = (0.32, 0.55)  # of objects, on a frame of [-1, 1]
_REACH = 0.75  # centres lie in [-reach, reach]
_CHUNK = 256  # scenes drawn at a time: bounds the float temporaries


def hues() -> np.ndarray:
    """The hue of each of `CLASSES`, evenly spread over the circle [0, 1): float `[5]`."""
    return np.arange(len(CLASSES)) / len(CLASSES)


def segment(x: np.ndarray) -> np.ndarray:
    """The semantic map of scenes: at each pixel the class whose hue is nearest.

    Args:
      x: RGB images in [0, 1], `[n h w 3]`.

    Returns:
      int32 `[n h w]`; pixels without colour are background.
    """
    x = np.asarray(x, np.float64)
    # The hue is the angle of the colour in the plane across the grey axis.
    across = np.stack([2 * x[..., 0] - x[..., 1] - x[..., 2], np.sqrt(3) * (x[..., 1] - x[..., 2])], -1)
    angle = 2 * np.pi * hues()
    return np.argmax(across @ np.stack([np.cos(angle), np.sin(angle)]), -1).astype(np.int32)


def render(shape: np.ndarray, place: np.ndarray, texture: np.ndarray, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draws scenes, later objects over earlier ones.

    Args:
      shape: class of each object, ints `[n k]` from 1; 0 for none.
      place: column, row and radius of each object on a frame of [-1, 1], float `[n k 3]`.
      texture: number in `TEXTURES` and phase, 0 or 1, of each region, ints `[n k+1 2]`; the first is the background's.
        The other phase has dark for light.
      size: pixels of a side.

    Returns:
      uint8 images `[n size size 3]` and uint8 semantic maps `[n size size]`.
    """
    centres = (2 * np.arange(size) + 1) / size - 1
    owner = np.zeros((len(shape), size, size), np.int64)  # which region a pixel shows
    for i in range(shape.shape[1]):
        column, row, radius = (place[:, i, j, None, None] for j in range(3))
        u, v = (centres[None, None, :] - column) / radius, (centres[None, :, None] - row) / radius
        inside = np.select([shape[:, i, None, None] == k for k in range(1, len(CLASSES))], [
            np.maximum(abs(u), abs(v)) < 0.85,
            u**2 + v**2 < 1,
            (v < 0.8) & (v > 2 * abs(u) - 1),
            (np.minimum(abs(u), abs(v)) < 0.35) & (np.maximum(abs(u), abs(v)) < 1)], False)
        owner[inside] = i + 1
    classes = np.concatenate([np.zeros((len(shape), 1), shape.dtype), shape], 1)
    semantic = np.take_along_axis(classes, owner.reshape(len(shape), -1), 1).reshape(owner.shape)
    kind, phase = np.moveaxis(
        np.take_along_axis(texture, owner.reshape(len(shape), -1, 1), 1).reshape(*owner.shape, 2), -1, 0)
    stripe = np.arange(size) // max(1, size // 8) % 2  # four pixels wide at a size of 32
    rows, columns = stripe[None, :, None], stripe[None, None, :]
    bright = np.select([kind == 1, kind == 2, kind == 3], np.broadcast_arrays(rows, columns, rows ^ columns), 0)
    value = np.take(_LEVELS, bright ^ phase)
    palette = np.array([colorsys.hsv_to_rgb(hue, _SATURATION, 1.0) for hue in hues()])
    return np.rint(255 * value[..., None] * palette[semantic]).astype(np.uint8), semantic.astype(np.uint8)


def scenes(size: int = 0, num_train: int = 0, num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Scenes of 3 or 4 objects before a background, with their semantic maps.

    Class, place, size and texture of the objects are independent and uniform. The hue of a pixel is that of its class;
    its brightness is the region's texture: plain, rows, columns or checks, in either phase of dark and light.

    Args:
      size: pixels of a side; 0 is 32.
      num_train: training scenes; 0 is 4,000.
      num_test: test scenes; 0 is 1,000.
      seed: seed of the draw.

    Returns:
      Train and test; `x` uint8 `[n size size 3]`, `semantic` uint8 `[n size size]`, the class of each pixel;
      `info['semantic_names']` names the classes.

    Raises:
      DataError: for scenes of fewer than 8 pixels a side.
    """
    size = size or 32
    if size < 8:
        raise DataError(f"scenes of {size} pixels a side hold no objects: ask for a size of at least 8")

    def part(n: int, split: int) -> ArraySource:
        rng, most = np.random.default_rng([seed, split]), OBJECTS[1]
        shape = rng.integers(1, len(CLASSES), (n, most))
        shape *= np.arange(most) < rng.integers(OBJECTS[0], most + 1, (n, 1))
        place = np.concatenate([rng.uniform(-_REACH, _REACH, (n, most, 2)), rng.uniform(*_RADII, (n, most, 1))], -1)
        texture = rng.integers(0, (len(TEXTURES), 2), (n, most + 1, 2))
        drawn = [render(shape[i:i + _CHUNK], place[i:i + _CHUNK], texture[i:i + _CHUNK], size)
                 for i in range(0, n, _CHUNK)]
        x, semantic = (np.concatenate(arrays) for arrays in zip(*drawn, strict=True))
        return ArraySource({"x": x, "semantic": semantic}, {"semantic_names": CLASSES})

    return part(num_train or 4000, 0), part(num_test or 1000, 1)
