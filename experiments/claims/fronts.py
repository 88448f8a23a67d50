"""Pareto fronts of trained models: what is swept, the table and the figure."""

import ast
import itertools
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from claims.training import mean_sd
from jaxae import metrics
from jaxae.train.config import ConfigError
from jaxae.train.logging import say
from jaxae.train.sweeps import Member, sweep


class Family(NamedTuple):
    """One `--over`."""

    variants: str  # '' is the config as it is
    names: tuple[str, ...]  # keys in all of whose values there is a line
    along: str  # the key along a line
    settings: list[dict[str, Any]]


def family(text: str) -> Family:
    """What an `--over` says.

    Raises:
      ConfigError: where it is not of that form.
    """
    head, colon, tail = text.partition(":")
    variants, keys = (head.strip(), tail) if colon and "=" not in head else ("", text)
    values = {}
    for word in keys.split():
        key, _, listed = word.partition("=")
        values[key] = [_value(v) for v in listed.split(",") if v]
    if not values or not all(values.values()):
        raise ConfigError(f"--over={text!r} must be FAMILY:KEY=VALUE,VALUE, such as relu:model.l1=0.01,0.02")
    settings = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    *names, along = values
    return Family(variants, tuple(names), along, settings)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def label(one: Family, setting: dict[str, Any], default: str) -> str:
    """The name of the line of a setting: variants, names as they are, and numbers with their key."""
    words = [one.variants.replace("+", " ")] + [
        str(setting[key]) if isinstance(setting[key], str) else f"{_leaf(key)} {setting[key]}" for key in one.names]
    return " ".join(filter(None, words)) or default


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def row(line: str, along: str, members: list[Member]) -> dict[str, Any]:
    """Numbers of the seeds of one setting."""
    found = {"line": line, "key": along, "value": members[0].setting[along], "setting": members[0].setting,
             "test": {name: [m.test[name] for m in members] for name in members[0].test}}
    atoms = [m.variables.params.get("decoder") if isinstance(m.variables.params, dict) else None for m in members]
    if len(members) > 1 and all(getattr(a, "ndim", 0) == 2 for a in atoms):
        found["pw_mcc"] = metrics.pw_mcc(atoms, "hungarian" if len(atoms[0]) <= 2048 else "greedy").mean
    return found


def front(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[n]`: whether no other point is as small in both and smaller in one."""
    less = (x[:, None] <= x) & (y[:, None] <= y) & ((x[:, None] < x) | (y[:, None] < y))
    return ~less.any(0)


def table(rows: list[dict], columns: list[str], x: str, y: str) -> str:
    """Markdown: mean +- standard deviation over seeds; starred what is on the front of the means."""
    best = front(*(np.array([np.mean(r["test"][name]) for r in rows]) for name in (x, y)))
    agree = any("pw_mcc" in r for r in rows)
    lines = [f"| | {' | '.join(columns)} |" + (" PW-MCC |" if agree else ""), "|---" * (len(columns) + 1 + agree) + "|"]
    for r, starred in zip(rows, best, strict=True):
        cells = [mean_sd(r["test"][c]) for c in columns] + ([f"{r['pw_mcc']:.3f}" if "pw_mcc" in r else ""]
                                                          if agree else [])
        star = " *" if starred else ""
        lines.append(f"| {r['line']}, {_leaf(r['key'])} {r['value']}{star} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(rows: list[dict], x: str, y: str, beside: str, path: Path) -> None:
    """y over x and, beside it, another metric over x: a line for each family, bars of one deviation over seeds."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [y] + [beside] * bool(beside)
    canvas, axes = plt.subplots(1, len(panels), figsize=(1.6 + 4.6 * len(panels), 4.4), squeeze=False,
                                layout="constrained")
    for i, line in enumerate(dict.fromkeys(r["line"] for r in rows)):
        own = sorted((r for r in rows if r["line"] == line), key=lambda r: np.mean(r["test"][x]))
        across, across_sd = _moments(own, x)
        for place, name in zip(axes[0], panels, strict=True):
            value, spread = _moments(own, name)
            place.errorbar(across, value, spread, across_sd, marker="os^Dv<>P"[i % 8], markersize=5, color=f"C{i % 10}",
                           label=f"{line}, by {_leaf(own[0]['key'])}", elinewidth=1)
    for place, name in zip(axes[0], panels, strict=True):
        for axis, metric in (("x", x), ("y", name)):
            values = _moments(rows, metric)[0]
            if values.min() > 0 and values.max() > 4 * values.min():
                _log_axis(place, axis, values)
        place.set(xlabel=_NAMES.get(x, x), ylabel=_NAMES.get(name, name))
        place.grid(alpha=0.3)
    handles, names = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


_NAMES = {"l0": "mean active atoms (L0)", "fvu": "share of variance not explained (FVU)", "dead": "share of dead atoms"}


def _moments(rows: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([r["test"][name] for r in rows], float)
    return values.mean(1), values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros(len(rows))


def _log_axis(place, axis: str, values: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    getattr(place, f"set_{axis}scale")("log")
    shown = getattr(place, f"{axis}axis")
    shown.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    shown.set_major_formatter(StrMethodFormatter("{x:g}"))
    shown.set_minor_formatter(NullFormatter())


def columns(x: str, y: str, beside: str) -> list[str]:
    """The metrics that are shown."""
    return [name for name in (x, y, beside) if name]


def check_metrics(names: Iterable[str], known: Collection[str]) -> None:
    """Raises ConfigError for metrics that a family does not report."""
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no test metric {name!r}: choose --x, --y and --beside among "
                              f"{', '.join(sorted(known))}")


def measured(families: list[Family], configs: list, dataset, default: str) -> list[dict[str, Any]]:
    """A row for each setting of each family."""
    rows = []
    for one, config in zip(families, configs, strict=True):
        seeds = config.ensemble
        say(f"{one.variants or default}: {len(one.settings)} settings of {', '.join(one.settings[0])}, {seeds} seeds, "
            f"{config.steps} updates of {config.batch_size} ...")
        members = sweep(config, one.settings, dataset)
        rows += [row(label(one, setting, default), one.along, members[i * seeds:(i + 1) * seeds])
                 for i, setting in enumerate(one.settings)]
    return rows


def write(rows: list[dict], folder: Path, x: str, y: str, beside: str, settings: dict[str, Any]) -> str:
    """Writes the three files; returns the table.

    Raises:
      ConfigError: for metrics that a row does not have.
    """
    shown = columns(x, y, beside)
    check_metrics(shown, set.intersection(*(set(r["test"]) for r in rows)))
    folder.mkdir(parents=True, exist_ok=True)
    text = table(rows, shown, x, y)
    (folder / "pareto.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    caption = "; ".join(f"{name}: {value}" for name, value in settings.items())
    (folder / "pareto.md").write_text(f"{caption}; * is not beaten in both {x} and {y}.\n\n{text}")
    figure(rows, x, y, beside, folder / "pareto.png")
    return text
