"""Sprites with known factors: shape, scale, orientation and position, every combination its own image.

In the manner of dSprites (L. Matthey, I. Higgins, D. Hassabis, A. Lerchner, 2017), but rendered here, small
and antialiased. Orientations cover a quarter turn only, because a square looks the same after one.
"""

from collections.abc import Sequence

import numpy as np

from jaxae.data.source import ArraySource, DataError

FACTORS = ("shape", "scale", "orientation", "x", "y")
SHAPES = ("square", "ellipse", "heart")
_CHUNK = 512       # images rendered at a time: bounds the float temporaries
_REACH = 0.4       # centres lie in [-reach, reach] on a frame of [-1, 1]
_SCALES = (0.25, 0.5)   # the farthest point of a sprite is 1.02 times that from its centre


def areas(factors: np.ndarray, factor_sizes: Sequence[int]) -> np.ndarray:
    """True areas of the sprites, as a share of the frame: what their pixels must add up to.

    Args:
      factors: ints `[n 5]`.
      factor_sizes: number of values of each factor.

    Returns:
      float `[n]`.
    """
    r = _spread(factors[:, 1], factor_sizes[1], *_SCALES)
    each = np.array([(2 * 0.7) ** 2, np.pi * 1.0 * 0.5, 1.1**2 * (1 + np.pi / 4)])
    return each[factors[:, 0]] * r**2 / 4


def render(factors: np.ndarray, factor_sizes: Sequence[int] = (3, 4, 8, 8, 8), size: int = 32) -> np.ndarray:
    """Draws sprites: coverage of each pixel, from the signed distance of its centre to the outline.

    Args:
      factors: ints `[n 5]`, columns `FACTORS`, each below its size.
      factor_sizes: number of values of each factor; values are spread evenly over the factor's range.
      size: pixels of a side.

    Returns:
      uint8 `[n size size 1]`; `x` grows to the right and `y` downwards, both are where the centre of mass is.

    Raises:
      DataError: factors out of range.
    """
    factors = np.asarray(factors)
    factor_sizes = _check_sizes(factor_sizes)
    if factors.ndim != 2 or factors.shape[1] != 5 or (factors < 0).any() or (factors >= factor_sizes).any():
        raise DataError(f"factors must be ints [n 5], columns {FACTORS}, from 0 and below {factor_sizes}")
    chunks = [_draw(factors[i:i + _CHUNK], factor_sizes, size) for i in range(0, len(factors), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, size, size, 1), np.uint8)


def sprites(size: int = 0, factor_sizes: Sequence[int] = (), num_train: int = 0, num_test: int = 0,
            test_fraction: float = 0.1, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """All combinations of the factors, or a random part of them, in random order.

    Args:
      size: pixels of a side; 0 is 32.
      factor_sizes: number of values of each of `FACTORS`; () is (3, 4, 8, 8, 8), 6,144 images.
      num_train: training images; 0 takes what the test split leaves.
      num_test: test images; 0 takes `test_fraction` of the combinations.
      test_fraction: share of the test split when num_test is 0.
      seed: seed of the order and the split.

    Returns:
      Train and test, disjoint; `x` uint8 `[n size size 1]`, `factors` uint8 or int32 `[n 5]`, `label` uint8
      `[n]` the shape; `info` has `factor_names` and `factor_sizes`.

    Raises:
      DataError: more images asked for than there are combinations.
    """
    sizes = _check_sizes(factor_sizes or (3, 4, 8, 8, 8))
    total = int(np.prod(sizes, dtype=np.int64))
    num_test = num_test or round(test_fraction * total)
    num_train = num_train or total - num_test
    if num_train < 0 or num_train + num_test > total:
        raise DataError(f"{num_train} training and {num_test} test sprites exceed the {total} combinations "
                        f"of factor_sizes={sizes}: ask for fewer, or enlarge factor_sizes")
    order = np.random.default_rng(seed).permutation(total)[:num_test + num_train]
    dtype = np.uint8 if max(sizes) <= 256 else np.int32
    factors = np.stack(np.unravel_index(order, sizes), -1).astype(dtype)
    info = {"factor_names": FACTORS, "factor_sizes": sizes, "label_names": SHAPES[:sizes[0]]}

    def part(f: np.ndarray) -> ArraySource:
        arrays = {"x": render(f, sizes, size or 32), "factors": f, "label": f[:, 0].astype(np.uint8)}
        return ArraySource(arrays, info)

    return part(factors[num_test:]), part(factors[:num_test])


def _check_sizes(factor_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(s) for s in factor_sizes)
    if len(sizes) != 5 or min(sizes) < 1 or sizes[0] > len(SHAPES):
        raise DataError(f"factor_sizes are five numbers >= 1 for {FACTORS}, at most {len(SHAPES)} shapes; "
                        f"got {sizes}")
    return sizes


def _spread(value: np.ndarray, count: int, low: float, high: float) -> np.ndarray:
    """Value v of `count` as a point of [low, high]; the middle when there is one value only."""
    if count == 1:
        return np.full(value.shape, (low + high) / 2)
    return low + (high - low) * value / (count - 1)


def _draw(factors: np.ndarray, sizes: Sequence[int], size: int) -> np.ndarray:
    shape, scale, orientation, column, row = factors.T
    r = _spread(scale, sizes[1], *_SCALES)[:, None, None]
    angle = (np.pi / 2 * orientation / sizes[2])[:, None, None]   # the whole quarter turn would be 0 again
    cx = _spread(column, sizes[3], -_REACH, _REACH)[:, None, None]
    cy = _spread(row, sizes[4], -_REACH, _REACH)[:, None, None]
    centres = (2 * np.arange(size) + 1) / size - 1
    dx, dy = centres[None, None, :] - cx, centres[None, :, None] - cy
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / r             # [n size size], in units of the sprite
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / r
    distance = np.empty(u.shape)
    for k, outline in enumerate((_square, _ellipse, _heart)):
        distance[shape == k] = outline(u[shape == k], v[shape == k])
    coverage = np.clip(0.5 - distance * r * size / 2, 0, 1)       # a pixel is 2 / size wide
    return np.rint(255 * coverage).astype(np.uint8)[..., None]


def _box(u: np.ndarray, v: np.ndarray, half: float) -> np.ndarray:
    a, b = np.abs(u) - half, np.abs(v) - half
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _box(u, v, 0.7)


def _ellipse(u: np.ndarray, v: np.ndarray, a: float = 1.0, b: float = 0.5) -> np.ndarray:
    """First-order distance f / |grad f|: exact where it matters, on the outline."""
    k0 = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    k1 = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
    return np.where(k1 > 0, k0 * (k0 - 1) / np.maximum(k1, 1e-12), -b)


def _heart(u: np.ndarray, v: np.ndarray, side: float = 1.1) -> np.ndarray:
    """A square standing on a corner with a half disc on each upper side, its centre of mass at the origin."""
    centroid = (np.pi / 8) * (0.5 + 2 / (3 * np.pi)) / (1 + np.pi / 4) * side   # along both lobes' axes
    p = (u - v) / np.sqrt(2) + centroid    # v grows downwards: both lobes point up
    q = (-u - v) / np.sqrt(2) + centroid
    lobes = [np.hypot(p - side / 2, q), np.hypot(p, q - side / 2)]
    return np.minimum(_box(p, q, side / 2), np.minimum(*lobes) - side / 2)
