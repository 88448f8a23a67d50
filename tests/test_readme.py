"""Every block of the README runs. Commands run their `tiny` variants in a directory of their own."""

import re
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (commands.ROOT / "README.md").read_text(), re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]


def tiny(command: str) -> str:
    """The same command with the config's `tiny` variant and without what would make it long."""
    command = re.sub(r"(--config=configs/\w+\.py)(:(\w+))?",
                     lambda m: f"{m[1]}:{m[3] + ',' if m[3] else ''}tiny", command)
    command = command.replace("--config.steps=500", "--config.steps=2")
    command = command.replace("--models=vae,wae-mmd --steps=500 --seeds=2",
                              "--models=wae-mmd --steps=2 --prior_steps=2 --seeds=1 --output=table")
    command = command.replace("--config.batch_size=96", "--config.batch_size=96 --config.data.num_train=96")
    command = command.replace("topk,batch_topk model.k=4,8,16,32", "topk,batch_topk model.k=2,3")
    command = command.replace("activations:runs/latents", "activations:runs/latents --config.data.size=0")
    command = command.replace("separate.py", "separate.py --mixtures=4 --beams=2 --epochs=1")
    return command.replace("--config.ensemble=8", "--config.ensemble=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the repository's folders and users' data."""
    where = tmp_path_factory.mktemp("readme")
    for name in ("configs", "experiments"):
        (where / name).symlink_to(commands.ROOT / name)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 28, 28, 1), np.uint8)
    np.savez(where / "images.npz", x=images, test_x=images[:16])
    (where / "images").mkdir()
    for i in range(160):
        Image.fromarray(rng.integers(0, 256, (40, 32, 3), np.uint8)).save(where / "images" / f"{i}.png")
    return where


def run(command: str, where: Path) -> str:
    words = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(words, shell=True, cwd=where, env=commands.environment(), capture_output=True,
                          text=True, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("pip ")])
def test_command_runs(command, place):
    for name in ("vq", "vae", "sae"):
        if re.search(rf"(autoencoder|workdir|from)=runs/{name}\b", command):  # a run that the README made before
            run(f"python experiments/run.py --config=configs/{name}.py:tiny --workdir=runs/{name}", place)
    if "separate.py" in command:  # of the line two above it
        before = COMMANDS[COMMANDS.index(command) - 2]
        run("python experiments/run.py --config=configs/vq.py:tiny --workdir=runs/vq", place)
        run(tiny(before), place)
    if "activations:" in command:
        run("python experiments/run.py --config=configs/vae.py:tiny --workdir=runs/vae", place)
        run(COMMANDS[COMMANDS.index(command) - 1], place)
    out = run(tiny(command), place)
    said = {"convert": "wrote", "harvest": "rows of", "verify": "", "cross_table": "frechet, flow",
            "pareto": "pareto.png"}
    script = re.search(r"experiments/(\w+)\.py", command)[1]
    assert said.get(script, "figure") in out


def test_the_install_lines_are_the_two_commands():
    installs = [c for c in COMMANDS if c.startswith("pip ")]
    assert installs == ["pip install -e . && python experiments/run.py --config=configs/vq.py",
                        "pip install -e '.[test]' && pytest -n 2 --dist loadgroup"]
    ci = (commands.ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in ci


def test_python_blocks_run_in_order():
    space = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "README.md", "exec"), space)
    assert space["z"].shape == (500, 4) and np.isfinite(space["history"][-1]["test/elbo"])
