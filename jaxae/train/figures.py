"""Pictures of a run as PNG: grids of images, training curves, latent maps, code maps, usage bars.

Images are floats in [0, 1]; what lies outside is clipped, and NaN is black. Every function that draws returns
the picture `[H W c]` in [0, 1] too. Plots never touch pyplot: no display needed, no notebook disturbed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from PIL import Image

_WIDE, _TALL = 600, 2400  # pixels: small images are enlarged until the picture is wide, or would be too tall
_SEPARATOR, _GAP = 2, 8  # pixels between images, and between blocks of rows that belong together
_SHADE = 0.6  # of separators: seen against black and against white
_SPLITS = ("train", "eval", "valid", "validation", "test")

PathLike = str | os.PathLike
Points = Shaped[Array | np.ndarray, "n 2"]
Images = Shaped[Array | np.ndarray, "n h w c"]
Picture = Float[np.ndarray, "H W c"]


def as_uint8(image: Any) -> np.ndarray:
    """Pixels 0 to 255 of floats in [0, 1]; uint8 stays as it is."""
    image = _numpy(image)
    if image.dtype == np.uint8:
        return image
    return np.round(255 * np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1)).astype(np.uint8)


def save_png(path: PathLike, array: Any) -> None:
    """Writes an image `[h w]`, or `[h w c]` with 1, 3 or 4 channels, as a PNG; never half of one."""
    path, pixels = Path(path), as_uint8(array)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(f"an image is [h w] or [h w c] with 1, 3 or 4 channels; got shape {pixels.shape}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(temporary, format="PNG")
    os.replace(temporary, path)


def image_grid(images: Images, columns: int, scale: int | None = None) -> Picture:
    """Images in reading order with grey lines of 2 pixels around them, enlarged by an integer factor.

    Image `i` begins at row `2 + (i // columns) (scale h + 2)` and column `2 + (i % columns) (scale w + 2)`.

    Args:
      images: `[n h w c]` in [0, 1].
      columns: images in a row.
      scale: nearest-neighbour enlargement; by default what makes the picture at least 600 pixels wide, or
        less if it would be taller than 2,400.
    """
    return _blocks(_numpy(images)[None], columns, scale)


def side_by_side(inputs: Images, reconstructions: Images, columns: int, scale: int | None = None) -> Picture:
    """A row of inputs over the row of their reconstructions, again and again; otherwise as `image_grid`."""
    return _blocks(np.stack([_numpy(inputs), _numpy(reconstructions)]), columns, scale)


def curves(rows: Sequence[Mapping[str, Any]], path: PathLike) -> Picture:
    """Training curves: a panel for each metric, with its `train/` and `eval/` values on the same axes.

    The vertical axis is logarithmic where positive values span over two decades; missing and non-finite
    values leave gaps. `rows` are `{"step": ..., "train/loss": ...}`, as `read_metrics` returns them.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float | np.number):
                split, _, metric = name.partition("/")
                split, metric = (split, metric) if metric and split in _SPLITS else ("", name)
                panels.setdefault(metric, {}).setdefault(split, []).append((row["step"], float(value)))
    across = min(3, max(1, len(panels)))
    down = max(1, -(-len(panels) // across))
    figure = _figure(max(4.2, 6.4 / across) * across, max(2.8, 4.2 / down) * down)
    if not panels:
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center")
    for place, (metric, series) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(down, across, place)
        finite = np.zeros(0)
        for split, points in series.items():
            steps, values = np.array(sorted(points, key=lambda point: point[0])).T
            seen = np.isfinite(values)
            colour = f"C{_SPLITS.index(split) if split else 0}"
            marker = "." if seen.sum() <= 30 else ""  # a line through one point is invisible
            axes.plot(steps, np.where(seen, values, np.nan), color=colour, marker=marker, label=split)
            finite = np.append(finite, values[seen])
        if finite.size and finite.min() > 0 and finite.max() > 100 * finite.min():
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        axes.set(title=metric, xlabel="step")
        axes.grid(alpha=0.3)
        if any(series):
            axes.legend()
    return _render(figure, path)


def scatter(points: Points, labels: Any, path: PathLike, title: str = "") -> Picture:
    """A map of latents, coloured by label `[n]`: with a legend up to 20 integers, else with a colour bar.

    `labels` may be None. Points that are not finite are left out.
    """
    points = _numpy(points)
    labels = np.zeros(len(points), int) if labels is None else _numpy(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{len(points)} points need as many labels; got labels of shape {labels.shape}")
    # In the order of the data the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(points))
    order = order[np.isfinite(points[order]).all(1)]
    points, labels, names = points[order], labels[order], np.unique(labels)
    figure = _figure(7.2, 6.0)
    axes = figure.add_subplot()
    style = {"s": np.clip(20000 / max(len(points), 1), 3, 30), "alpha": 0.8, "linewidths": 0}
    if labels.dtype.kind in "biu" and len(names) <= 20:
        colours = _palette(len(names))
        axes.scatter(*points.T, c=colours[np.searchsorted(names, labels)], **style)
        if len(names) > 1:
            dots = [axes.scatter([], [], color=colours[i], label=str(name)) for i, name in enumerate(names)]
            figure.legend(handles=dots, loc="outside right upper", title="label")
    else:
        figure.colorbar(axes.scatter(*points.T, c=labels, cmap="viridis", **style), label="label")
    axes.set(title=title, xlabel="latent 1", ylabel="latent 2")
    axes.set_aspect("equal", adjustable="datalim")
    return _render(figure, path)


def heatmap(codes: Int[Array | np.ndarray, "n h w"], path: PathLike, title: str = "") -> Picture:
    """Maps of discrete codes, one colour a code, with a colour bar; the maps lie as in `image_grid`."""
    from matplotlib import cm, colors, ticker

    codes = _numpy(codes)
    low, high = int(codes.min()), int(codes.max())
    if high - low < 20:
        colours, ticks = colors.ListedColormap(_palette(high - low + 1)), np.arange(low, high + 1)
        norm = colors.BoundaryNorm(np.arange(low, high + 2) - 0.5, colours.N)
    else:  # more codes than colours that can be told apart
        colours, ticks, norm = "turbo", ticker.MaxNLocator(integer=True), colors.Normalize(low, high)
    mapping = cm.ScalarMappable(norm, colours)
    coloured = mapping.to_rgba(codes.ravel())[:, :3].reshape(*codes.shape, 3)
    image = image_grid(coloured, _square(len(codes)))
    height, width = image.shape[:2]
    full = np.array([width + 120, height + 40] * 2)
    figure = _figure(*full[:2] / 100, layout=None)
    axes = figure.add_axes(np.array([10, 5, width, height]) / full)  # grid pixels are figure pixels
    axes.imshow(image, interpolation="none", aspect="auto")
    axes.set_axis_off()
    axes.set_title(title)
    bar = figure.add_axes(np.array([width + 25, 5, 20, height]) / full)
    figure.colorbar(mapping, cax=bar, label="code", ticks=ticks)
    return _render(figure, path)


def bars(counts: Shaped[Array | np.ndarray, " k"], path: PathLike, title: str = "") -> Picture:
    """Values in descending order, such as the counts of codes; `exp(entropy)` says how many are in use."""
    counts = np.sort(np.nan_to_num(_numpy(counts).astype(np.float64)))[::-1]
    if counts[-1] >= 0 and counts[0] > 0:
        share = counts[counts > 0] / counts.sum()
        effective = np.exp(-share @ np.log(share))
        title += f"\n{share.size} of {counts.size} above zero, exp(entropy) = {effective:.1f}"
    figure = _figure(7.2, 4.0)
    axes = figure.add_subplot()
    axes.stairs(counts, np.arange(counts.size + 1), fill=True)
    axes.set(title=title.strip(), xlabel="rank", ylabel="value", xlim=(0, counts.size))
    return _render(figure, path)


def page(tokens: Int[Array | np.ndarray, "n t"], path: PathLike, title: str = "", words: Sequence[str] = ()) -> Picture:
    """A line of text for each row of tokens; 0 is padding, and numbers stand where there are no `words`."""
    rows = [" ".join(words[i] if i < len(words) else str(i) for i in row if i) for row in _numpy(tokens)]
    figure = _figure(max(4.0, 0.095 * max(map(len, rows)) + 0.4), 0.17 * len(rows) + 0.7, layout=None)
    figure.suptitle(title)
    figure.text(0.02, 1 - 0.5 / figure.get_figheight(), "\n".join(rows), family="monospace", size=10, va="top")
    return _render(figure, path)


def write_figures(
    directory: PathLike, step: SupportsInt, figures: Mapping[str, Any], words: Sequence[str] = ()
) -> tuple[list[Path], dict[str, np.ndarray]]:
    """Writes what a system's `figures` returns as `directory/NAME_000500.png`, each array by its shape.

    - `[n h w c]`, floats or uint8: a grid of images; floats `[n h w]`: the same without colours;
    - `[k n h w c]`: k rows that belong together: (inputs, reconstructions), (input, masked, reconstruction),
      a traversal of n values for each of k latents, k videos of n frames;
    - integers `[n h w]`: code maps;
    - integers `[n t]`: a page of sentences;
    - `[n 2]`: a map of points, coloured by the array `NAME_labels [n]` if there is one;
    - `[k]`: bars.

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
        value = _numpy(value)
        path = Path(directory) / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', name)}_{int(step):06d}.png"
        if value.ndim == 3 and value.dtype.kind not in "iu":
            value = value[..., None]
        if value.size and value.ndim == 1:
            picture = bars(value, path, name)
        elif value.size and value.ndim == 2 and value.dtype.kind in "iu":
            picture = page(value, path, name, words)
        elif value.size and value.ndim == 2 and value.shape[1] == 2:
            picture = scatter(value, figures.get(f"{name}_labels"), path, name)
        elif value.size and value.ndim == 3:
            picture = heatmap(value, path, name)
        elif value.size and value.ndim in (4, 5) and value.shape[-1] in (1, 3, 4) and (
            value.dtype == np.uint8 or value.dtype.kind in "bf"
        ):
            stack = value if value.ndim == 5 else value[None]
            k, n = stack.shape[:2]
            columns = n if k > 3 and n <= 20 else _square(n) if k == 1 else max(8, _square(k * n))
            picture = _blocks(stack, columns)
            save_png(path, picture)
        else:
            raise ValueError(
                f"figure {name!r} has shape {value.shape}; give images [n h w c] or pairs [2 n h w c] with "
                "c = 1, 3 or 4, integer codes [n h w], tokens [n t], points [n 2] or values [k], at least one of them"
            )
        paths.append(path)
        pictures[name] = picture
    return paths, pictures


def _numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)  # bfloat16 is foreign to numpy


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


def _palette(k: int) -> np.ndarray:
    """k <= 20 colours `[k 3]` that can be told apart."""
    import matplotlib

    return np.array(matplotlib.colormaps["tab10" if k <= 10 else "tab20"].colors)[:k]


def _figure(width: float, height: float, layout: str | None = "constrained") -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    if layout:
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches
    return figure


def _render(figure: Any, path: PathLike) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    save_png(path, pixels)
    return pixels.astype(np.float32) / 255
