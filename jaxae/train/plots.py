"""Plots as PNG: curves, waveforms, maps of points, bars, histograms, pages of text; and how any picture is written.

Images are floats in [0, 1]; what lies outside is clipped, and NaN is black. Every function that draws returns the
picture `[H W c]` in [0, 1] too. Plots never touch pyplot: no display needed, no notebook disturbed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from PIL import Image

_SPLITS = ("train", "eval", "valid", "validation", "test")

PathLike = str | os.PathLike
Points = Shaped[Array | np.ndarray, "n 2"]
Picture = Float[np.ndarray, "H W c"]


def as_uint8(image: Any) -> np.ndarray:
    """Pixels 0 to 255 of floats in [0, 1]; uint8 stays as it is."""
    image = to_numpy(image)
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
    figure = blank(max(4.2, 6.4 / across) * across, max(2.8, 4.2 / down) * down)
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
    return render(figure, path)


def scatter(points: Points, labels: Any, path: PathLike, title: str = "") -> Picture:
    """A map of latents, coloured by label `[n]`: with a legend up to 20 integers, else with a colour bar.

    `labels` may be None. Points that are not finite are left out.
    """
    points = to_numpy(points)
    labels = np.zeros(len(points), int) if labels is None else to_numpy(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"{len(points)} points need as many labels; got labels of shape {labels.shape}")
    # In the order of the data the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(points))
    order = order[np.isfinite(points[order]).all(1)]
    points, labels, names = points[order], labels[order], np.unique(labels)
    figure = blank(7.2, 6.0)
    axes = figure.add_subplot()
    style = {"s": np.clip(20000 / max(len(points), 1), 3, 30), "alpha": 0.8, "linewidths": 0}
    if labels.dtype.kind in "biu" and len(names) <= 20:
        colours = palette(len(names))
        axes.scatter(*points.T, c=colours[np.searchsorted(names, labels)], **style)
        if len(names) > 1:
            dots = [axes.scatter([], [], color=colours[i], label=str(name)) for i, name in enumerate(names)]
            figure.legend(handles=dots, loc="outside right upper", title="label")
    else:
        figure.colorbar(axes.scatter(*points.T, c=labels, cmap="viridis", **style), label="label")
    axes.set(title=title, xlabel="latent 1", ylabel="latent 2")
    axes.set_aspect("equal", adjustable="datalim")
    return render(figure, path)


def bars(counts: Shaped[Array | np.ndarray, " k"], path: PathLike, title: str = "") -> Picture:
    """Values in descending order, such as the counts of codes; `exp(entropy)` says how many are in use."""
    counts = np.sort(np.nan_to_num(to_numpy(counts).astype(np.float64)))[::-1]
    if counts[-1] >= 0 and counts[0] > 0:
        share = counts[counts > 0] / counts.sum()
        effective = np.exp(-share @ np.log(share))
        title += f"\n{share.size} of {counts.size} above zero, exp(entropy) = {effective:.1f}"
    figure = blank(7.2, 4.0)
    axes = figure.add_subplot()
    axes.stairs(counts, np.arange(counts.size + 1), fill=True)
    axes.set(title=title.strip(), xlabel="rank", ylabel="value", xlim=(0, counts.size))
    return render(figure, path)


def histogram(values: Shaped[Array | np.ndarray, " k"], path: PathLike, title: str = "", bins: int = 40) -> Picture:
    """How many values lie where; the title says how many are not finite, such as the logarithm of what is zero."""
    values = to_numpy(values).astype(np.float64)
    finite = values[np.isfinite(values)]
    figure = blank(7.2, 4.0)
    axes = figure.add_subplot()
    if finite.size:
        axes.hist(finite, bins)
    axes.set(title=f"{title}\n{finite.size} of {values.size} values are finite", xlabel=title, ylabel="count")
    return render(figure, path)


def waveforms(sounds: Shaped[Array | np.ndarray, "k n t"], path: PathLike, title: str = "") -> Picture:
    """A panel for each of n waveforms, of k curves: with two, the input in grey and its reconstruction over it."""
    sounds = to_numpy(sounds)
    k, n, _ = sounds.shape
    figure = blank(9.6, 0.9 * n + 0.5)
    limit = max(1e-3, float(np.nanmax(np.abs(sounds))))
    axes = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
    colours = ["0.6", "C0", "C1", "C2"] if k > 1 else ["C0"]
    for i, panel in enumerate(axes):
        for j in range(k):
            panel.plot(sounds[j, i], color=colours[j % len(colours)], linewidth=1.4 if j == 0 and k > 1 else 0.7)
        panel.set(ylim=(-1.05 * limit, 1.05 * limit), yticks=(), xlim=(0, sounds.shape[2] - 1))
    axes[-1].set_xlabel("sample")
    figure.suptitle(f"{title} (grey: given, blue: found)" if k == 2 else title)
    return render(figure, path)


def page(tokens: Int[Array | np.ndarray, "n t"], path: PathLike, title: str = "", words: Sequence[str] = ()) -> Picture:
    """A line of text for each row of tokens; 0 is padding, and numbers stand where there are no `words`."""
    rows = [" ".join(words[i] if i < len(words) else str(i) for i in row if i) for row in to_numpy(tokens)]
    figure = blank(max(4.0, 0.095 * max(map(len, rows)) + 0.4), 0.17 * len(rows) + 0.7, layout=None)
    figure.suptitle(title)
    figure.text(0.02, 1 - 0.5 / figure.get_figheight(), "\n".join(rows), family="monospace", size=10, va="top")
    return render(figure, path)


def to_numpy(array: Any) -> np.ndarray:
    """The array on the host, in a type that numpy knows."""
    array = np.asarray(array)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)  # bfloat16 is foreign to numpy


def palette(k: int) -> np.ndarray:
    """k <= 20 colours `[k 3]` that can be told apart."""
    import matplotlib

    return np.array(matplotlib.colormaps["tab10" if k <= 10 else "tab20"].colors)[:k]


def blank(width: float, height: float, layout: str | None = "constrained") -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    if layout:
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches
    return figure


def render(figure: Any, path: PathLike) -> np.ndarray:
    """Writes a figure as a PNG and returns the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    save_png(path, pixels)
    return pixels.astype(np.float32) / 255
