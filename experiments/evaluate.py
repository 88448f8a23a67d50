"""Metrics and figures of a finished run.

    python experiments/evaluate.py --workdir=runs/vq
    python experiments/evaluate.py --workdir=runs/vq --metrics=frechet,probe

Prints the table, writes `evaluation.json` and `figures/evaluation_*.png` into the workdir. Runs on one device,
wherever the run was trained.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from jaxae.train import main
from jaxae.train.evaluators import EVALUATORS, run_evaluators
from jaxae.train.figures import write_figures
from jaxae.train.logging import results_table, say
from jaxae.train.loop import evaluate
from jaxae.train.record import mean_and_spread
from jaxae.train.setup import open_run

flags.DEFINE_string("workdir", None, "Workdir of the run.", required=True)
flags.DEFINE_list("metrics", None, f"Evaluators among {', '.join(EVALUATORS)}; those of the run's config by default.")


def report() -> None:
    """Evaluates the run of the flags."""
    workdir = Path(flags.FLAGS.workdir)
    run = open_run(workdir)
    values = evaluate(run.program, run.dataset.test, run.config.batch_size, run.program.spread(run.state))
    values = dict(values) | run_evaluators(run.config, run.system, run.state, run.dataset, flags.FLAGS.metrics)
    rows = {f"test/{name}": mean_and_spread(value) if np.ndim(value) else float(value)
            for name, value in values.items() if np.ndim(value) <= 1}
    (workdir / "evaluation.json").write_text(json.dumps({"step": run.step, "metrics": rows}, indent=2) + "\n")
    say(f"{workdir} at step {run.step}")
    say(results_table(rows))
    if run.program.figures:
        examples = run.dataset.test[np.arange(min(64, len(run.dataset.test)))]
        arrays = run.program.figures(run.state, examples)
        arrays = run.decode(arrays) if run.decode else arrays
        paths, _ = write_figures(workdir / "figures", run.step,
                                 {f"evaluation_{name}": array for name, array in arrays.items()},
                                 run.dataset.train.info.get("vocabulary", ()))
        say("figures: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main.run(report)
