"""Trains a config, or continues the run in its workdir.

    python experiments/run.py --config=configs/vq.py
    python experiments/run.py --config=configs/vq.py:gradient --workdir=runs/mine --config.steps=500
    python experiments/run.py --config=configs/vq.py --cpu_devices=8 --config.batch_size=96 --config.mesh.fsdp=2

The workdir is `runs/NAME`, with the variants behind the name, unless `--workdir` says otherwise.
"""

import sys
from pathlib import Path

from absl import flags

from jaxae.train import main, mistakes, train

flags.DEFINE_string("workdir", "", "Where outputs go; runs/NAME of the config by default.")


def default_workdir(argv: list[str]) -> Path:
    """`runs/vq-gradient` for `--config=configs/vq.py:gradient`."""
    path, arg = mistakes.config_path(argv)
    return Path("runs") / "-".join([Path(path).stem, *filter(None, arg.split(","))])


def run() -> None:
    """Trains in the workdir of the flags."""
    config = main.config()
    workdir = flags.FLAGS.workdir or default_workdir(sys.argv[1:])
    train(config, workdir)


if __name__ == "__main__":
    main.run(run)
