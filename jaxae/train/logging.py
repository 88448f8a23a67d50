"""What a run tells a person: metric files, tables, progress. Text goes to stdout, the bar to stderr."""

import json
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, SupportsFloat, SupportsInt

import jax
import numpy as np
from jaxtyping import PyTree
from tqdm import tqdm

from jaxae.train.plots import as_uint8

_METRICS = "metrics.jsonl"
# JSON has no such numbers: these are the strings of protobuf's JSON mapping.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Writer:
    """Writes scalars and images to `metrics.jsonl`, TensorBoard and Weights & Biases, by clu's method names.

    A line of `metrics.jsonl` is `{"step": 100, "train/loss": 0.69}`, in strict JSON: NaN and infinities are
    the strings "NaN", "Infinity", "-Infinity". A line reaches the operating system when it is written, the
    disk at `flush`. Call `close` at the end (`contextlib.closing` does): TensorBoard's thread needs it.

    Args:
      workdir: directory of the run; made if missing.
      tensorboard: also write TensorBoard events into `workdir`.
      wandb_project: also log to this Weights & Biases project; empty for none. The run's id is kept in the
        workdir, so that a resumed run goes on in the same curves.
      config: shown by Weights & Biases as the run's configuration.
      keep_until: the step that the run resumes from: later rows are dropped, as they will be written again.
        -1 starts afresh; None keeps all rows and appends. A line torn by a kill is always dropped.

    Raises:
      ImportError: `wandb_project` is given and wandb is not installed.
    """

    def __init__(self, workdir: str | os.PathLike, *, tensorboard: bool = True, wandb_project: str = "",
                 config: Any = None, keep_until: int | None = None):  # fmt: skip
        if wandb_project:
            try:
                import wandb
            except ImportError:
                raise ImportError("wandb_project needs wandb: pip install 'jaxae[wandb]'") from None
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        _repair(workdir / _METRICS, keep_until)
        self._file = open(workdir / _METRICS, "a", encoding="utf-8", buffering=1)
        self._tensorboard = self._wandb = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            # File names count whole seconds: without a suffix a quick restart overwrites earlier events.
            suffix = f".{time.time_ns() % 10**9:09d}"
            purge_step = None if keep_until is None else keep_until + 1
            self._tensorboard = SummaryWriter(str(workdir), purge_step=purge_step, filename_suffix=suffix)
        if wandb_project:
            identity = workdir / "wandb_id.txt"
            if keep_until == -1 or not identity.exists():
                identity.write_text(uuid.uuid4().hex[:12])
            config = config.to_dict() if hasattr(config, "to_dict") else config
            same = {"id": identity.read_text(), "resume": "allow"}
            self._image = wandb.Image
            self._wandb = wandb.init(project=wandb_project, config=config, dir=str(workdir), **same)

    def write_scalars(self, step: SupportsInt, scalars: Mapping[str, SupportsFloat]) -> None:
        """Writes one row: the step and `{name: number}`."""
        if "step" in scalars:
            raise ValueError("a metric may not be named 'step': that key of a row holds the step")
        row = {name: _scalar(value, name) for name, value in scalars.items()}
        line = {"step": int(step)} | {name: _strict(value) for name, value in row.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._tensorboard:
            for name, value in row.items():
                self._tensorboard.add_scalar(name, value, int(step))
        if self._wandb:
            self._wandb.log(row, step=int(step))

    def write_images(self, step: SupportsInt, images: Mapping[str, Any]) -> None:
        """Writes `{name: [h w c] or [h w]}`, floats in [0, 1] or uint8; not into `metrics.jsonl`."""
        pixels = {name: as_uint8(image) for name, image in images.items()}
        if self._tensorboard:
            for name, image in pixels.items():
                self._tensorboard.add_image(name, image, int(step), dataformats="HWC"[: image.ndim])
        if self._wandb:
            self._wandb.log({name: self._image(image) for name, image in pixels.items()}, step=int(step))

    def flush(self) -> None:
        """Returns when all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes everything; a second call does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()
            if self._tensorboard:
                self._tensorboard.close()
            if self._wandb:
                self._wandb.finish()


class NullWriter:
    """A `Writer` that writes nothing: for all processes but the first."""

    def write_scalars(self, step: SupportsInt, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    write_images, close = write_scalars, flush


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, in the order written; NaN and infinities are floats again.

    Torn lines are left out; the list is empty if the file is missing.
    """
    rows = (row for _, row in _rows(Path(workdir) / _METRICS))
    return [{k: _NOT_FINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]


def parameter_table(params: PyTree, longest: int = 40) -> str:
    """A table of name, shape, dtype and count for every array, with the total in the last row.

    Args:
      params: pytree of arrays, or of the shapes that `jax.eval_shape` gives.
      longest: with more arrays, one row for each branch of the first level at which the tree branches.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    level = None
    if len(leaves) > longest:  # the top may have one branch only, as flax's {"params": ...} has
        level = next(n for n in range(1, len(leaves)) if len({path[:n] for path, _ in leaves}) > 1)
    groups: dict[str, list[Any]] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path[:level], simple=True, separator="/")
        groups.setdefault(name + ("/*" if path[:level] != path else ""), []).append(leaf)
    rows = [("name", "shape", "dtype", "count")]
    for name, group in [*groups.items(), ("total", [leaf for _, leaf in leaves])]:
        shape = f"{len(group)} arrays" if level or name not in groups else str(tuple(group[0].shape))
        dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in group}))
        rows.append((name, shape, dtypes, f"{sum(math.prod(leaf.shape) for leaf in group):,}"))
    return _table(rows, right=3)


def results_table(rows: Mapping[str, Any]) -> str:
    """A table of metrics, aligned at the decimal point; names, and the units in them, stay as they are.

    Args:
      rows: `{name: number or (mean, standard deviation)}`; a pair is printed to the deviation's second digit.

    >>> print(results_table({"test/elbo (nats)": -98.3149, "codes used": 37, "test/fid": (12.3456, 0.4321)}))
    metric            value
    ----------------  -------------
    test/elbo (nats)  -98.315
    codes used         37
    test/fid           12.35 ± 0.43
    """
    values = [_spread(*v) if isinstance(v, tuple | list) else _number(v) for v in rows.values()]
    whole = [len(value.split()[0].split(".")[0]) for value in values]
    cells = [" " * (max(whole) - n) + value for n, value in zip(whole, values, strict=True)]
    return _table([("metric", "value"), *zip(rows, cells, strict=True)])


class Progress:
    """A progress bar at a terminal; elsewhere a plain line for every report.

    Args:
      total: steps of the whole run.
      initial: the step that the run starts from.
      enabled: False prints nothing: for all processes but the first.
    """

    def __init__(self, total: int, initial: int = 0, enabled: bool = True):
        self._total, self._enabled = total, enabled
        self._last = (initial, perf_counter())
        self._compiled = None  # step and time of the first report: compilation lies before it
        self._bar = None
        if enabled and _at_terminal():
            self._bar = tqdm(total=total, initial=initial, unit=" steps", dynamic_ncols=True)

    def update(self, step: SupportsInt, metrics: Mapping[str, SupportsFloat] | None = None) -> None:
        """Moves to `step`, and reports `metrics`, numbers that are fetched already, if there are any."""
        shown = {name.removeprefix("train/"): _number(value) for name, value in (metrics or {}).items()}
        if self._bar is not None:
            self._bar.update(int(step) - self._bar.n)
            if shown:
                self._bar.set_postfix(shown)
        elif shown and self._enabled:
            now, since = (int(step), perf_counter()), self._compiled or self._last
            parts = [f"step {now[0]}/{self._total} ({100 * now[0] // max(self._total, 1)}%)"]
            parts += [f"{name} {value}" for name, value in shown.items()]
            if now[0] > self._last[0] and now[1] > self._last[1]:
                rate = (now[0] - self._last[0]) / (now[1] - self._last[1])
                left = (self._total - now[0]) * (now[1] - since[1]) / (now[0] - since[0])
                parts.append(f"{rate:.3g} steps/s" + ("" if self._compiled else " (with compilation)"))
                parts.append(f"ETA {tqdm.format_interval(max(left, 0))}")
                self._compiled = self._compiled or now
            self._last = now
            say("  ".join(parts))

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        say(text, self._enabled)

    def close(self) -> None:
        """Leaves the bar as it stands; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()


def say(text: str, primary: bool = True) -> None:
    """Prints to stdout at once, without breaking a progress bar, if this is the `primary` process."""
    if primary:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def _at_terminal() -> bool:
    # Some containers have terminals of width 0, where a bar would show nothing.
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines and rows of a file, without what a kill or a full disk left of a line."""
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            row = json.loads(line.decode())
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield line, row


def _repair(path: Path, keep_until: int | None) -> None:
    """Drops torn rows and those after `keep_until`; at every moment the file is the old or the new one."""
    lines = [line + b"\n" for line, row in _rows(path) if keep_until is None or row["step"] <= keep_until]
    if path.exists() and b"".join(lines) != path.read_bytes():
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _strict(value: float | int) -> float | int | str:
    return value if math.isfinite(value) else str(value).replace("inf", "Infinity").replace("nan", "NaN")


def _scalar(value: Any, name: str = "") -> float | int:
    value = np.asarray(value)
    if value.shape != ():
        raise ValueError(f"metric {name!r} has shape {value.shape}: reduce it to one number")
    return int(value) if value.dtype.kind in "biu" else float(value)


def _number(value: Any) -> str:
    value = _scalar(value)
    return f"{value:.0f}" if isinstance(value, int) or 1e5 <= abs(value) < 1e7 else f"{value:.5g}"


def _spread(mean: SupportsFloat, sd: SupportsFloat) -> str:
    mean, sd = float(mean), float(sd)
    if 1e-6 < sd < math.inf and abs(mean) < 1e7:
        decimals = max(0, 1 - math.floor(math.log10(sd)))
        return f"{mean:.{decimals}f} ± {sd:.{decimals}f}"
    return f"{_number(mean)} ± {_number(sd)}"


def _table(rows: Sequence[tuple[str, ...]], right: int | None = None) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in [rows[0], tuple("-" * width for width in widths), *rows[1:]]:
        cells = [c.rjust(widths[i]) if i == right else c.ljust(widths[i]) for i, c in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
