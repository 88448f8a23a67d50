"""Figures of a run as PNG: grids of images, code maps, and what a system shows, drawn by its shape.

Images are floats in [0, 1]; what lies outside is clipped, and NaN is black. Every function that draws returns the
picture `[H W c]` in [0, 1] too.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxae.train import plots
from jaxae.train.plots import PathLike, Picture, save_png, to_numpy

_WIDE, _TALL = 600, 2400  # pixels: small images are enlarged until the picture is wide, or would be too tall
_SEPARATOR, _GAP = 2, 8  # pixels between images, and between blocks of rows that belong together
_SHADE = 0.6  # of separators: seen against black and against white

Images = Shaped[Array | np.ndarray, "n h w c"]


def image_grid(images: Images, columns: int, scale: int | None = None) -> Picture:
    """Images in reading order with grey lines of 2 pixels around them, enlarged by an integer factor.

    Image `i` begins at row `2 + (i // columns) (scale h + 2)` and column `2 + (i % columns) (scale w + 2)`.

    Args:
      images: `[n h w c]` in [0, 1].
      columns: images in a row.
      scale: nearest-neighbour enlargement; by default what makes the picture at least 600 pixels wide, or
        less if it would be taller than 2,400.
    """
    return _blocks(to_numpy(images)[None], columns, scale)


def side_by_side(inputs: Images, reconstructions: Images, columns: int, scale: int | None = None) -> Picture:
    """A row of inputs over the row of their reconstructions, again and again; otherwise as `image_grid`."""
    return _blocks(np.stack([to_numpy(inputs), to_numpy(reconstructions)]), columns, scale)


def heatmap(codes: Int[Array | np.ndarray, "n h w"], path: PathLike, title: str = "") -> Picture:
    """Maps of discrete codes, one colour a code, with a colour bar; the maps lie as in `image_grid`."""
    from matplotlib import cm, colors, ticker

    codes = to_numpy(codes)
    low, high = int(codes.min()), int(codes.max())
    if high - low < 20:
        colours, ticks = colors.ListedColormap(plots.palette(high - low + 1)), np.arange(low, high + 1)
        norm = colors.BoundaryNorm(np.arange(low, high + 2) - 0.5, colours.N)
    else:  # more codes than colours that can be told apart
        colours, ticks, norm = "turbo", ticker.MaxNLocator(integer=True), colors.Normalize(low, high)
    mapping = cm.ScalarMappable(norm, colours)
    coloured = mapping.to_rgba(codes.ravel())[:, :3].reshape(*codes.shape, 3)
    image = image_grid(coloured, _square(len(codes)))
    height, width = image.shape[:2]
    full = np.array([width + 120, height + 40] * 2)
    figure = plots.blank(*full[:2] / 100, layout=None)
    axes = figure.add_axes(np.array([10, 5, width, height]) / full)  # grid pixels are figure pixels
    axes.imshow(image, interpolation="none", aspect="auto")
    axes.set_axis_off()
    axes.set_title(title)
    bar = figure.add_axes(np.array([width + 25, 5, 20, height]) / full)
    figure.colorbar(mapping, cax=bar, label="code", ticks=ticks)
    return plots.render(figure, path)


def write_figures(
    directory: PathLike, step: SupportsInt, figures: Mapping[str, Any], words: Sequence[str] = ()
) -> tuple[list[Path], dict[str, np.ndarray]]:
    """Writes what a system's `figures` returns as `directory/NAME_000500.png`, each array by its shape.

    - `[n h w c]`, floats or uint8: a grid of images; floats `[n h w]`: the same without colours;
    - `[k n h w c]`: k rows that belong together: (inputs, reconstructions), (input, masked, reconstruction),
      a traversal of n values for each of k latents, k videos of n frames;
    - `[m k n h w c]`: m blocks of k such rows, like videos with several ways in which each goes on;
    - integers `[n h w]`: code maps;
    - integers `[n t]`: a page of sentences;
    - `[n 2]`: a map of points, coloured by the array `NAME_labels [n]` if there is one;
    - `[k n t]` under the name `NAME_waveforms`: n panels of k curves, inputs and reconstructions;
    - `[k]`: bars, or under the name `NAME_histogram` a histogram of the values.

    Args:
      directory: where the files go; made if missing.
      step: part of the file names.
      figures: `{name: array}`.
      words: of the tokens, by number.

    Returns:
      The paths, and `{name: [H W c]}` in [0, 1] for `Writer.write_images`.

    Raises:
      ValueError: an array is empty or has another shape.
    """
    paths, pictures = [], {}
    for name, value in figures.items():
        if name.endswith("_labels") and name.removesuffix("_labels") in figures:
            continue
        value = to_numpy(value)
        path = Path(directory) / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', name)}_{int(step):06d}.png"
        sound = name.endswith("_waveforms")
        if value.ndim == 3 and value.dtype.kind not in "iu" and not sound:
            value = value[..., None]
        if value.size and value.ndim == 3 and sound:
            picture = plots.waveforms(value, path, name.replace("_", " "))
        elif value.size and value.ndim == 1 and name.endswith("_histogram"):
            picture = plots.histogram(value, path, name.removesuffix("_histogram").replace("_", " "))
        elif value.size and value.ndim == 1:
            picture = plots.bars(value, path, name)
        elif value.size and value.ndim == 2 and value.dtype.kind in "iu":
            picture = plots.page(value, path, name, words)
        elif value.size and value.ndim == 2 and value.shape[1] == 2:
            picture = plots.scatter(value, figures.get(f"{name}_labels"), path, name)
        elif value.size and value.ndim == 3:
            picture = heatmap(value, path, name)
        elif value.size and value.ndim in (4, 5, 6) and value.shape[-1] in (1, 3, 4) and (
            value.dtype == np.uint8 or value.dtype.kind in "bf"
        ):
            stack = value if value.ndim == 5 else value[None]
            k, n = stack.shape[:2]
            if value.ndim == 6:  # the rows of all blocks, one behind the other, are cut where a block ends
                stack, n = value.swapaxes(0, 1).reshape(value.shape[1], -1, *value.shape[3:]), value.shape[2]
            columns = n if value.ndim == 6 or k > 3 and n <= 20 else _square(n) if k == 1 else max(8, _square(k * n))
            picture = _blocks(stack, columns)
            save_png(path, picture)
        else:
            raise ValueError(
                f"figure {name!r} has shape {value.shape}; give images [n h w c], pairs [2 n h w c] or blocks with "
                "c = 1, 3 or 4, integer codes [n h w], tokens [n t], points [n 2] or values [k], at least one of them"
            )
        paths.append(path)
        pictures[name] = picture
    return paths, pictures


def _square(n: int) -> int:
    return int(np.ceil(np.sqrt(n)))


def _blocks(stack: np.ndarray, columns: int, scale: int | None = None) -> np.ndarray:
    """The picture of `stack [k n h w c]`: blocks of k rows, `columns` images wide."""
    k, n, h, w, c = stack.shape
    if n == 0 or columns < 1:
        raise ValueError(f"a grid needs images and columns; got {n} images and {columns} columns")
    stack = stack / 255 if stack.dtype == np.uint8 else np.clip(np.nan_to_num(stack), 0, 1)
    columns = min(columns, n)
    blocks = -(-n // columns)
    scale = scale or max(1, min(-(-_WIDE // (columns * w)), _TALL // (blocks * k * h)))
    stack = stack.repeat(scale, 2).repeat(scale, 3)
    h, w = scale * h + _SEPARATOR, scale * w + _SEPARATOR
    gap = _GAP - _SEPARATOR if k > 1 else 0
    height = _SEPARATOR + blocks * (k * h + gap) - gap
    picture = np.full((height, _SEPARATOR + columns * w, c), _SHADE, np.float32)
    for row, i in np.ndindex(k, n):
        top = _SEPARATOR + i // columns * (k * h + gap) + row * h
        left = _SEPARATOR + i % columns * w
        picture[top : top + h - _SEPARATOR, left : left + w - _SEPARATOR] = stack[row, i]
    return picture
