"""The contract of `jaxae.data`: sources, checks, order, streams, transforms, options."""

import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from jaxae import data
from jaxae.data import (
    ArraySource,
    DataError,
    LazySource,
    batch_indices,
    from_arrays,
    load,
    stream,
    transforms,
)
from jaxae.data.checks import as_label, as_x

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 6, 5, 1), dtype=np.uint8)


def _lazy(arrays):
    spec = {k: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for k, a in arrays.items()}
    return LazySource(lambda ids: {k: a[ids] for k, a in arrays.items()}, len(arrays["x"]), spec)


@pytest.fixture(params=[ArraySource, _lazy], ids=["memory", "lazy"])
def source(request):
    return request.param({"x": IMAGES, "label": np.arange(300, dtype=np.int32) % 7})


# Sources

@pytest.mark.parametrize("i", [3, -1, np.int64(5), slice(2, 290, 3), np.array([4, 4, -300]),
                               [[1, 2], [3, 299]], np.zeros(0, int)], ids=str)
def test_every_kind_of_index_reads_what_numpy_would(source, i):
    item = source[i]
    ids = np.arange(300)[np.asarray(i) if isinstance(i, list) else i]
    np.testing.assert_array_equal(item["index"], ids)
    np.testing.assert_array_equal(item["x"], IMAGES[ids])
    np.testing.assert_array_equal(item["label"], ids % 7)
    assert item["index"].dtype == np.int32 and all(isinstance(a, np.ndarray) for a in item.values())


def test_spec_and_nbytes_are_those_of_the_materialised_split(source):
    arrays = source.arrays()
    assert {k: (a.shape[1:], a.dtype) for k, a in arrays.items()} == {
        k: (s.shape, s.dtype) for k, s in source.spec.items()}
    assert source.nbytes == sum(a.nbytes for a in arrays.values()) == 300 * (30 + 4 + 4)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, source[:][name])


def test_take_keeps_the_first_examples_and_their_positions(source):
    part = source.take(270)
    assert len(part) == 270 and len(source) == 300
    np.testing.assert_array_equal(part.arrays()["x"], IMAGES[:270])
    with pytest.raises(IndexError):
        part[270]


def test_bad_indices_are_refused_and_iteration_ends(source):
    for i in (300, -301, np.array([0, 300])):
        with pytest.raises(IndexError, match="300 examples"):
            source[i]
    with pytest.raises(TypeError, match="integers"):
        source[1.0]
    assert [int(e["index"]) for e in source.take(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("arrays, message", [
    ({"y": np.zeros(3)}, "needs the array 'x'"),
    ({"x": np.zeros(3), "index": np.arange(3)}, "'index' is the example's position"),
    ({"x": np.zeros((3, 2)), "label": np.zeros(4, int)}, "one row per example; their lengths"),
    ({"x": np.zeros((3, 2)), "scale": np.float32(1)}, "one row per example"),
])
def test_array_source_names_the_array_at_fault(arrays, message):
    with pytest.raises(DataError, match=message):
        ArraySource(arrays)


# Checks

@pytest.mark.parametrize("x, shape, dtype", [
    (np.zeros((4, 5, 5, 3), np.uint8), (4, 5, 5, 3), np.uint8),
    (np.zeros((4, 5, 5), np.uint8), (4, 5, 5, 1), np.uint8),
    (np.zeros((4, 5, 5), np.float32), (4, 5, 5, 1), np.float32),
    (np.zeros((4, 5, 5, 1), np.float16), (4, 5, 5, 1), np.float16),
    (np.zeros((4, 2, 5, 5, 3), np.uint8), (4, 2, 5, 5, 3), np.uint8),
    (np.zeros((4, 9)), (4, 9), np.float32),
    (np.zeros((4, 9), np.uint8), (4, 9), np.uint8),
    (np.zeros((4, 9), np.int64), (4, 9), np.int32),
    (np.zeros((4, 3, 3), np.uint16), (4, 3, 3), np.int32),
    (jnp.zeros((4, 9), jnp.bfloat16), (4, 9), jnp.bfloat16),
    ([[0.0, 1.0]], (1, 2), np.float32),
], ids=lambda v: str(getattr(v, "shape", v)))
def test_x_is_stored_by_the_table(x, shape, dtype):
    kept = as_x(x)
    assert kept.shape == shape and kept.dtype == dtype


def test_bool_images_become_black_and_white():
    kept = as_x(np.eye(3, dtype=bool)[None])
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept[0, ..., 0], 255 * np.eye(3))


def _with(a, where, value):
    a = np.array(a)
    a[where] = value
    return a


UNIT = RNG.random((10, 4, 4, 1))


@pytest.mark.parametrize("x, message", [
    ([[1.0], [1.0, 2.0]], "ragged"),
    (np.array([[None, 1]], object), "object array is often ragged"),
    (np.zeros((4, 3), complex), "dtype complex128.*stack real and imaginary"),
    (np.array([["a"]]), "dtype <U1"),
    (np.zeros((4, 3), np.int8), "dtype int8"),
    (np.zeros(4), r"shape \[4\].*x\[:, None\]"),
    (np.zeros((2, 3, 4, 5, 6, 1)), r"shape \[2, 3, 4, 5, 6, 1\]: x must be an image"),
    (np.zeros((4, 5, 5, 3), np.int32), r"astype\('uint8'\)"),
    (np.full((4, 2), 2**40), "tokens up to 1099511627776"),
    (np.zeros((0, 5)), "train split is empty"),
    (_with(UNIT, 3, np.nan), r"NaN or infinity in 1 of \d+ examples, the first at index"),
    (_with(np.zeros((9, 2)), (slice(None), 1), -np.inf), "infinity in 8 of 8 examples, the first at index 0"),
    (UNIT * 255, "divide by 255"),
    (UNIT[:, None] * 255, "divide by 255"),
    (UNIT * 2 - 1, r"must lie in \[0, 1\], these lie in \[-0.9.*scale them"),
    (np.ones((4, 5, 5), np.uint8), r"x.astype\(bool\)"),
    (np.full((4, 5), -1), "token -1: tokens are numbered from 0"),
])
def test_unusable_x_gets_one_clear_error(x, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x)


def test_the_first_bad_example_is_named_by_its_index_in_the_split():
    good = np.zeros((6, 3), np.float32)
    with pytest.raises(DataError, match="train x has NaN or infinity in 2 of 6.*, the first at index 2"):
        from_arrays(_with(good, ([2, 5], [0, 1]), np.nan), test_x=good)
    with pytest.raises(DataError, match="test x has NaN or infinity in 1 of 6.*, the first at index 4"):
        from_arrays(good, test_x=_with(good, (4, 2), np.inf))
    with pytest.raises(DataError, match="train weight has NaN"):
        from_arrays(good, test_x=good, extra={"weight": good[:, 0] * np.nan},
                    test_extra={"weight": good[:, 0]})


@pytest.mark.parametrize("label, message", [
    (np.zeros(5, int), r"shape \[5\] but there are 10 examples"),
    (np.zeros(10), "dtype float64.*return_inverse"),
    (np.array(list("abcdefghij")), "return_inverse"),
    (np.eye(10, dtype=int), "argmax"),
    (np.int64(3), r"must be \[10\]"),
])
def test_unusable_labels_get_one_clear_error(label, message):
    with pytest.raises(DataError, match=message):
        from_arrays(UNIT, label)


def test_labels_of_one_column_or_bool_are_taken():
    np.testing.assert_array_equal(as_label(np.arange(4)[:, None], 4), np.arange(4))
    assert as_label(np.array([True, False]), 2).dtype == np.uint8


@pytest.mark.parametrize("arguments, message", [
    (dict(test_x=np.zeros((0, 4, 4, 1))), "test split is empty: bring test data"),
    (dict(test_fraction=0.0), "test split is empty.*test_fraction above 0"),
    (dict(test_x=np.zeros((3, 5, 4, 1))), "train and test examples differ"),
    (dict(label=np.arange(10), test_x=UNIT), "train and test examples differ"),
    (dict(test_label=np.arange(10)), "without test_x"),
    (dict(test_fraction=1.5), "test_fraction must be"),
    (dict(num_train=50), "num_train=50 but the split has 9"),
    (dict(num_test=-1), "num_test=-1"),
    (dict(augment=("spin",)), r"augment takes names from \('flip', 'shift', 'crop'\)"),
    (dict(binarize="yes"), "binarize is one of"),
    (dict(extra={"mask": np.zeros((4, 2))}), "one row of numbers for each of the 10"),
    (dict(extra={"name": np.array(["a"] * 10)}), "rows? of numbers"),
    (dict(extra={"index": np.arange(10)}), "'index' is the example's position"),
    (dict(extra={"x": np.arange(10)}), "repeats 'x'"),
])
def test_unusable_arguments_get_one_clear_error(arguments, message):
    with pytest.raises(DataError, match=message):
        from_arrays(UNIT, **arguments)


@pytest.mark.parametrize("x, options, message", [
    (np.zeros((9, 4)), {"augment": "flip"}, "needs images"),
    (np.zeros((9, 4), int), {"binarize": "dynamic"}, r"needs values in \[0, 1\]"),
    (np.full((9, 4), 3.0), {"binarize": "static"}, r"needs values in \[0, 1\]"),
])
def test_transforms_that_do_not_fit_the_data_are_refused_at_once(x, options, message):
    with pytest.raises(DataError, match=message):
        from_arrays(x, **options)


def test_one_class_only_is_allowed_with_a_warning():
    with pytest.warns(UserWarning, match="all training labels are 3"):
        from_arrays(UNIT, np.full(10, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_arrays(UNIT, np.arange(10) % 2)


def test_check_holds_a_hand_made_source_to_its_spec():
    good = ArraySource({"x": IMAGES})
    spec = {"x": jax.ShapeDtypeStruct((9, 9, 1), np.uint8)}
    wrong = LazySource(lambda ids: {"x": IMAGES[ids]}, 300, spec)
    dataset = from_arrays(IMAGES)._replace(train=wrong, test=good)
    with pytest.raises(DataError, match="correct the source's spec"):
        data.check(dataset)
    with pytest.raises(DataError, match="build the source with jaxae.data.from_arrays"):
        data.check(dataset._replace(train=ArraySource({"x": np.zeros((5, 3), np.int64)})))


def test_from_arrays_splits_without_loss_and_keeps_rows_together():
    x = np.arange(200.0)[:, None] * [[1, 2]]
    extra = {"factors": np.arange(200)[:, None]}
    dataset = from_arrays(x, np.arange(200), extra=extra, test_fraction=0.25, seed=3)
    train, test = dataset.train.arrays(), dataset.test.arrays()
    assert (len(dataset.train), len(dataset.test)) == (150, 50)
    np.testing.assert_array_equal(np.sort(np.r_[train["label"], test["label"]]), np.arange(200))
    for part in (train, test):
        np.testing.assert_array_equal(part["x"][:, 1], 2 * part["label"])
        np.testing.assert_array_equal(part["factors"][:, 0], part["label"])
    assert not np.array_equal(np.sort(test["label"]), test["label"])
    again = from_arrays(x, np.arange(200), test_fraction=0.25, seed=3)
    np.testing.assert_array_equal(again.test.arrays()["label"], test["label"])


# Order

@pytest.mark.parametrize("n, batch_size", [(10, 3), (12, 4), (7, 7), (5, 1)])
def test_an_epoch_visits_each_example_at_most_once_and_epochs_differ(n, batch_size):
    per_epoch = n // batch_size
    order = batch_indices(n, batch_size, 1, 0, 40 * per_epoch).reshape(40, -1)
    assert order.dtype == np.int32
    assert all(len(set(epoch)) == per_epoch * batch_size for epoch in order)
    assert len({tuple(epoch) for epoch in order}) > 30
    assert set(order.ravel()) == set(range(n)), "the dropped remainder must not always be the same examples"


def test_any_step_can_be_asked_for_without_those_before():
    whole = batch_indices(23, 4, 5, 0, 60)
    for start, stop in [(0, 1), (59, 60), (4, 6), (5, 5), (7, 33)]:
        np.testing.assert_array_equal(batch_indices(23, 4, 5, start, stop), whole[start:stop])
    assert not np.array_equal(whole, batch_indices(23, 4, 6, 0, 60))


def test_first_places_are_uniform_over_examples():
    first = batch_indices(5, 5, 0, 0, 4000)[:, 0]
    counts = np.bincount(first, minlength=5)
    assert np.sum((counts - 800) ** 2 / 800) < 18.5      # chi-square, 4 degrees of freedom, p = 0.001


@pytest.mark.parametrize("arguments, message", [
    ((5, 6, 0, 0, 1), "5 training examples do not fill one batch of 6: lower batch_size to 5 or less"),
    ((5, 0, 0, 0, 1), "batch_size must be at least 1"),
    ((5, 2, -1, 0, 1), "seed >= 0"),
    ((5, 2, 0, 3, 1), "0 <= start <= stop"),
])
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        batch_indices(*arguments)


# Streams

def test_a_stream_follows_the_order_of_data_on_the_device(source):
    batches = stream(source, 32, seed=4)
    for ids in batch_indices(300, 32, 4, 0, 20):
        batch = next(batches)
        np.testing.assert_array_equal(batch["index"], ids)
        np.testing.assert_array_equal(batch["x"], IMAGES[ids])


@pytest.mark.parametrize("count", [2, 4])
def test_slices_of_all_processes_concatenate_to_the_global_batch(source, count):
    whole = stream(source, 32, seed=4)
    parts = [stream(source, 32, seed=4, process_index=p, process_count=count) for p in range(count)]
    for _ in range(12):
        batch, pieces = next(whole), [next(p) for p in parts]
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in pieces]), array)


def test_a_stream_resumes_exactly_from_its_state_or_its_step(source):
    batches = stream(source, 16, seed=1, prefetch=5)
    for _ in range(21):                                   # into the second epoch, with batches read ahead
        next(batches)
    state = batches.get_state()
    expected = [next(batches)["index"] for _ in range(25)]
    fresh = stream(source, 16, seed=1, prefetch=2, threads=1)
    next(fresh)
    fresh.set_state(state)
    stepped = stream(source, 16, seed=1, start_step=21)
    assert stepped.get_state() == state
    for ids in expected:
        np.testing.assert_array_equal(next(fresh)["index"], ids)
        np.testing.assert_array_equal(next(stepped)["index"], ids)
    batches.set_state(state)                              # and back in time
    np.testing.assert_array_equal(next(batches)["index"], expected[0])


def test_streams_that_cannot_be_shared_or_filled_are_refused(source):
    with pytest.raises(DataError, match="must divide evenly over process_count=3"):
        stream(source, 32, process_count=3)
    with pytest.raises(DataError, match="process_index=2"):
        stream(source, 32, process_index=2, process_count=2)
    with pytest.raises(DataError, match="300 training examples do not fill one batch of 512"):
        stream(source, 512)


# Transforms

def test_to_unit_maps_0_255_to_0_1_and_leaves_tokens():
    out = jax.jit(transforms.to_unit)(jnp.arange(256, dtype=jnp.uint8))
    np.testing.assert_allclose(out, np.arange(256) / 255, rtol=2e-7)
    assert out[0] == 0 and out[255] == 1
    assert jax.jit(transforms.to_unit)(jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.float32
    assert jax.jit(transforms.to_unit)(jnp.array([[7]], jnp.int32)).dtype == jnp.int32


def test_flip_mirrors_about_half_of_the_images_and_nothing_else():
    x = RNG.random((400, 3, 4, 2), dtype=np.float32)
    y = np.asarray(jax.jit(transforms.flip)(x, KEY))
    flipped = (y == x[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(y[~flipped], x[~flipped])
    assert 150 < flipped.sum() < 250                      # 5 standard deviations


def test_shift_moves_by_every_offset_within_the_limit_and_fills_with_zeros():
    x = RNG.random((600, 6, 7, 1), dtype=np.float32) + 0.1
    y = np.asarray(jax.jit(lambda x: transforms.random_shift(x, KEY, limit=2))(x))
    seen = np.zeros((600,), int)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for i in range(5):
        for j in range(5):
            seen += 25 * (hit := (padded[:, i:i + 6, j:j + 7] == y).all((1, 2, 3)))
            assert hit.any(), (i, j)
    np.testing.assert_array_equal(seen, 25)


def test_crop_keeps_the_promised_area_and_ratio_and_stays_inside():
    ramp = np.arange(32, dtype=np.float32) / 31
    x = np.broadcast_to(np.stack(np.meshgrid(ramp, ramp, indexing="ij"), -1), (300, 32, 32, 2))
    y = np.asarray(jax.jit(transforms.random_crop)(x, KEY))
    # A crop of a ramp is a ramp, whose slope is the crop's side as a share of the image's.
    side_h, side_w = np.diff(y[:, 3:-3, 16, 0]).mean(1) * 31, np.diff(y[:, 16, 3:-3, 1]).mean(1) * 31
    assert np.all(np.diff(y[:, 3:-3, 16, 0]).std(1) < 1e-5)
    area, ratio = side_h * side_w, side_w / side_h
    assert area.min() > 0.499 and area.max() < 1.001 and ratio.min() > 0.749 and ratio.max() < 1.334
    assert area.min() < 0.53 and area.max() > 0.95 and ratio.min() < 0.78 and ratio.max() > 1.28
    assert y.min() >= 0 and y.max() <= 1
    corners = y[:, 16, 16] - np.stack([side_h, side_w], 1) / 2
    assert corners.min() > -0.05 and corners.max() < 0.5 and corners.std(0).min() > 0.03
    constant = jax.jit(transforms.random_crop)(np.full((50, 16, 12, 3), 0.7, np.float32), KEY)
    np.testing.assert_allclose(constant, 0.7, rtol=1e-5)


def test_dynamic_binarisation_has_the_mean_of_the_image_and_is_fresh_for_each_key():
    x = jnp.linspace(0, 1, 20).reshape(1, 4, 5, 1)
    draws = jax.jit(jax.vmap(lambda k: transforms.binarize(x, k)))(jax.random.split(KEY, 4000))
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), x, atol=5 * 0.5 / 4000**0.5)
    assert not np.array_equal(draws[0], draws[1])


def test_static_binarisation_depends_on_the_example_alone():
    dataset = from_arrays(np.full((1000, 5, 5), 0.3), binarize="static", test_fraction=0.5)
    transform, test_transform = jax.jit(dataset.transform), jax.jit(dataset.test_transform)
    whole = np.asarray(transform(dataset.train[:], KEY)["x"])
    ids = np.array([400, 3, 77])
    np.testing.assert_array_equal(transform(dataset.train[ids], jax.random.key(9))["x"], whole[ids])
    assert len(np.unique(whole, axis=0)) > 450
    assert abs(whole.mean() - 0.3) < 5 * (0.21 / whole.size) ** 0.5
    assert not np.array_equal(test_transform(dataset.test[:], KEY)["x"], whole), "shared noise"
    other = from_arrays(np.full((1000, 5, 5), 0.3), binarize="static", test_fraction=0.5, seed=1)
    assert not np.array_equal(jax.jit(other.transform)(other.train[:], KEY)["x"], whole)


@pytest.mark.parametrize("options", [
    {"augment": "crop"}, {"binarize": "static"}, {"augment": "shift,flip", "binarize": "dynamic"}], ids=str)
def test_eight_replicas_see_what_one_device_sees(options):
    dataset = from_arrays(IMAGES, np.arange(300) % 7, **options)
    batch = dataset.train[:64]
    one = jax.jit(dataset.transform)(batch, KEY)
    split = {k: a.reshape(8, 8, *a.shape[1:]) for k, a in batch.items()}
    many = jax.jit(jax.vmap(lambda b: dataset.transform(b, KEY, "batch"), axis_name="batch"))(split)
    for name, array in one.items():
        np.testing.assert_allclose(many[name].reshape(array.shape), array, atol=1e-6)
    assert len(np.unique(np.asarray(one["x"]) - np.asarray(batch["x"]) / 255)) > 2


def test_test_transform_does_not_augment_and_only_dynamic_binarisation_reads_its_key():
    dataset = from_arrays(IMAGES, augment=("flip", "shift", "crop"))
    plain = jax.jit(dataset.test_transform)(dataset.test[:], KEY)["x"]
    np.testing.assert_allclose(plain, dataset.test[:]["x"] / 255, rtol=2e-7)
    dataset = from_arrays(IMAGES, binarize="dynamic")
    first, again, other = (jax.jit(dataset.test_transform)(dataset.test[:], jax.random.key(k))["x"]
                           for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_transform_passes_what_else_is_there_and_widens_small_labels():
    extra = {"factors": np.zeros((300, 2), np.uint8), "mask": np.ones((300, 4), bool)}
    dataset = from_arrays(IMAGES, (np.arange(300) % 200).astype(np.uint8), extra=extra)
    batch = dataset.train[:6]
    out = jax.jit(dataset.transform)(batch, KEY)
    assert {k: v.dtype.name for k, v in out.items()} == {
        "x": "float32", "label": "int32", "factors": "int32", "mask": "bool", "index": "int32"}
    for name in ("label", "factors", "mask", "index"):
        np.testing.assert_array_equal(out[name], batch[name])


def test_bfloat16_is_stored_compactly_and_widened_on_the_device():
    x = np.asarray(jnp.asarray(UNIT, jnp.bfloat16))
    dataset = from_arrays(x, binarize="static")
    assert dataset.train.nbytes == 9 * (16 * 2 + 4)
    assert jax.eval_shape(dataset.transform, dataset.train[:2], KEY)["x"].dtype == np.float32
    with pytest.raises(DataError, match="divide by 255"):
        from_arrays(x * 255)
    with pytest.raises(DataError, match="NaN or infinity"):
        from_arrays(x * np.nan)


def test_tokens_and_vectors_go_through_untouched():
    for x in (np.arange(60).reshape(20, 3), RNG.standard_normal((20, 3)).astype(np.float32)):
        dataset = from_arrays(x)
        out = jax.jit(dataset.transform)(dataset.train[:], KEY)["x"]
        np.testing.assert_array_equal(out, dataset.train[:]["x"])


def test_levels_are_the_nearest_of_an_even_grid():
    x = np.random.default_rng(0).random((8, 3, 3, 1), np.float32)
    dataset = from_arrays(x, levels=4, test_fraction=0.5)
    for transform, source in ((dataset.transform, dataset.train), (dataset.test_transform, dataset.test)):
        rows = source[:4]
        out = np.asarray(jax.jit(transform)(rows, KEY)["x"])
        nearest = np.abs(rows["x"][..., None] - np.arange(4) / 3).argmin(-1)
        np.testing.assert_allclose(out, nearest / 3, atol=1e-6)
        np.testing.assert_array_equal(jax.jit(transforms.to_levels, static_argnums=1)(out, 4), nearest)
        assert len(np.unique(nearest)) == 4


def test_a_wrong_batch_is_refused_when_traced():
    transform = transforms.make(augment=("flip",))
    with pytest.raises(DataError, match="needs images"):
        jax.eval_shape(transform, {"x": jnp.zeros((3, 4))}, KEY)
    with pytest.raises(DataError, match="not int32"):
        jax.eval_shape(transforms.make(binarize="dynamic"), {"x": jnp.zeros((3, 4), jnp.int32)}, KEY)


# Options

def test_load_reads_mappings_and_config_dicts_alike():
    config = ml_collections.ConfigDict({**data.DEFAULTS, "num_train": 50, "augment": ["shift"]})
    config.size = ml_collections.config_dict.placeholder(int)
    a, b = load(config), load({"num_train": 50, "augment": "shift"})
    assert a.name == "digits" and len(a.train) == 50
    batch = a.train[:8]
    np.testing.assert_array_equal(batch["x"], b.train[:8]["x"])
    np.testing.assert_array_equal(*(jax.jit(d.transform)(batch, KEY)["x"] for d in (a, b)))
    assert len(load().train) == 4000


@pytest.mark.parametrize("config, message", [
    ({"source": "digit"}, "unknown data source 'digit', did you mean 'digits'"),
    ({"source": "imagenet"}, "use one of digits, .*tfds:NAME, npz:PATH or folder:PATH"),
    ({"source": "tfds:"}, "unknown data source"),
    ({"binarise": "static"}, "unknown data option 'binarise', did you mean 'binarize'"),
    ({"quux": 1}, "unknown data option 'quux'; the options are source, binarize"),
    ({"source": "gaussians", "size": 28}, "'gaussians' has no option 'size': leave it at 0; .*components"),
    ({"num_train": 4001}, "num_train=4001 but the split has 4000 examples: use 0 for all"),
    ({"source": "gaussians", "binarize": "dynamic"}, r"needs values in \[0, 1\]"),
    ({"source": "gaussians", "levels": 8}, r"needs values in \[0, 1\]"),
    ({"levels": 1}, "is 0 or at least 2"), ({"levels": 8, "binarize": "dynamic"}, "set one of them"),
    ({"source": "gaussians", "augment": "flip"}, "needs images"),
    ({"size": -3}, "size is a number of pixels"),
])
def test_a_wrong_option_gets_one_clear_error(config, message):
    with pytest.raises(DataError, match=message):
        load(config)


def test_every_option_belongs_to_a_source_or_to_all():
    import inspect

    from jaxae.data import dataset
    builders = [*dataset.SOURCES.values(), *dataset._SCHEMES.values()]
    taken = {p for b in builders for p in inspect.signature(b).parameters} - {"path", "name"}
    assert taken | set(dataset._COMMON) == set(data.DEFAULTS)
