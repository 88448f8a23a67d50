"""What a run leaves in its workdir and tells a person."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxae.train import config as configs
from jaxae.train import ensemble
from jaxae.train.checkpoint import CheckpointError
from jaxae.train.figures import write_figures
from jaxae.train.logging import NullWriter, Progress, Writer, parameter_table, read_metrics, results_table, say
from jaxae.train.plots import curves

_HEADLINE = 3  # metrics shown in the progress line, the loss first


class Record:
    """Files and messages of one run. Only the first process writes.

    Args:
      config: of the run.
      workdir: made where it is missing.

    Raises:
      CheckpointError: where the workdir holds a run of another config, or cannot be written.
    """

    def __init__(self, config: ConfigDict, workdir: str | Path):
        self.config, self.workdir = config, Path(workdir).absolute()
        self.primary = jax.process_index() == 0
        self._labels = ensemble.labels(config) if ensemble.size(config) > 1 else []
        self._clock, self._writer, self._progress = time.perf_counter(), NullWriter(), None
        self._words: Sequence[str] = ()
        path = self.workdir / "config.json"
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            saved = json.loads(path.read_text()) if path.exists() else None
            if self.primary:
                probe = self.workdir / ".writable"
                probe.write_text("")
                probe.unlink()
        except OSError as error:
            raise CheckpointError(f"cannot write to the workdir {self.workdir}: {error.strerror or error}. "
                                  f"Choose another with --workdir") from error
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path} is not readable as JSON: restore it, or use another --workdir") from error
        if saved is not None:
            lines = configs.differing_keys(configs.completed(saved), json.loads(config.to_json()))
            if lines:
                raise CheckpointError(f"{self.workdir} holds a run of another config:\n  " + "\n  ".join(lines)
                                      + "\nUse another --workdir, or the same config")

    def say(self, text: str) -> None:
        """Prints a line."""
        say(text, self.primary)

    def start(self, mesh, dataset, params) -> None:
        """Writes the config, now that it is known to build; says on what the run runs, and the model's size."""
        if self.primary:
            _write_json(self.workdir / "config.json", json.loads(self.config.to_json()))
        self._words = dataset.train.info.get("vocabulary", ())
        devices = jax.devices()
        shape = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        self.say(f"devices: {len(devices)} x {devices[0].device_kind}{processes}; {self.config.parallel} "
                 f"over mesh ({shape})")
        self.say(f"data: {dataset.name}, {len(dataset.train)} train, {len(dataset.test)} test")
        self.say(parameter_table(params))
        self.parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
        if self._labels:
            self.say(f"ensemble of {len(self._labels)}: {self._labels}")
        self.say(f"outputs: {self.workdir}")

    def open(self, step: int) -> None:
        """Opens the logs at the step that the run starts from; later rows of a killed run are dropped."""
        if step:
            self.say(f"continuing from step {step} of {self.config.steps}"
                     + (": nothing left to train" if step >= self.config.steps else ""))
        if self.primary:
            self._writer = Writer(self.workdir, tensorboard=self.config.tensorboard, config=self.config,
                                  wandb_project=self.config.wandb, keep_until=step or -1)
        self._progress = Progress(self.config.steps, step, self.primary)
        self._clock, self._step = time.perf_counter(), step

    def metrics(self, step: int, values: Mapping[str, Any], count: int) -> None:
        """A row of training metrics: means over the last `count` steps."""
        now = time.perf_counter()
        rate = count / max(now - self._clock, 1e-9)
        self._clock = now
        row = self._row("train", values)
        self._writer.write_scalars(step, row | {"steps_per_second": rate,
                                                "examples_per_second": rate * self.config.batch_size})
        shown = list(dict.fromkeys(["train/loss", *row]))[:_HEADLINE]
        self._progress.update(step, {name: row[name] for name in shown})

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of test metrics."""
        row = self._row("test", values)
        self._writer.write_scalars(step, row)
        text = "  ".join(f"{name} {value:.5g}" for name, value in list(row.items())[:6])
        self._progress.message(f"step {step}: {text}")
        self._clock = time.perf_counter()

    def figures(self, step: int, arrays: Mapping[str, np.ndarray], decode: Callable | None) -> None:
        """Writes figures as PNG and to the logs."""
        if decode is not None:
            arrays = decode(arrays)
        if self.primary:
            _, images = write_figures(self.workdir / "figures", step, arrays, self._words)
            self._writer.write_images(step, images)
        self._clock = time.perf_counter()

    def flush(self) -> None:
        """Returns when the logs are on disk; before a checkpoint, so that no row is missing from before it."""
        self._writer.flush()

    def interrupted(self, step: int) -> dict[str, Any]:
        """Says how to go on."""
        self._close()
        self.say(f"stopped at step {step} of {self.config.steps} and saved; run the same command to continue")
        return {"step": step, "finished": False}

    def finish(self, step: int, values: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Writes `results.json` and the curves; prints the table and where the figures are."""
        self._close()
        metrics, members = {}, {}
        for name, value in values.items():
            value = np.asarray(value)
            if value.ndim == 0:
                metrics[name] = float(value)
            elif self._labels and value.shape == (len(self._labels),):
                metrics[name], members[name] = mean_and_spread(value), value.tolist()
        results = {"finished": True, "step": step, "metrics": metrics, "parameters": self.parameters,
                   "seconds": round(seconds, 2), "versions": versions(), "commit": commit()}
        if self._labels:
            results |= {"members": self._labels, "member_metrics": members}
        if self.primary:
            _write_json(self.workdir / "results.json", results)
            curves(read_metrics(self.workdir), self.workdir / "figures" / "curves.png")
            self.say(results_table({f"test/{name}": value for name, value in metrics.items()}))
            drawn = sorted(path.name for path in (self.workdir / "figures").glob("*.png"))
            last = [name for name in drawn if name.endswith(f"_{step:06d}.png") or name == "curves.png"]
            self.say(f"{step} steps in {seconds:.1f} s; figures in {self.workdir / 'figures'}: {', '.join(last)}")
        return results

    def _row(self, prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
        row = {}
        for name, value in values.items():
            value = np.asarray(value)
            if self._labels and value.shape == (len(self._labels),):
                row[f"{prefix}/{name}"], row[f"{prefix}/{name}_sd"] = mean_and_spread(value)
            elif value.ndim == 0 and not np.isnan(value):
                row[f"{prefix}/{name}"] = float(value)
        return row

    def _close(self) -> None:
        self._writer.close()
        self._progress.close()


def mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation over members; 0 for one."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "jaxae")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    """The commit of the source tree, with a + where it has uncommitted changes; '' outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)
