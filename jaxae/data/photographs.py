"""Natural images: random crops of the two photographs that scikit-learn ships."""

import numpy as np

from jaxae.data.images import check_options
from jaxae.data.source import ArraySource, DataError
from jaxae.data.whitening import whiten as whitened


def photographs(size: int = 0, channels: int = 0, num_train: int = 0, num_test: int = 0,
                whiten: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Crops of china.jpg and flower.jpg (427 x 640), train from their left halves and test from their right.

    Crops of one split overlap; no pixel is in both splits. All crops come from two pictures: a set to test
    mechanisms on natural statistics, not one to generalise from.

    Args:
      size: pixels of a side, at most 320; 0 is 32.
      channels: 3 (also for 0) or 1 for luminance.
      num_train: training crops; 0 is 4,000.
      num_test: test crops; 0 is 1,000.
      whiten: 0, or so many principal components, each of variance one, in the place of pixels (`whitening.whiten`).
      seed: seed of the crops' places.

    Returns:
      Train and test; `x` uint8 `[n size size channels]`, or float32 `[n whiten]`; `label` uint8 `[n]`, 0 for china
      and 1 for flower.

    Raises:
      DataError: a size that does not fit into half a photograph, or more components than pixels.
    """
    from sklearn.datasets import load_sample_images

    check_options(size, channels)
    size = size or 32
    images = np.stack(load_sample_images().images)   # uint8 [2 427 640 3]
    half = images.shape[2] // 2
    largest = min(images.shape[1], half)
    if size > largest:
        raise DataError(f"size={size} does not fit into half a photograph: use at most {largest}")
    if channels == 1:
        images = np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]

    def crops(part: np.ndarray, n: int, split: int) -> ArraySource:
        rng = np.random.default_rng([seed, split])
        which = rng.integers(0, len(part), n)
        top = rng.integers(0, part.shape[1] - size + 1, n)
        left = rng.integers(0, part.shape[2] - size + 1, n)
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))  # [2 . . c s s]
        x = np.ascontiguousarray(np.moveaxis(windows[which, top, left], 1, -1))
        return ArraySource({"x": x, "label": which.astype(np.uint8)}, {"label_names": ("china", "flower")})

    train, test = crops(images[:, :, :half], num_train or 4000, 0), crops(images[:, :, half:], num_test or 1000, 1)
    return whitened(train, test, whiten) if whiten else (train, test)
