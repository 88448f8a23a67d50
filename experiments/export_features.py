"""Writes a trained classifier's weights as the default features of the Frechet and kernel distances.

    python experiments/export_features.py --workdir=runs/classifier

The file holds the weights in float16 and the test accuracy with them.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from jaxae import metrics
from jaxae.metrics.features import WEIGHTS
from jaxae.train import main
from jaxae.train.loop import evaluate
from jaxae.train.setup import open_run
from jaxae.train.sharding import leaf_name

flags.DEFINE_string("workdir", None, "Workdir of a run of configs/classifier.py.", required=True)
flags.DEFINE_string("out", str(WEIGHTS), "File to write.")


def export() -> None:
    """Writes the file and prints the accuracy of what was written."""
    run = open_run(flags.FLAGS.workdir)
    params = run.members()[0].params
    named = {leaf_name(path): np.asarray(leaf, np.float16) for path, leaf in
             jax.tree_util.tree_leaves_with_path(params)}
    accuracy = evaluate(run.program, run.dataset.test, run.config.batch_size, run.program.spread(run.state))["accuracy"]
    np.savez_compressed(flags.FLAGS.out, **named, test_accuracy=np.float32(accuracy))
    print(f"{Path(flags.FLAGS.out).name}: test accuracy {metrics.digit_accuracy(flags.FLAGS.out):.4f}, "
          f"{Path(flags.FLAGS.out).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main.run(export)
