"""Pictures of a run, parsed back from their PNGs: every pixel where it belongs."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxae.train import plots
from jaxae.train.figures import heatmap, image_grid, side_by_side, write_figures
from jaxae.train.plots import bars, curves, save_png, scatter


def _read(path):
    return np.asarray(Image.open(path))


def _images(n, h, w, c, seed=0):
    return np.random.default_rng(seed).random((n, h, w, c)).astype(np.float32)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("scale", [1, 3])
def test_grid_places_every_pixel_and_nothing_else(c, scale):
    images = _images(5, 4, 6, c)
    grid = image_grid(images, 3, scale)
    assert grid.shape == (2 + 2 * (4 * scale + 2), 2 + 3 * (6 * scale + 2), c)
    want = np.full_like(grid, 0.6)
    for i in range(5):
        for y in range(4 * scale):
            for x in range(6 * scale):
                row, column = 2 + i // 3 * (4 * scale + 2) + y, 2 + i % 3 * (6 * scale + 2) + x
                want[row, column] = images[i, y // scale, x // scale]
    np.testing.assert_array_equal(grid, want)


def test_grid_clips_and_takes_bfloat16_bytes_and_device_arrays():
    images = np.array([-1.0, 0.5, 2.0, np.nan]).reshape(1, 2, 2, 1)
    want = np.array([[0, 0.5], [1, 0]])
    for array in (images, jnp.asarray(images, jnp.bfloat16), jnp.asarray(images)):
        np.testing.assert_array_equal(image_grid(array, 1, 1)[2:4, 2:4, 0], want)
    bytes_ = np.array([0, 51, 255, 102], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(image_grid(bytes_, 1, 1)[2:4, 2:4, 0], [[0, 0.2], [1, 0.4]], rtol=1e-6)


@pytest.mark.parametrize("n, size, columns", [(64, 28, 8), (1, 8, 1), (16, 256, 4), (100, 28, 10)])
def test_grids_are_comfortable_to_look_at(n, size, columns):
    height, width = image_grid(np.zeros((n, size, size, 1), np.float32), columns).shape[:2]
    assert 600 <= width <= 1100 and height <= 2600


def test_a_column_of_many_images_does_not_become_a_tower():
    assert image_grid(np.zeros((64, 28, 28, 1), np.float32), 1).shape[0] <= 2600


def test_grid_refuses_no_images_and_no_columns():
    with pytest.raises(ValueError, match="0 images"):
        image_grid(np.zeros((0, 4, 4, 1)), 3)
    with pytest.raises(ValueError, match="0 columns"):
        image_grid(np.zeros((2, 4, 4, 1)), 0)


def test_each_reconstruction_lies_under_its_input():
    inputs, outputs = _images(5, 4, 4, 1, 1), _images(5, 4, 4, 1, 2)
    picture = side_by_side(inputs, outputs, 3, 1)
    assert picture.shape == (2 + 2 * 12 + 6, 2 + 3 * 6, 1)  # 8 pixels between pairs
    for i in range(5):
        top, left = 2 + i // 3 * (12 + 6), 2 + i % 3 * 6
        np.testing.assert_array_equal(picture[top : top + 4, left : left + 4], inputs[i])
        np.testing.assert_array_equal(picture[top + 6 : top + 10, left : left + 4], outputs[i])


@pytest.mark.parametrize("channels, mode", [((), "L"), ((1,), "L"), ((3,), "RGB"), ((4,), "RGBA")])
def test_png_round_trip(tmp_path, channels, mode):
    shape = (3, 5, *channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    for array in (pixels.astype(np.uint8), pixels / 255, (pixels / 255).astype(np.float32)):
        save_png(tmp_path / "new" / "x.png", array)
        with Image.open(tmp_path / "new" / "x.png") as image:
            assert image.mode == mode and image.size == (5, 3)
            np.testing.assert_array_equal(np.asarray(image), pixels.reshape(np.asarray(image).shape))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.png"]


def test_png_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    save_png(tmp_path / "x.png", np.ones((2, 2)))

    def fail(self, file, format):
        open(file, "wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(tmp_path / "x.png", np.zeros((2, 2)))
    np.testing.assert_array_equal(_read(tmp_path / "x.png"), np.full((2, 2), 255))


def test_png_refuses_other_shapes(tmp_path):
    for shape in ((4,), (4, 4, 2), (1, 4, 4, 3)):
        with pytest.raises(ValueError, match="1, 3 or 4 channels"):
            save_png(tmp_path / "x.png", np.zeros(shape))


def _drawn(monkeypatch):
    """The matplotlib figures as they are drawn."""
    seen, render = [], plots.render
    monkeypatch.setattr(plots, "render", lambda figure, path: seen.append(figure) or render(figure, path))
    return seen


def test_curves_put_train_and_eval_on_one_panel_with_gaps_and_the_right_scale(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    rows = [{"step": s, "train/loss": 10.0 ** (3 - s / 100), "kl": 5.0 + s} for s in range(0, 400, 10)]
    rows += [{"step": s, "eval/loss": 2000.0} for s in (200, 0)]  # also out of order
    rows[3]["kl"] = float("nan")
    picture = curves(rows, tmp_path / "curves.png")
    loss, kl = seen[0].axes
    assert (loss.get_title(), kl.get_title()) == ("loss", "kl")
    assert (loss.get_yscale(), kl.get_yscale()) == ("log", "linear")
    train, evaluation = loss.lines
    assert [t.get_text() for t in loss.get_legend().get_texts()] == ["train", "eval"]
    np.testing.assert_allclose(train.get_ydata(), [10.0 ** (3 - s / 100) for s in range(0, 400, 10)])
    assert list(evaluation.get_xdata()) == [0, 200]
    assert np.flatnonzero(np.isnan(kl.lines[0].get_ydata())).tolist() == [3]
    np.testing.assert_array_equal(_read(tmp_path / "curves.png"), np.round(255 * picture))


@pytest.mark.parametrize("rows", [
    [], [{"step": 0}], [{"step": 0, "loss": 1.0}], [{"step": 0, "loss": float("nan")}],
    [{"step": 0, "loss": None, "note": "x"}, {"step": 5, "loss": 0.0}, {"step": 9, "loss": 1e30}],
    [{"step": s, f"m{s}": float("inf")} for s in range(11)],
])  # fmt: skip
def test_curves_survive_few_and_bad_values(tmp_path, rows):
    with np.errstate(all="raise"):
        picture = curves(rows, tmp_path / "curves.png")
    assert picture.ndim == 3 and _read(tmp_path / "curves.png").shape == picture.shape


def test_one_point_is_visible(tmp_path):
    picture = curves([{"step": 100, "loss": 1.0}], tmp_path / "a.png")
    blue = np.abs(picture - np.array([0x1F, 0x77, 0xB4]) / 255).max(-1) < 0.02
    assert blue.sum() > 4


def test_a_histogram_counts_what_is_finite_and_says_how_much_is_not(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    values = np.array([-2.0, -1.0, -1.0, 0.0, -np.inf, np.nan])
    write_figures(tmp_path, 3, {"log10_frequency_histogram": values, "nothing_histogram": values[4:]})
    axes = [figure.axes[0] for figure in seen]
    heights = np.array([bar.get_height() for bar in axes[0].patches])
    assert heights[heights > 0].tolist() == [1, 2, 1] and not axes[1].patches
    assert axes[0].get_title() == "log10 frequency\n4 of 6 values are finite"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log10_frequency_histogram_000003.png",
                                                          "nothing_histogram_000003.png"]


def test_nothing_touches_pyplot(tmp_path):
    code = (
        "import sys, numpy as np; from jaxae.train import figures as f, plots;"
        "assert not any(m.startswith('matplotlib') for m in sys.modules), 'matplotlib is not lazy';"
        "figures = dict(a=np.ones((4, 2)), b=np.ones(3), b_histogram=np.ones(3), c=np.ones((2, 3, 3), int));"
        f"f.write_figures({str(tmp_path)!r}, 0, figures);"
        f"plots.curves([dict(step=1, a=2.0)], {str(tmp_path / 'c.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scatter_colours_each_point_by_its_label_and_lists_the_labels(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0], [np.nan, 0.0]])
    scatter(points, np.array([7, 3, 7, 3]), tmp_path / "a.png")
    dots = seen[0].axes[0].collections[0]
    colours = {tuple(p): tuple(c[:3]) for p, c in zip(dots.get_offsets(), dots.get_facecolors(), strict=True)}
    assert len(colours) == 3 and colours[0, 0] == colours[3, 1] != colours[1, 2]
    legend = seen[0].legends[0]
    assert [t.get_text() for t in legend.get_texts()] == ["3", "7"]
    assert tuple(legend.legend_handles[1].get_facecolor()[0][:3]) == colours[0, 0]


def test_scatter_without_labels_with_many_and_with_real_ones(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    points = np.random.default_rng(0).normal(size=(100, 2))
    for labels in (None, np.arange(100), np.linspace(0, 1, 100)):
        scatter(points, labels, tmp_path / "a.png")
    assert [len(figure.legends) for figure in seen] == [0, 0, 0]
    assert [len(figure.axes) for figure in seen] == [1, 2, 2]  # the second is the colour bar
    with pytest.raises(ValueError, match="100 points"):
        scatter(points, np.arange(99), tmp_path / "a.png")


@pytest.mark.parametrize("high", [1, 3, 12, 500])
def test_code_map_has_each_code_in_its_own_colour_at_its_place(tmp_path, high):
    codes = np.arange(4 * 5 * 7).reshape(4, 5, 7) % high
    heatmap(codes, tmp_path / "a.png")
    pixels = _read(tmp_path / "a.png").astype(int)
    scale = 43  # two maps of 7 columns reach 600 pixels
    origin = pixels.shape[0] - 5 - (2 + 2 * (5 * scale + 2)), 10  # 5 pixels below, 10 to the left
    colours = {}
    for i, y, x in np.ndindex(4, 5, 7):
        top = origin[0] + 2 + i // 2 * (5 * scale + 2) + y * scale
        left = origin[1] + 2 + i % 2 * (7 * scale + 2) + x * scale
        block = pixels[top : top + scale, left : left + scale]
        assert (block == block[0, 0]).all()
        colours.setdefault(codes[i, y, x], set()).add(tuple(block[0, 0]))
    assert all(len(c) == 1 for c in colours.values())
    if high <= 20:
        assert len(set.union(*colours.values())) == high


def test_bars_descend_and_count_what_is_used(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    bars(jnp.array([2, 0, 4, 2, 0]), tmp_path / "a.png", "usage")
    axes = seen[0].axes[0]
    np.testing.assert_array_equal(axes.patches[0].get_data().values, [4, 2, 2, 0, 0])
    # Entropy of (1/2, 1/4, 1/4) is 1.5 log 2.
    assert axes.get_title() == f"usage\n3 of 5 above zero, exp(entropy) = {2**1.5:.1f}"
    for counts in (np.zeros(3), np.array([-1.0, 2.0]), np.array([np.nan, 1.0])):
        bars(counts, tmp_path / "a.png")


def test_every_kind_of_figure_goes_by_its_shape(tmp_path, monkeypatch):
    seen = _drawn(monkeypatch)
    grey, colour = _images(6, 8, 8, 1), _images(4, 8, 8, 3)
    pairs = jnp.asarray(np.stack([grey, 1 - grey]))
    paths, pictures = write_figures(tmp_path / "figures", 500, {
        "samples": jnp.asarray(grey), "eval/colour": colour, "reconstructions": pairs,
        "masks": grey[..., 0] > 0.5, "traversal": np.stack([grey] * 5),
        "codes": jnp.arange(24).reshape(2, 3, 4), "latents": jnp.ones((5, 2)),
        "latents_labels": jnp.arange(5), "usage": jnp.arange(9), "videos": np.stack([[grey] * 3, [1 - grey] * 3]),
    })  # fmt: skip
    assert [p.name for p in paths] == [
        "samples_000500.png", "eval_colour_000500.png", "reconstructions_000500.png", "masks_000500.png",
        "traversal_000500.png", "codes_000500.png", "latents_000500.png", "usage_000500.png",
        "videos_000500.png",
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(p.name for p in paths)
    assert list(pictures)[1] == "eval/colour" and "latents_labels" not in pictures
    np.testing.assert_array_equal(pictures["samples"], image_grid(grey, 3))
    np.testing.assert_array_equal(pictures["eval/colour"], image_grid(colour, 2))
    np.testing.assert_array_equal(pictures["reconstructions"], side_by_side(grey, 1 - grey, 8))
    np.testing.assert_array_equal(pictures["masks"], image_grid(grey > 0.5, 3))
    height = pictures["videos"].shape[0]  # two blocks of three rows of six frames
    block = image_grid(np.concatenate([grey] * 3), 6, 13)
    np.testing.assert_array_equal(pictures["videos"][:len(block)], block)
    other = image_grid(np.concatenate([1 - grey] * 3), 6, 13)
    np.testing.assert_array_equal(pictures["videos"][height - len(other):], other)
    for path, picture in zip(paths, pictures.values(), strict=True):
        want = np.round(255 * picture.astype(np.float64))
        np.testing.assert_array_equal(_read(path), want[..., 0] if want.shape[-1] == 1 else want)
    maps, latents, usage = seen
    assert len(maps.axes) == 2 and len(latents.legends[0].get_texts()) == 5 and usage.axes[0].patches


@pytest.mark.parametrize("array", [
    np.ones(()), np.ones((4, 5)), np.ones((2, 4, 4, 2)), np.ones((2, 4, 4, 3), int), np.ones((0, 4, 4, 1)),
    np.ones((1, 1, 1, 2, 4, 4, 3)), np.zeros(0), np.zeros((0, 2)),
])  # fmt: skip
def test_other_shapes_are_refused_by_name(tmp_path, array):
    with pytest.raises(ValueError, match="figure 'odd' has shape"):
        write_figures(tmp_path, 0, {"odd": array})
    assert not list(tmp_path.iterdir())
