"""Moving digits: videos of handwritten digits that cross a frame at constant speed and bounce off its sides."""

import numpy as np

from jaxae.data.digits import digits
from jaxae.data.images import fit_all
from jaxae.data.source import ArraySource, DataError


def paths(start: np.ndarray, velocity: np.ndarray, room: int, frames: int) -> np.ndarray:
    r"""Whole-pixel positions on one axis of what moves at constant speed between two walls.

        p_t = round(| ((s + v t + r) mod 2 r) - r |),   t = 0 .. frames - 1

    the reflection of s + v t into [0, r].

    Args:
      start: s, in [0, room], `[*n]`, in pixels.
      velocity: v, pixels a frame, `[*n]`.
      room: r, pixels between the walls.
      frames: length of the video.

    Returns:
      ints in [0, room], `[*n frames]`.

    >>> paths(np.array([1.0]), np.array([2.0]), 4, 6).tolist()
    [[1, 3, 3, 1, 1, 3]]
    """
    free = start[..., None] + velocity[..., None] * np.arange(frames)
    reflected = np.abs((free + room) % (2 * room) - room) if room else np.zeros_like(free)
    return np.floor(reflected + 0.5).astype(np.int64)


def render(tiles: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Lays tiles into black frames at given places; where they overlap, the lighter one is seen.

    Args:
      tiles: uint8 `[n k s s]`, k tiles for each video.
      rows: of their upper left corners, ints `[n k t]`.
      columns: the same.
      size: pixels of a side of the frames.

    Returns:
      uint8 `[n t size size 1]`.
    """
    n, k, side, _ = tiles.shape
    frames = rows.shape[2]
    x = np.zeros((n, frames, size, size), np.uint8)
    every, steps = np.arange(n)[:, None, None, None], np.arange(frames)[:, None, None]
    for i in range(k):
        row = rows[:, i, :, None, None] + np.arange(side)[:, None]
        column = columns[:, i, :, None, None] + np.arange(side)
        x[every, steps, row, column] = np.maximum(x[every, steps, row, column], tiles[:, i, None])
    return x[..., None]


def moving_digits(size: int = 0, frames: int = 0, moving: int = 1, digit_size: int = 0, speed: float = 0.0,
                  num_train: int = 0, num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Videos of embedded MNIST digits that move in straight lines and bounce, drawn at random.

    Each video has `moving` digits, each with a start that is uniform over the frame, a direction that is uniform over
    the circle, and one speed: after two frames the rest is known, but for the rounding to whole pixels. Training videos
    are made of the 4,000 training digits, test videos of the 1,000 test digits.

    Args:
      size: pixels of a side of the frames; 0 is 32.
      frames: of a video; 0 is 8.
      moving: digits of a video.
      digit_size: pixels of a side of the digits; 0 is 7/16 of the frame, which is 28 of 64.
      speed: pixels a frame; 0 is a tenth of what the frame leaves free, as in the original set.
      num_train: training videos; 0 is 4,000.
      num_test: test videos; 0 is 1,000.
      seed: of the choice of digits, starts and directions.

    Returns:
      Train and test; `x` uint8 `[n frames size size 1]`, `label` uint8 `[n]`, the class of the first digit, `place`
      int32 `[n moving frames 2]`, row and column of each digit's upper left corner.

    Raises:
      DataError: digits that do not fit into the frame, no digit, no frame, or a negative speed.

    Example:
      >>> train, test = moving_digits(size=16, frames=4, num_train=6, num_test=2)
      >>> train[:3]["x"].shape, train[:3]["place"].shape
      ((3, 4, 16, 16, 1), (3, 1, 4, 2))

    Reference: after Srivastava, Mansimov, Salakhutdinov, 'Unsupervised learning of video representations using LSTMs',
    2015, arXiv 1502.04681, whose videos have two digits of 28 pixels in 20 frames of 64.
    """
    size, frames = size or 32, frames or 8
    side = digit_size or round(7 * size / 16)
    room = size - side
    speed = speed or room / 10
    if moving < 1 or frames < 1 or not 1 <= side <= size or speed < 0:
        raise DataError("moving digits need one digit and one frame or more, digits that fit into the frame, and a "
                        f"speed above 0; got moving={moving}, frames={frames}, digit_size={side}, size={size}, "
                        f"speed={speed:g}")
    splits = digits()

    def draw(n: int, split: int) -> ArraySource:
        rng, source = np.random.default_rng([seed, split]), splits[split].arrays()
        which = rng.integers(0, len(source["x"]), (n, moving))
        start, angle = rng.uniform(0, room, (2, n, moving)), rng.uniform(0, 2 * np.pi, (n, moving))
        used, place_of = np.unique(which, return_inverse=True)  # resized once each
        tiles = fit_all(source["x"][used], side)[..., 0][place_of.reshape(which.shape)]
        rows, columns = (paths(start[i], speed * way(angle), room, frames) for i, way in enumerate((np.sin, np.cos)))
        return ArraySource({"x": render(tiles, rows, columns, size), "label": source["label"][which[:, 0]],
                            "place": np.stack([rows, columns], -1).astype(np.int32)}, splits[split].info)

    return draw(num_train or 4000, 0), draw(num_test or 1000, 1)
