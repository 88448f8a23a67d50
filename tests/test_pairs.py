"""Images and semantic maps as files of one name: what is read, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from jaxae.data import DataError, load


def write(root, names, sizes=(8, 6), classes=5, image_ending="", map_ending="", seed=0):
    """Random pairs, w x h pixels; the image's red channel is 10 times its class. Returns the maps by name."""
    rng, maps = np.random.default_rng(seed), {}
    for name in names:
        maps[name] = rng.integers(0, classes, sizes[::-1]).astype(np.uint8)
        x = rng.integers(0, 256, (*sizes[::-1], 3)).astype(np.uint8)
        x[..., 0] = 10 * maps[name]
        for folder, array, file in (("images", x, f"{name}{image_ending}.png"), ("maps", maps[name],
                                                                                 f"{name}{map_ending}.png")):
            path = root / folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return maps


def source(root, **options):
    return load(dict(source=f"pairs:{root}", **options))


def test_maps_stay_with_their_images_through_the_split_and_with_what_cityscapes_appends(tmp_path):
    names = [f"town{i % 2}/place{i}" for i in range(10)]
    maps = write(tmp_path, names, image_ending="_leftImg8bit", map_ending="_gtFine_labelIds")
    dataset = source(tmp_path, classes=5, test_fraction=0.3)
    assert (len(dataset.train), len(dataset.test)) == (7, 3)
    seen = []
    for part in (dataset.train, dataset.test):
        arrays = part.arrays()
        assert arrays["x"].shape[1:] == (6, 8, 3) and arrays["semantic"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["x"][..., 0], 10 * arrays["semantic"])
        for file, semantic in zip(part.info["files"], arrays["semantic"], strict=True):
            name = file.split("images/")[1].removesuffix("_leftImg8bit.png")
            np.testing.assert_array_equal(semantic, maps[name])
            seen.append(name)
    assert sorted(seen) == sorted(names)


def test_a_map_is_cut_as_its_image_and_takes_the_nearest_class(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, ["a", "b"], sizes=(14, 6))
    large, small = (source(tmp_path, size=size).train.arrays() for size in (6, 3))
    np.testing.assert_array_equal(large["x"][..., 0], 10 * large["semantic"])  # the centre square, as it is
    blocks = large["semantic"].reshape(2, 3, 2, 3, 2)
    assert np.all((small["semantic"][:, :, None, :, None] == blocks).any((2, 4)))  # one of the four, not their mean
    assert large["semantic"].dtype == np.int32 and small["x"].shape == (2, 3, 3, 3)


def test_what_has_no_class_is_outside_of_all_and_palettes_and_16_bits_are_numbers(tmp_path):
    maps = write(tmp_path, ["a", "b"])
    maps["a"][0, :3], indexed = (0, 255, 4), Image.fromarray(maps["a"], "P")
    indexed.putpalette([7] * 768)
    indexed.save(tmp_path / "maps" / "a.png")
    wide = maps["b"].astype(np.uint16) + 300
    Image.fromarray(wide).save(tmp_path / "maps" / "b.png")

    def first(**options):
        both = source(tmp_path, test_fraction=0.5, seed=1, **options)
        return {f[-5]: part.arrays()["semantic"][0] for part in (both.train, both.test) for f in part.info["files"]}

    np.testing.assert_array_equal(first(classes=400)["b"], wide)
    np.testing.assert_array_equal(first(classes=400)["a"][0, :3], [0, -1, 4])
    assert first(ignore=0)["a"][0, 0] == -1 and first(ignore=0)["a"][0, 1] == 255
    with pytest.raises(DataError, match=r"b.png has the number 30\d, which is neither a class in \[0, 5\)"):
        first(classes=5)
    Image.fromarray(maps["b"]).save(tmp_path / "maps" / "b.png")
    np.testing.assert_array_equal(first(classes=5)["a"][0, :3], [0, 255, 4])


def damage_size(root):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(root / "maps" / "a.png")


def damage_colour(root):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "maps" / "a.png")


@pytest.mark.parametrize("change, message", [
    (damage_size, r"a.png is 8 x 6 but its map .*a.png is 9 x 6"), (damage_colour, "a.png has colours"),
    (lambda root: (root / "maps" / "a.png").write_bytes(b"PNG"), "cannot be decoded"),
    (lambda root: (root / "maps" / "a.png").unlink(), "1 of 2 files in .*images have no map, the first is .*a.png"),
    (lambda root: (root / "images" / "b.png").unlink(), "1 of 2 files in .*maps have no image, the first is .*b.png"),
    (lambda root: (root / "images").rename(root / "pictures"), "reads PATH/images and, under the same names"),
    (lambda root: (root / "maps" / "a_gtFine_labelIds.png").write_bytes(b""), "have one name")])
def test_what_is_no_pair_says_which_file_and_why(tmp_path, change, message):
    write(tmp_path, ["a", "b"])
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        data = source(tmp_path, test_fraction=0.5)
        data.train.arrays(), data.test.arrays()
