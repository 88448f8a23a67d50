"""Trains a config, or continues the run in its workdir.

    python experiments/run.py --config=configs/vq.py
    python experiments/run.py --config=configs/vq.py:gradient --workdir=runs/mine --config.steps=500
    python experiments/run.py --config=configs/vq.py --cpu_devices=8 --config.batch_size=96 --config.mesh.fsdp=2

The workdir is `runs/NAME`, with the variants behind the name, unless `--workdir` says otherwise.
"""

import re
import sys
from pathlib import Path

from absl import flags

from jaxae.train import main, train
from jaxae.train.config import ConfigError

flags.DEFINE_string("workdir", "", "Where outputs go; runs/NAME of the config by default.")


def default_workdir(argv: list[str]) -> Path:
    """`runs/vq-gradient` for `--config=configs/vq.py:gradient`."""
    joined = " ".join(argv)
    match = re.search(r"--?config[= ](\S+)", joined)
    if not match:
        raise ConfigError("name a config: --config=configs/vq.py")
    path, _, arg = match.group(1).partition(":")
    return Path("runs") / "-".join([Path(path).stem, *filter(None, arg.split(","))])


def run() -> None:
    """Trains in the workdir of the flags."""
    argv = sys.argv[1:]
    workdir = flags.FLAGS.workdir or default_workdir(argv)
    train(main.CONFIG.value, workdir)


if __name__ == "__main__":
    main.run(run)
