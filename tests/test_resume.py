"""A run that is killed, stopped or damaged, and then continued by the same command, ends in the same bits."""

import gc
import json
import os
import random
import re
import shutil
import signal
import time

import commands
import jax
import numpy as np
import pytest

from jaxae.train.checkpoint import CheckpointError, Checkpoints
from jaxae.train.setup import open_run

_QUIET = ("--config.evaluators=()", "--config.figures_every=0", "--config.tensorboard=false")
# The codebook moves by averages, the learning rate along a cosine.
SMALL_VQ = ("--config=configs/vq.py:tiny", "--config.data.size=14", "--config.model.channels=(8,)",
            "--config.model.blocks=0")
VQ = (*SMALL_VQ, "--config.steps=250", "--config.log_every=5", "--config.eval_every=50",
      "--config.checkpoint_every=10", *_QUIET)
# The data are read ahead by grain; the parameters are averaged too.
SMALL_VAE = ("--config=configs/vae.py:tiny",)
STREAMED = (*SMALL_VAE, "--config.data.resident_bytes=0", "--config.steps=400", "--config.log_every=4",
            "--config.eval_every=40", "--config.checkpoint_every=20", "--config.optim.average=0.9", *_QUIET)
RUNS, EVERY = {"vq": VQ, "streamed": STREAMED}, {"vq": 10, "streamed": 20}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Workdirs of runs that nobody disturbed, by name."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("reference") / name
            commands.finish(*RUNS[name], f"--workdir={made[name]}")
        return made[name]

    return get


def continued(process):
    """How a continued run said where it starts."""
    return int(re.search(r"continuing from step (\d+)", process)[1])


@pytest.mark.parametrize("name", sorted(RUNS))
def test_five_kills_at_random_moments_leave_no_trace(name, reference, tmp_path):
    chance, workdir, starts = random.Random(name), tmp_path / "run", []
    flags = (*RUNS[name], f"--workdir={workdir}")
    for ahead in chance.sample([0, 1, 1, 2, 3], 5):
        goal = max(commands.steps(workdir), default=0) + ahead * EVERY[name]
        process = commands.start(*flags)
        text = commands.read_until(process, r"^step \d+/", times=chance.randint(1, 5))
        # Some go on until they have saved something, so that all of them together get somewhere.
        while max(commands.steps(workdir), default=0) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))  # anywhere in a step, a row, a checkpoint
        process.send_signal(signal.SIGKILL)
        text += commands.rest(process).text
        starts.append(continued(text) if "continuing" in text else 0)
        assert process.returncode == -signal.SIGKILL, text  # it was still running
    starts.append(continued(commands.finish(*flags)))
    assert len(set(starts)) >= 4 and starts == sorted(starts), starts
    commands.assert_equal_runs(workdir, reference(name))


@pytest.mark.parametrize("name,number", [("vq", signal.SIGTERM), ("streamed", signal.SIGINT)])
def test_a_signal_saves_and_the_same_command_goes_on(name, number, reference, tmp_path):
    flags = (*RUNS[name], f"--workdir={tmp_path / 'run'}")
    process = commands.start(*flags)
    commands.read_until(process, r"^step 12|^step 15")
    process.send_signal(number)
    code, text = commands.rest(process)
    assert code == 0, text
    stopped = re.search(r"stopped at step (\d+) of \d+ and saved; run the same command to continue", text)
    assert stopped and "Traceback" not in text
    assert commands.steps(tmp_path / "run")[-1] == int(stopped[1])
    assert continued(commands.finish(*flags)) == int(stopped[1])
    commands.assert_equal_runs(tmp_path / "run", reference(name))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_is_kept_and_a_second_one_exits_at_once(number, tmp_path):
    process = commands.start(*VQ, f"--workdir={tmp_path / 'run'}", cached=False)
    commands.read_until(process, "^compiling")
    process.send_signal(number)
    # The answer comes while XLA compiles, which Python's own signal handlers wait for.
    commands.read_until(process, "a second signal exits at once")
    process.send_signal(number)
    code, text = commands.rest(process)
    assert code == 128 + number
    assert "step" not in text and "Traceback" not in text


def test_a_finished_run_that_is_run_again_changes_nothing(reference, tmp_path):
    workdir = shutil.copytree(reference("vq"), tmp_path / "run")
    results, checkpoints = (workdir / "results.json").read_text(), commands.contents(workdir / "checkpoints")
    text = commands.finish(*VQ, f"--workdir={workdir}")
    assert "nothing left to train" in text
    commands.assert_equal_runs(workdir, reference("vq"))
    assert commands.contents(workdir / "checkpoints") == checkpoints
    assert re.findall(r'"test/.*|"loss.*', (workdir / "results.json").read_text()) == re.findall(
        r'"test/.*|"loss.*', results)


def test_a_run_of_before_some_keys_is_read_and_continued_with_their_defaults(reference, tmp_path):
    workdir = shutil.copytree(reference("vq"), tmp_path / "run")
    path = workdir / "config.json"
    saved, whole = json.loads(path.read_text()), open_run(workdir).config
    for part, key in ((saved, "init_parts"), (saved["optim"], "clip_elements"), (saved["model"], "spectral")):
        del part[key]
    path.write_text(json.dumps(saved))
    assert open_run(workdir).config.to_json() == whole.to_json()
    assert "nothing left to train" in commands.finish(*VQ, f"--workdir={workdir}")
    saved["model"]["beta"] = 0.5  # a difference that is none of the version
    path.write_text(json.dumps(saved))
    commands.mistake(commands.run(*VQ, f"--workdir={workdir}"), "model.beta: 0.5 -> 0.25")


def test_a_kill_between_the_last_checkpoint_and_the_end_loses_nothing(reference, tmp_path):
    flags = (*STREAMED, f"--workdir={tmp_path / 'run'}", "--config.evaluators=image_quality")
    process = commands.start(*flags)
    commands.read_until(process, r"^step 400: ")
    while not (tmp_path / "run" / "checkpoints" / "400").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    commands.rest(process)
    assert not (tmp_path / "run" / "results.json").exists()
    commands.finish(*flags)
    assert (tmp_path / "run" / "results.json").exists()
    commands.assert_equal_runs(tmp_path / "run", reference("streamed"))


def truncate(*paths, size=lambda n: 0):
    for path in paths:
        with open(path, "r+b") as file:
            file.truncate(size(path.stat().st_size))


def files_below(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_truncated_newest_checkpoint_is_set_aside_and_the_one_before_taken(reference, tmp_path):
    workdir = shutil.copytree(reference("vq"), tmp_path / "run")
    # Half of every file of arrays: what orbax prints about it by itself is a wall of tracebacks.
    truncate(*(workdir / "checkpoints" / "250").glob("state/**/d/*"), size=lambda n: n // 2)
    text = commands.finish(*VQ, f"--workdir={workdir}")
    assert "checkpoint 250 is damaged" in text and "checkpoints-damaged" in text and "Traceback" not in text
    assert continued(text) == 240
    assert (workdir / "checkpoints-damaged" / "250").is_dir()
    commands.assert_equal_runs(workdir, reference("vq"))


def test_truncated_checkpoints_without_a_good_one_are_one_clear_error(reference, tmp_path):
    workdir = shutil.copytree(reference("vq"), tmp_path / "run")
    truncate(*files_below(workdir / "checkpoints"))
    before = commands.contents(workdir)
    result = commands.run(*VQ, f"--workdir={workdir}")
    commands.mistake(result, f"no checkpoint under {workdir}/checkpoints can be read", "move the directory away")
    assert "going on" not in result.text
    assert commands.contents(workdir) == before


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_any_damaged_file_of_a_checkpoint_is_noticed_or_harmless(tmp_path, capfd):
    state = {"params": {"w": np.arange(4000, dtype=np.float32).reshape(40, 100)}, "step": np.int32(3)}
    saver = Checkpoints(tmp_path / "good" / "checkpoints")
    for step in (1, 2):
        saver.save(step, jax.tree.map(lambda x, step=step: jax.numpy.asarray(x + step), state), {"step": step})
    saver.close()
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state)
    newest = tmp_path / "good" / "checkpoints" / "2"
    files, noticed = [path.relative_to(newest) for path in files_below(newest)], 0
    for i, name in enumerate(files):
        for j, damage in enumerate((truncate, lambda path: truncate(path, size=lambda n: n // 2), os.remove)):
            copy = shutil.copytree(tmp_path / "good", tmp_path / f"{i}-{j}") / "checkpoints"
            damage(copy / "2" / name)
            reader = Checkpoints(copy)
            step, read, meta = reader.restore(abstract)
            reader.close()
            noticed += step == 1
            assert meta["step"] == step and (copy.parent / "checkpoints-damaged" / "2").exists() == (step == 1)
            jax.tree.map(lambda x, y, s=step: np.testing.assert_array_equal(x, y + s), read, state)
    assert noticed > len(files)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


CONSTANT = ("--config.optim.schedule=constant", "--config.batch_size=16", "--config.log_every=3",
            "--config.eval_every=0", *_QUIET)
EIGHT = "--cpu_devices=8"
LAYOUTS = {
    "eight devices, then one": (SMALL_VQ, (EIGHT,), ()),
    "two by four devices, then one": (SMALL_VAE, (EIGHT, "--config.mesh.data=2", "--config.mesh.fsdp=4"), ()),
    "pmap on eight, then jit on one": (SMALL_VAE, (EIGHT, "--config.parallel=pmap"), ()),
}


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    made = {}

    def get(config):
        if config not in made:
            made[config] = tmp_path_factory.mktemp("one") / "run"
            commands.finish(*config, *CONSTANT, "--config.steps=12", f"--workdir={made[config]}")
        return commands.leaves(made[config])

    return get


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_goes_on_with_other_devices(layout, on_one_device, tmp_path):
    config, first, then = LAYOUTS[layout]
    flags = (*config, *CONSTANT, f"--workdir={tmp_path / 'run'}")
    commands.finish(*flags, *first, "--config.steps=6")
    assert continued(commands.finish(*flags, *then, "--config.steps=12")) == 6
    found, wanted = commands.leaves(tmp_path / "run"), on_one_device(config)
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        scale = max(float(np.abs(want).max()), 1e-3)
        np.testing.assert_allclose(found[name] / scale, want / scale, atol=1e-5, err_msg=name)


def test_resume_continues_another_run_and_init_from_takes_its_parameters(reference, tmp_path):
    other, before = reference("streamed"), commands.contents(reference("streamed"))
    text = commands.finish(*STREAMED, f"--workdir={tmp_path / 'resumed'}", f"--config.resume={other}",
                           "--config.steps=404")
    assert continued(text) == 400
    assert [row["step"] for row in commands.rows(tmp_path / "resumed")] == [404, 404]
    # Another optimizer: its state in the checkpoint is of no use, and no reason to refuse the parameters.
    text = commands.finish(*STREAMED, f"--workdir={tmp_path / 'started'}", f"--config.init_from={other}",
                           "--config.optim.name=sgd", "--config.optim.learning_rate=0.0", "--config.steps=4")
    assert "continuing" not in text
    found, wanted = commands.leaves(tmp_path / "started"), commands.leaves(other)
    params = [name for name in wanted if name.startswith("['params']")]
    for name in params:
        np.testing.assert_array_equal(found[name], wanted[name])
    assert len(params) == 8 and found["['step']"] == 4
    # Of the decoder alone, by a model with another encoder.
    commands.finish(*STREAMED, f"--workdir={tmp_path / 'partly'}", f"--config.init_from={other}",
                    "--config.init_parts=('decoder',)", "--config.model.posterior=full", "--config.optim.name=sgd",
                    "--config.optim.learning_rate=0.0", "--config.steps=4")
    partly = commands.leaves(tmp_path / "partly")
    for name in params:
        if "decoder" in name:
            np.testing.assert_array_equal(partly[name], wanted[name])
        else:
            assert partly[name].shape != wanted[name].shape or not np.array_equal(partly[name], wanted[name]) or (
                not wanted[name].any())
    commands.mistake(commands.run(*STREAMED, f"--workdir={tmp_path / 'wrong'}", f"--config.init_from={other}",
                                  "--config.init_parts=('head',)"), "decoder, encoder, not head")
    assert commands.contents(other) == before  # a run that is read is not written to


def test_checkpoint_of_another_model_is_refused_with_the_difference(reference, tmp_path):
    for key in ("init_from", "resume"):
        result = commands.run(*STREAMED, f"--workdir={tmp_path / 'run'}", f"--config.{key}={reference('streamed')}",
                              "--config.model.features=(16,)")
        commands.mistake(result, "is of another model", "16", "Use the config that it was trained with")


def test_a_damaged_run_is_read_without_being_changed(reference, tmp_path):
    workdir = shutil.copytree(reference("streamed"), tmp_path / "run")
    truncate(*files_below(workdir / "checkpoints" / "400"))
    before = commands.contents(workdir)
    run = open_run(workdir)
    assert run.step == 380 and commands.contents(workdir) == before
    for step in (360, 380):
        truncate(*files_below(workdir / "checkpoints" / str(step)))
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        open_run(workdir)
