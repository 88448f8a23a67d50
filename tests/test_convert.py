"""The command that converts dictionaries, in a process of its own."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
from commands import ROOT, environment
from dictionary_examples import example

from jaxae import data
from jaxae.sae import formats
from jaxae.systems.dictionary_files import of_raw, plain
from jaxae.train.setup import open_run


def convert(*flags) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "experiments/convert.py", *map(str, flags)], cwd=ROOT, env=environment(),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_file_becomes_a_workdir_that_is_written_as_the_same_file(tmp_path: Path):
    """Activations of the run are scaled; what is written is for those that are stored, as the file was."""
    written = formats.save_saelens(tmp_path / "there", example("gated", center=True))
    rng = np.random.default_rng(0)
    data.harvest(lambda batch: batch, [30 * rng.standard_normal((160, 6))], tmp_path / "store", "float32")
    done = convert(f"--from=saelens:{written}", f"--to={tmp_path / 'run'}", "--config=configs/sae.py:tiny",
                   f"--config.data.source=activations:{tmp_path / 'store'}", "--config.data.normalise=mean_norm",
                   "--config.data.size=0", "--config.batch_size=8", "--config.model.aux_atoms=2")
    assert done.returncode == 0 and "--config.model.sparsifier=gated" in done.stdout, done.stdout
    run, there = open_run(tmp_path / "run"), formats.load_saelens(written)
    scale = run.dataset.train.info["scale"]
    assert abs(scale["x"] - 1 / 30) < 0.01
    scaled = plain(run.config.model, run.members()[0])
    np.testing.assert_allclose(scaled.params["offset"], scale["x"] * there.params["offset"], rtol=1e-6)
    back = of_raw(scaled, "mean_norm", scale)
    assert back.model == there.model
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), back.params, there.params)
