"""Every block of the README runs. Commands run their `tiny` variants in a directory of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.unsettled
ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                            "XLA_FLAGS": "--xla_backend_optimization_level=0"}


def tiny(command: str) -> str:
    """The same command with the config's `tiny` variant and without what would make it long."""
    command = re.sub(r"(--config=configs/\w+\.py)(:(\w+))?",
                     lambda m: f"{m[1]}:{m[3] + ',' if m[3] else ''}tiny", command)
    command = command.replace("--config.steps=500", "--config.steps=2")
    return command.replace("--config.ensemble=8", "--config.ensemble=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the repository's folders, users' data, and the runs that later commands name."""
    where = tmp_path_factory.mktemp("readme")
    for name in ("configs", "experiments"):
        (where / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 28, 28, 1), np.uint8)
    np.savez(where / "images.npz", x=images, test_x=images[:16])
    (where / "images").mkdir()
    for i in range(80):
        Image.fromarray(rng.integers(0, 256, (40, 32, 3), np.uint8)).save(where / "images" / f"{i}.png")
    for name in ("vq", "vae"):
        run(f"python experiments/run.py --config=configs/{name}.py:tiny --workdir=runs/{name}", where)
    return where


def run(command: str, where: Path) -> str:
    words = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(words, shell=True, cwd=where, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("pip ")])
def test_command_runs(command, place):
    out = run(tiny(command), place)
    assert "figures" in out or "--table" in command


def test_the_install_lines_are_the_two_commands():
    installs = [c for c in COMMANDS if c.startswith("pip ")]
    assert installs == ["pip install -e . && python experiments/run.py --config=configs/vq.py",
                        "pip install -e '.[test]' && pytest -n 2"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in ci


def test_python_blocks_run_in_order():
    space = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "README.md", "exec"), space)
    assert space["z"].shape == (500, 4) and np.isfinite(space["history"][-1]["test/elbo"])
