"""Activation stores: what is read is what was written, interruptions cost one shard, and faults are named."""

import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxae.data import DataError, harvest, load, stream
from jaxae.data.activations import activations, verify
from jaxae.data.order import batch_indices

D = 6
HOST = jax.jit(lambda tokens: jnp.sin(tokens[..., None] * jnp.arange(1.0, D + 1)).reshape(-1, D) + 0.5)


def _batches(sizes=(4, 7, 1, 5, 9, 3)):
    """Texts of three tokens: 3 rows for every text."""
    ends = np.cumsum((0, *sizes))
    return [np.arange(3 * a, 3 * b, dtype=np.float32).reshape(-1, 3) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _truth():
    return np.concatenate([np.asarray(HOST(b)) for b in _batches()])   # [87 6]


def _content(path):
    return {f.name: f.read_bytes() for f in sorted(path.iterdir())}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_read_is_what_was_written_rounded_once(tmp_path, dtype):
    index = harvest(HOST, _batches(), tmp_path, dtype, shard_rows=20)
    stored = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    truth = _truth().astype(stored).astype(np.float32)
    assert [s["rows"] for s in index["shards"]] == [20, 20, 20, 20, 7] and index["rows"] == verify(tmp_path) == 87
    train, test = activations(str(tmp_path), test_fraction=0.2)
    assert (len(train), len(test)) == (70, 17)
    np.testing.assert_array_equal(np.concatenate([train[:]["x"], test[:]["x"]]), truth)
    np.testing.assert_array_equal(test.arrays()["x"], truth[70:])
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_array_equal(train[order]["x"], truth[order])
    assert train.spec["x"].dtype == np.float32 and train[3]["x"].shape == (D,)
    wide = truth.astype(np.float64)
    np.testing.assert_allclose(train.info["mean"], wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(train.info["mean_squared_norm"], (wide**2).sum(1).mean(), rtol=1e-12)


def test_load_and_stream_read_a_store_in_the_loaders_order(tmp_path):
    harvest(HOST, _batches(), tmp_path, "float32", shard_rows=10)
    data = load({"source": f"activations:{tmp_path}", "num_train": 60})
    assert len(data.train) == 60 and len(data.test) == 9
    batches = stream(data.train, 16, seed=5)
    for ids in batch_indices(60, 16, 5, 0, 5):
        np.testing.assert_array_equal(next(batches)["x"], _truth()[ids])
    again = pickle.loads(pickle.dumps(data.train))
    np.testing.assert_array_equal(again[np.array([59, 0])]["x"], _truth()[[59, 0]])


def test_further_arrays_stand_beside_x(tmp_path):
    def host(tokens):
        x = np.asarray(HOST(tokens))
        return {"x": x, "y": 2 * x[:, :4], "gradient": -x, "layer": np.arange(len(x), dtype=np.int8) % 3}

    index = harvest(host, _batches(), tmp_path, "float32", shard_rows=20)
    source, _ = activations(str(tmp_path), "mean_norm", test_fraction=0.0)
    batch, truth = source[:], _truth()
    np.testing.assert_array_equal(batch["gradient"], -truth)
    np.testing.assert_array_equal(batch["layer"], np.concatenate([np.arange(3 * len(b)) % 3 for b in _batches()]))
    assert batch["layer"].dtype == np.int8 and "mean" not in index["arrays"]["layer"]
    for name, d in (("x", 6), ("y", 4)):    # each by its own factor
        np.testing.assert_allclose((batch[name].astype(np.float64) ** 2).sum(1).mean(), d, rtol=1e-5)
    np.testing.assert_allclose(batch["y"], 2 * truth[:, :4] * source.info["scale"]["y"], rtol=1e-6)


def test_normalised_examples_have_mean_zero_and_norm_one(tmp_path):
    harvest(HOST, _batches(), tmp_path, "float32", shard_rows=20)
    x = activations(str(tmp_path), "example", test_fraction=0.0)[0][:]["x"]
    truth = (_truth() - _truth().mean(1, keepdims=True))[1:]   # the first row is constant
    np.testing.assert_allclose(x[1:], truth / np.linalg.norm(truth, axis=1, keepdims=True), atol=1e-6)
    harvest(lambda _: np.full((2, 3), 7.0), [0], tmp_path / "flat")
    assert (activations(str(tmp_path / "flat"), "example")[0][:]["x"] == 0).all()   # no direction, no NaN


def test_stores_called_train_and_test_are_the_splits_and_train_sets_the_scale(tmp_path):
    harvest(HOST, _batches(), tmp_path / "train", shard_rows=50)
    harvest(lambda b: 3 * HOST(b), _batches()[:1], tmp_path / "test")
    train, test = activations(str(tmp_path), "mean_norm")
    assert (len(train), len(test)) == (87, 12)
    np.testing.assert_allclose(test[:]["x"], 3 * train[:12]["x"], rtol=2e-3)


@pytest.mark.parametrize("shard_rows", [1, 10, 12, 33, 86, 87, 200])
@pytest.mark.parametrize("fails_at", [0, 2, 5])
def test_an_interrupted_harvest_continues_to_the_same_bytes(tmp_path, shard_rows, fails_at):
    calls = []

    def host(batch):
        calls.append(batch)
        if len(calls) == fails_at + 1:
            raise KeyboardInterrupt
        return HOST(batch)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    harvest(HOST, _batches(), whole, shard_rows=shard_rows)
    with pytest.raises(KeyboardInterrupt):
        harvest(host, _batches(), broken, shard_rows=shard_rows)
    rows_before = json.loads((broken / "index.json").read_text())["rows"] if (broken / "index.json").exists() else 0
    seen = len(np.concatenate([HOST(b) for b in _batches()[:fails_at]])) if fails_at else 0
    assert rows_before == seen // shard_rows * shard_rows
    harvest(host, iter(_batches()), broken, shard_rows=shard_rows)
    assert _content(whole) == _content(broken)
    before = len(calls)
    harvest(host, _batches(), broken, shard_rows=shard_rows)
    assert len(calls) == before                              # complete: nothing is computed


def test_batches_that_are_stored_are_not_computed_again(tmp_path):
    calls, starts = [], []

    def host(batch):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return HOST(batch)

    def batches(start):
        starts.append(start)
        return iter(_batches()[start:])

    with pytest.raises(KeyboardInterrupt):
        harvest(host, batches, tmp_path, shard_rows=33)     # 12 + 21 rows fill the first shard exactly
    harvest(host, batches, tmp_path, shard_rows=33)
    assert starts == [0, 2] and len(calls) == 5 + 4
    assert np.array_equal(calls[5], _batches()[2])
    np.testing.assert_allclose(activations(str(tmp_path), test_fraction=0.0)[0][:]["x"], _truth(), atol=2e-3)


def test_a_killed_process_leaves_a_store_that_can_be_completed(tmp_path):
    code = """
import os, sys
import numpy as np
from jaxae.data import harvest
save = np.save
def dying(file, array):
    if "00002" in file.name:
        file.write(b"half a sh"); file.flush(); os._exit(9)
    save(file, array)
np.save = dying
harvest(lambda b: b, [np.arange(20.0).reshape(10, 2) + i for i in range(4)], sys.argv[1], shard_rows=8)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 9 and json.loads((tmp_path / "index.json").read_text())["rows"] == 16
    with pytest.raises(DataError, match="stops after 16 rows: call harvest again"):
        activations(str(tmp_path))
    batches = [np.arange(20.0).reshape(10, 2) + i for i in range(4)]
    harvest(lambda b: b, batches, tmp_path, shard_rows=8)
    assert verify(tmp_path) == 40 and not list(tmp_path.glob("*.part"))
    np.testing.assert_array_equal(activations(str(tmp_path), test_fraction=0.0)[0][:]["x"], np.concatenate(batches))


# Faults

def _break(path, how):
    file = path / "x-00001.npy"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
    elif how == "missing":
        file.unlink()
    elif how in ("width", "dtype"):
        index = json.loads((path / "index.json").read_text())
        np.save(file, np.zeros((40, 3), np.float16) if how == "width" else np.zeros((10, 6), np.int32))
        index["shards"][1]["files"]["x"]["bytes"] = file.stat().st_size
        (path / "index.json").write_text(json.dumps(index))
    else:
        (path / "index.json").write_text("{")


@pytest.mark.parametrize("how, message", [
    ("truncated", r"x-00001.npy has 363 bytes and should have 368: restore the file, or remove the folder"),
    ("missing", "x-00001.npy is missing: restore"), ("width", r"holds float16 \[40, 3\], but index.json says .*20, 6"),
    ("dtype", "holds int32"), ("index", "index.json cannot be read"),
])
def test_a_damaged_store_gets_one_clear_error(tmp_path, how, message):
    harvest(HOST, _batches(), tmp_path, shard_rows=20)
    _break(tmp_path, how)
    with pytest.raises(DataError, match=message):
        load({"source": f"activations:{tmp_path}"})


def test_changed_values_are_found(tmp_path):
    harvest(HOST, _batches(), tmp_path, shard_rows=20)
    shard = np.load(tmp_path / "x-00002.npy")
    np.save(tmp_path / "x-00002.npy", np.where(np.arange(6) == 1, np.nan, shard).astype(np.float16))
    with pytest.raises(DataError, match="x-00002.npy is not what harvest wrote"):
        verify(tmp_path)
    with pytest.raises(DataError, match="x of row 40 .* has NaN or infinity"):
        activations(str(tmp_path))[0][30:50]


@pytest.mark.parametrize("function, options, message", [
    (lambda b: b * np.nan, {}, r"x of batch 0 has NaN or infinity in 4 of 4 rows"),
    (lambda b: b + 1e6, {}, "x of batch 0 exceeds float16's largest value: store it with dtype='bfloat16'"),
    (lambda b: {"y": b}, {}, "a store wants x"), (lambda b: {"x": b, "y": b[1:]}, {}, "as many rows of all"),
    (lambda b: b[:, :b.shape[0] - 2], {}, "harvest into another folder"),
    (lambda b: b, {"dtype": "int8"}, "has a dtype"),
    (lambda b: b.astype(str), {}, "takes floats, integers and bool"), (lambda b: {"x": b, "index": b}, {}, "rename"),
])
def test_what_cannot_be_stored_gets_one_clear_error(tmp_path, function, options, message):
    with pytest.raises(DataError, match=message):
        harvest(function, [np.ones((4, 3)), np.ones((5, 3))], tmp_path, **options)


def test_a_store_is_not_continued_with_other_options(tmp_path):
    harvest(lambda b: b, [np.ones((4, 3))], tmp_path)
    with pytest.raises(DataError, match="begun with dtype='float16', not 'float32'"):
        harvest(lambda b: b, [np.ones((4, 3))], tmp_path, "float32")
    with pytest.raises(DataError, match="normalise is one of"):
        activations(str(tmp_path), "batch")
    with pytest.raises(DataError, match="no store of activations at .*write one by jaxae.data.harvest"):
        load({"source": f"activations:{tmp_path}/nothing"})
    with pytest.raises(DataError, match="the batches were empty"):
        harvest(lambda b: b, [], tmp_path / "empty")
