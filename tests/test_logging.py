"""What a run tells a person: metric files that survive a kill, tables whose totals are right, progress."""

import contextlib
import fcntl
import json
import math
import os
import struct
import sys
import termios
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxae.train import logging
from jaxae.train.logging import (
    NullWriter,
    Progress,
    Writer,
    parameter_table,
    read_metrics,
    results_table,
    say,
)


def _strict_lines(workdir):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def _events(workdir):
    """All events of a workdir in the order in which TensorBoard reads them: record files are
    (length: uint64, its checksum: uint32, that many bytes, their checksum: uint32)."""
    events = []
    for path in sorted(workdir.glob("*tfevents*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def _run(workdir, steps, **options):
    with contextlib.closing(Writer(workdir, tensorboard=False, **options)) as writer:
        for step in steps:
            writer.write_scalars(step, {"train/loss": step / 7})


def test_rows_come_back_exactly_and_in_order(tmp_path):
    loss = jax.jit(lambda x: x.sum() / 3)(jnp.ones(2))
    with contextlib.closing(Writer(tmp_path / "new" / "run", tensorboard=False)) as writer:
        writer.write_scalars(np.int64(0), {"train/loss": loss, "codes": np.int32(7)})
        writer.write_scalars(jnp.int32(10), {"eval/loss": 0.1})
    rows = read_metrics(tmp_path / "new" / "run")
    assert rows == [{"step": 0, "train/loss": float(loss), "codes": 7}, {"step": 10, "eval/loss": 0.1}]
    assert isinstance(rows[0]["codes"], int)


def test_not_finite_numbers_are_strict_json_and_come_back(tmp_path):
    with contextlib.closing(Writer(tmp_path, tensorboard=False)) as writer:
        writer.write_scalars(1, {"a": math.nan, "b": jnp.inf, "c": np.float32(-np.inf)})
    assert _strict_lines(tmp_path) == [{"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}]
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a"]) and row["b"] == math.inf and row["c"] == -math.inf


def test_a_row_is_readable_before_flush_and_close(tmp_path):
    writer = Writer(tmp_path, tensorboard=False)
    writer.write_scalars(1, {"a": 1.0})
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1.0}]
    writer.close()
    writer.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_killed_and_resumed_run_has_the_rows_of_an_unbroken_one(tmp_path, cut):
    """Saved at 30, logged until 50, killed in the middle of a line; then resumed to 80."""
    _run(tmp_path / "whole", range(0, 90, 10))
    _run(tmp_path / "killed", range(0, 60, 10))
    path = tmp_path / "killed" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    _run(tmp_path / "killed", range(40, 90, 10), keep_until=30)
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]  # no temporary file stays


def test_torn_line_is_dropped_without_keep_until_and_never_glued_to_the_next(tmp_path):
    _run(tmp_path, [0, 10])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 20, "train/lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 10]
    _run(tmp_path, [20])
    assert [row["step"] for row in _strict_lines(tmp_path)] == [0, 10, 20]


def test_whole_last_line_without_its_line_break_is_kept(tmp_path):
    _run(tmp_path, [0, 10])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    _run(tmp_path, [20])
    assert [row["step"] for row in _strict_lines(tmp_path)] == [0, 10, 20]


def test_a_block_of_zeros_after_a_power_cut_does_not_stop_a_resume(tmp_path):
    _run(tmp_path, [0, 10])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"\0" * 64 + b"\n\xff\xfe\n[1]\n3\n")
    _run(tmp_path, [20], keep_until=10)
    assert [row["step"] for row in _strict_lines(tmp_path)] == [0, 10, 20]


def test_keep_until_minus_one_starts_afresh(tmp_path):
    _run(tmp_path, [0, 10])
    _run(tmp_path, [0], keep_until=-1)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0]


def test_reading_where_there_is_nothing(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_holds_the_numbers_and_the_pixels(tmp_path):
    from PIL import Image

    image = np.zeros((3, 5, 3), np.float32)
    image[0, 1] = [1.0, 0.5, 0.0]
    with contextlib.closing(Writer(tmp_path)) as writer:
        writer.write_scalars(7, {"train/loss": 0.25})
        writer.write_images(7, {"samples": image, "grey": np.ones((4, 6))})
    values = {v.tag: (e.step, v) for e in _events(tmp_path) for v in e.summary.value}
    assert values["train/loss"][0] == 7 and values["train/loss"][1].simple_value == 0.25
    (tmp_path / "x.png").write_bytes(values["samples"][1].image.encoded_image_string)
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert pixels.shape == (3, 5, 3)
    np.testing.assert_array_equal(pixels[0, 1], [255, 128, 0])
    assert pixels.sum() == 255 + 128
    assert (values["grey"][1].image.height, values["grey"][1].image.width) == (4, 6)


def test_tensorboard_purges_what_the_resumed_run_writes_again(tmp_path):
    """TensorBoard drops events at or after the step of a START; a restart within a second keeps old files."""
    for steps, keep in ((range(0, 60, 10), -1), (range(40, 90, 10), 30)):
        with contextlib.closing(Writer(tmp_path, keep_until=keep)) as writer:
            for step in steps:
                writer.write_scalars(step, {"loss": step})
    seen = []
    for event in _events(tmp_path):
        if event.session_log.status == event.session_log.START:
            seen = [step for step in seen if step < event.step]
        seen += [event.step for _ in event.summary.value]
    assert seen == list(range(0, 90, 10))


def test_wandb_goes_on_in_the_same_run_and_a_fresh_start_gets_a_new_one(tmp_path, monkeypatch):
    runs, logged = [], []
    run = types.SimpleNamespace(log=lambda row, step: logged.append((step, row)), finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **kw: runs.append(kw) or run, Image=lambda pixels: pixels)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for keep in (-1, 10, None, -1):
        options = {"wandb_project": "p", "config": {"lr": 1}, "keep_until": keep}
        with contextlib.closing(Writer(tmp_path, tensorboard=False, **options)) as writer:
            writer.write_scalars(3, {"loss": 0.5})
            writer.write_images(3, {"x": np.ones((2, 2))})
    first, second, third, fourth = (kw["id"] for kw in runs)
    assert first == second == third != fourth
    assert runs[0]["project"] == "p" and runs[0]["config"] == {"lr": 1}
    assert logged[0] == (3, {"loss": 0.5}) and logged[1][1]["x"].tolist() == [[255, 255], [255, 255]]


def test_missing_wandb_is_one_error_that_names_the_extra_and_touches_nothing(tmp_path, monkeypatch):
    _run(tmp_path, [0, 10])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxae\[wandb\]'"):
        Writer(tmp_path, wandb_project="p", keep_until=-1)
    assert len(read_metrics(tmp_path)) == 2


def test_what_is_not_a_number_is_refused_by_name(tmp_path):
    with contextlib.closing(Writer(tmp_path, tensorboard=False)) as writer:
        with pytest.raises(ValueError, match=r"'kl' has shape \(3,\)"):
            writer.write_scalars(0, {"kl": np.ones(3)})
        with pytest.raises(ValueError, match="'step'"):
            writer.write_scalars(0, {"step": 1.0})
    assert read_metrics(tmp_path) == []


def test_null_writer_has_the_methods_of_the_writer():
    writer = NullWriter()
    writer.write_scalars(0, {"a": 1.0})
    writer.write_images(0, {"a": np.ones((2, 2))})
    writer.flush()
    writer.close()
    assert {n for n in vars(Writer) if n[0] != "_"} == {n for n in vars(NullWriter) if n[0] != "_"}


def _counts(table):
    """{name: count} of the rows of a parameter table, without its head."""
    return {line.split()[0]: int(line.split()[-1].replace(",", "")) for line in table.splitlines()[2:]}


def test_parameter_table_has_a_row_an_array_and_their_sum():
    params = {"params": {"enc": {"kernel": jnp.zeros((784, 512)), "bias": jnp.zeros(512)},
                         "book": jnp.zeros((64, 16), jnp.bfloat16)}, "scale": jnp.zeros(())}  # fmt: skip
    table = parameter_table(params)
    assert _counts(table) == {
        "params/book": 1024, "params/enc/bias": 512, "params/enc/kernel": 401408, "scale": 1, "total": 402945
    }  # fmt: skip
    assert "params/enc/kernel  (784, 512)  float32" in table and "(64, 16)    bfloat16" in table
    assert table == parameter_table(jax.eval_shape(lambda: params))
    assert len({len(line) for line in table.splitlines()}) == 1  # counts end in one column


def test_long_parameter_table_folds_at_the_first_branching_and_keeps_the_total():
    blocks = {f"block{i}": {f"w{j}": jnp.zeros((i + 1, j + 1)) for j in range(6)} for i in range(7)}
    table = parameter_table({"params": blocks | {"scale": jnp.zeros(5)}})
    want = {f"params/block{i}/*": 21 * (i + 1) for i in range(7)} | {"params/scale": 5}
    assert _counts(table) == want | {"total": 21 * 28 + 5}
    assert "6 arrays" in table and "43 arrays" in table


def test_parameter_table_of_a_system_without_parameters():
    assert _counts(parameter_table({})) == {"total": 0}


def test_results_align_at_the_point_and_keep_names_and_scales():
    rows = {"test/elbo (nats)": -98.3149, "codes used": 37, "fid": (12.3456, 0.4321), "top-1 (%)": [97, 12.0],
            "same": (3.5, 0.0), "big": 123456.7, "bad": math.nan}  # fmt: skip
    lines = results_table(rows).splitlines()[2:]
    assert [line[:16].strip() for line in lines] == list(rows)
    cells = [line[16:].strip() for line in lines]
    assert cells == ["-98.315", "37", "12.35 ± 0.43", "97 ± 12", "3.5 ± 0", "123457", "nan"]
    point = lines[0].index(".")
    assert lines[2].index(".") == point and lines[1].index("37") + 2 == point and len(lines[5]) == point


def test_progress_without_a_terminal_prints_a_line_a_report(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 12.0, 16.0])
    monkeypatch.setattr(logging, "perf_counter", lambda: next(clock))
    progress = Progress(total=1000, initial=100)
    progress.update(200, {"train/loss": jnp.float32(0.5), "eval/loss": 2})
    progress.update(250)  # nothing to report
    progress.update(300, {"train/loss": math.nan})
    progress.message("saved")
    progress.update(400, {"train/loss": 0.25})
    progress.close()
    # 100 steps in 10 s; 100 in 2 s, 700 left; 100 in 4 s, and 200 in 6 s since compilation with 600 left.
    assert capsys.readouterr().out.splitlines() == [
        "step 200/1000 (20%)  loss 0.5  eval/loss 2  10 steps/s (with compilation)  ETA 01:20",
        "step 300/1000 (30%)  loss nan  50 steps/s  ETA 00:14",
        "saved",
        "step 400/1000 (40%)  loss 0.25  25 steps/s  ETA 00:18",
    ]


def test_progress_at_a_terminal_is_a_bar_that_messages_do_not_break(capsys, monkeypatch):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with open(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        progress = Progress(total=10, initial=4)
        progress.update(7, {"train/loss": 0.125})
        progress.message("saved")
        progress.update(10, {"train/loss": 0.0625})
        progress.close()
        progress.close()
    chunks = [b""]
    with contextlib.suppress(OSError):  # the end of what the closed side has written
        while not chunks[1:] or chunks[-1]:
            chunks.append(os.read(master, 4096))
    os.close(master)
    shown = b"".join(chunks).decode()
    assert "4/10" in shown and "7/10" in shown and "loss=0.125" in shown
    assert shown.rstrip().split("\r")[-1].startswith("100%") and "10/10" in shown.rstrip().split("\r")[-1]
    assert capsys.readouterr().out == "saved\n"


def test_only_the_primary_process_speaks(capsys):
    progress = Progress(total=10, enabled=False)
    progress.update(5, {"loss": 1.0})
    progress.message("a")
    progress.close()
    say("b", primary=False)
    say("c")
    captured = capsys.readouterr()
    assert captured.out == "c\n" and captured.err == ""
