"""Resizing of stored uint8 images with Pillow, on the host."""

from typing import Any

import numpy as np

from jaxae.data.source import DataError


def fit(image: Any, size: int, channels: int) -> np.ndarray:
    """One Pillow image as a square uint8 array.

    The centre square is cut out and resized: by area average when it shrinks by an integer factor, bicubic
    (antialiased) otherwise.

    Args:
      image: a `PIL.Image`.
      size: pixels of a side; 0 leaves height and width as they are.
      channels: 1 is greyscale, 3 is RGB; transparency is laid on white.

    Returns:
      uint8 `[h w channels]`.
    """
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I;16"):   # Pillow's own conversion would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if size:
        w, h = image.size
        side = min(w, h)
        left, top = (w - side) // 2, (h - side) // 2
        box = (left, top, left + side, top + side)
        if side % size == 0:
            image = image.reduce(side // size, box)   # one rounding; resize by area would round once an axis
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC, box)
    return np.asarray(image, np.uint8).reshape(image.size[1], image.size[0], channels)


def fit_all(x: np.ndarray, size: int = 0, channels: int = 0) -> np.ndarray:
    """Resizes and converts a stack of images; returns `x` itself when nothing is asked for.

    Args:
      x: uint8 `[n h w c]` with c 1, 3 or 4, or anything when nothing is asked for.
      size: pixels of a side, 0 as it is.
      channels: 1 or 3, 0 as it is.

    Returns:
      uint8 `[n size size channels]`.

    Raises:
      DataError: not uint8 images, or other numbers of channels.
    """
    check_options(size, channels)
    if not size and not channels:
        return x
    if x.ndim == 4 and size in (0, x.shape[1]) and size in (0, x.shape[2]) and channels in (0, x.shape[-1]):
        return x
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in (1, 3, 4):
        raise DataError(f"size={size} and channels={channels} convert uint8 images [n h w 1|3|4]; x is "
                        f"{x.dtype} {list(x.shape)}: leave both 0, or convert x before")
    from PIL import Image

    channels = channels or min(x.shape[-1], 3)
    return np.stack([fit(Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a), size, channels) for a in x])


def check_options(size: int, channels: int) -> None:
    """Raises DataError unless size >= 0 and channels is 0, 1 or 3."""
    if size < 0 or channels not in (0, 1, 3):
        raise DataError(f"size is a number of pixels or 0, channels is 0, 1 or 3; got {size} and {channels}")
