"""Every mistake of a user is one clear message that names what to change, and nothing is lost by it."""

import shutil

import commands
import numpy as np
import pytest
from commands import mistake

VAE = "--config=configs/vae.py:tiny"
QUIET = ("--config.evaluators=()", "--config.figures_every=0", "--config.tensorboard=false")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run of two steps."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    commands.finish(VAE, *QUIET, f"--workdir={workdir}")
    return workdir


@pytest.fixture(scope="module", autouse=True)
def nothing_is_lost(finished):
    """No mistake of this file changes anything in the workdir that it was made in."""
    before = commands.contents(finished)
    yield
    assert commands.contents(finished) == before


COMMAND_LINES = {
    "no config": ((), ("name a config: --config=configs/vq.py",)),
    "keys without a config": (("--config.steps=3",), ("name the config", "--config=configs/vq.py")),
    "missing config file": (("--config=configs/vqq.py",), ("no config file 'configs/vqq.py'", "mean configs/vq.py?")),
    "unknown variant": (("--config=configs/vq.py:grad",), ("unknown variant 'grad'", "did you mean gradient?", "tiny")),
    "unknown key": ((VAE, "--config.stpes=3"), ("unknown key config.stpes", "did you mean config.steps?")),
    "unknown nested key": ((VAE, "--config.learning_rate=3"), ("did you mean config.optim.learning_rate?",)),
    "word for a whole number": ((VAE, "--config.steps=abc"), ("config.steps='abc' must be a whole number",)),
    "float for a whole number": ((VAE, "--config.steps=1e3"), ("config.steps='1e3' must be a whole number",)),
    "word for a number": ((VAE, "--config.optim.learning_rate=x"), ("learning_rate='x' must be a number",)),
    "words in a tuple": ((VAE, "--config.model.features=a"), ("config.model.features=('a',)", "(32,)")),
    "value out of range": ((VAE, "--config.batch_size=0"), ("config.batch_size=0 must be at least 1",)),
    "mistyped flag": (("--confg=configs/vq.py",), ("unknown flag --confg", "did you mean --config?")),
    "flag without dashes": ((VAE, "config.steps=3"), ("'config.steps=3' is not a flag",)),
    "missing evaluator": ((VAE, "--config.evaluators=fid"), ("'fid' is not one of", "frechet")),
}


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_a_wrong_command_line_names_what_is_wrong(case, finished):
    flags, expected = COMMAND_LINES[case]
    text = mistake(commands.run(*flags, f"--workdir={finished}"), *expected)
    assert "\n" not in text


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file" / "run", "/proc/run"):
        result = commands.run(VAE, *QUIET, f"--workdir={workdir}")
        mistake(result, f"cannot write to the workdir {workdir}", "--workdir")
    assert (tmp_path / "file").read_text() == "mine"


def test_workdir_of_another_config_is_refused_with_the_keys_that_differ(finished):
    result = commands.run(VAE, *QUIET, f"--workdir={finished}", "--config.optim.learning_rate=0.1", "--config.seed=7",
                          "--config.steps=50")
    text = mistake(result, "Use another --workdir, or the same config")
    assert "optim.learning_rate: 0.001 -> 0.1" in text and "seed: 0 -> 7" in text
    assert "steps" not in text  # may change


@pytest.mark.parametrize("key", ["resume", "init_from"])
def test_start_from_what_is_not_there(key, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, expected in ((tmp_path / "missing", "no such workdir"), (tmp_path / "empty", "no checkpoint")):
        result = commands.run(VAE, *QUIET, f"--workdir={tmp_path / 'run'}", f"--config.{key}={source}")
        mistake(result, f"config.{key}='{source}'", expected)
    assert not list((tmp_path / "empty").iterdir())


def test_resume_from_a_run_that_is_over_says_so(finished, tmp_path):
    result = commands.run(VAE, *QUIET, f"--workdir={tmp_path / 'run'}", f"--config.resume={finished}")
    mistake(result, "is at step 2", "config.steps")


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 1), np.uint8)


def images_with_nan():
    x = images(40).astype(np.float32) / 255
    x[7, 3, 3] = np.nan
    return x


DATA = {
    "missing": (None, ("no file at", "npz:PATH")),
    "not an npz": (b"PK\x03\x04 no archive", ("no readable npz file", "numpy.savez")),
    "empty": (dict(x=images(0)), ("empty",)),
    "wrong rank": (dict(x=np.zeros((40, 2, 2, 8, 8, 1), np.uint8)), ("has shape [40, 2, 2, 8, 8, 1]", "[n h w c]")),
    "NaN": (dict(x=images_with_nan()), ("train x has NaN", "in 1 of 36 examples", "remove or repair")),
    "fewer examples than a batch": (dict(x=images(5)), ("do not fill one batch of 8", "lower batch_size")),
}


def data_flags(path):
    return (VAE, *QUIET, f"--config.data.source=npz:{path}", "--config.data.num_train=0", "--config.data.num_test=0",
            "--config.data.binarize=none")


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used(case, tmp_path):
    made, expected = DATA[case]
    path = tmp_path / "data.npz"
    if isinstance(made, bytes):
        path.write_bytes(made)
    elif made is not None:
        np.savez(path, **made)
    mistake(commands.run(*data_flags(path), f"--workdir={tmp_path / 'run'}"), *expected)
    # The same workdir takes the corrected command.
    assert not (tmp_path / "run" / "config.json").exists()


def test_data_of_one_class_are_a_warning_and_train(tmp_path):
    np.savez(tmp_path / "data.npz", x=images(40), label=np.full(40, 3))
    text = commands.finish(*data_flags(tmp_path / "data.npz"), f"--workdir={tmp_path / 'run'}")
    assert "all training labels are 3" in text and commands.steps(tmp_path / "run") == [2]


def test_unknown_data_source_names_the_nearest(tmp_path):
    result = commands.run(VAE, "--config.data.source=digit", f"--workdir={tmp_path}")
    mistake(result, "unknown data source 'digit'", "did you mean 'digits'")


DEVICES = {
    "batch that does not divide": (("--config.batch_size=12",), ("batch_size=12", "8 devices", "such as 16")),
    "mesh that does not fit": (("--config.mesh.data=16",), ("config.mesh", "'data': 16", "8 devices")),
    "mesh of two -1": (("--config.mesh.fsdp=-1",), ("config.mesh", "at most one is -1")),
    "pmap with fsdp": (("--config.parallel=pmap", "--config.mesh.fsdp=2"), ("pmap", "fsdp", "config.parallel='jit'")),
    "rule that does not divide": (("--config.mesh.data=2", "--config.mesh.tensor=4",
                                   "--config.rules=(('mlp/dense0/bias',('tensor',)),)",
                                   "--config.model.features=(30,)"), ("config.rules", "dense0/bias", "'tensor'")),
}


@pytest.mark.parametrize("case", DEVICES)
def test_devices_that_do_not_fit(case, tmp_path):
    flags, expected = DEVICES[case]
    mistake(commands.run(VAE, *QUIET, "--cpu_devices=8", *flags, f"--workdir={tmp_path / 'run'}"), *expected)
    assert not (tmp_path / "run" / "config.json").exists()


# The rate climbs from 0, so that there is something good to keep. By rmsprop the update itself overflows.
EXPLOSIONS = {
    "loss": (("--config.optim.learning_rate=1e30", "--config.optim.warmup_steps=20"),
             "the loss or its gradient was not finite at step 2 (between steps 2 and 3)"),
    "update": (("--config.optim.name=rmsprop", "--config.optim.learning_rate=3e38", "--config.optim.warmup_steps=1"),
               "the parameters were not finite after step 2"),
}


@pytest.mark.parametrize("case", EXPLOSIONS)
def test_training_that_explodes_is_stopped_before_it_is_saved(case, tmp_path):
    flags, what = EXPLOSIONS[case]
    flags = (VAE, *QUIET, *flags, "--config.steps=40", "--config.log_every=1", "--config.checkpoint_every=1",
             f"--workdir={tmp_path / 'run'}")
    for _ in range(2):  # again, from what was saved
        text = mistake(commands.run(*flags), what)
        last = commands.steps(tmp_path / "run")[-1]
        assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / str(last)}" in text
        assert "config.optim.learning_rate" in text
        assert [row["step"] for row in commands.rows(tmp_path / "run")][-1] <= last + 1
        for name, leaf in commands.leaves(tmp_path / "run").items():
            assert np.isfinite(leaf).all(), name


def test_a_corrected_command_runs_after_every_mistake(finished, tmp_path):
    """The workdir in which this file made its mistakes still continues."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    assert "continuing from step 2 of 3" in commands.finish(VAE, *QUIET, f"--workdir={workdir}", "--config.steps=3")

