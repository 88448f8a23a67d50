"""Tables of many models, measured row by row; what stands there from an earlier run with the same settings stays."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import app

Rows = dict[str, dict[str, list[float]]]  # model -> measure -> one number for each seed


def measured(models: Mapping, chosen: Sequence[str], row: Callable[[str], dict], table: Callable[[Rows], str],
             path: Path, settings: dict, caption: str) -> Rows:
    """Measures the chosen rows, writing `path` as .json and .md after each, and prints the whole table.

    Numbers that stand in a row and that `row` does not measure again stay, so that a row may be filled cell by cell.

    Args:
      models: all rows there are, in the order of the table.
      chosen: those to measure anew.
      row: name -> numbers.
      table: rows -> Markdown.
      path: without a suffix.
      settings: rows of other settings are dropped.
      caption: over the table.

    Raises:
      app.UsageError: for names that are not there.
    """
    unknown = sorted({*chosen} - {*models})
    if unknown:
        raise app.UsageError(f"unknown models {', '.join(unknown)}: choose among {', '.join(models)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = path.with_suffix(".json")
    found = json.loads(numbers.read_text()) if numbers.exists() else {}
    rows = found["rows"] if found.get("settings") == settings else {}
    for model in chosen:
        rows[model] = rows.get(model, {}) | row(model)
        print(table({model: rows[model]}).splitlines()[-1], flush=True)
        rows = {name: rows[name] for name in models if name in rows}
        numbers.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
        path.with_suffix(".md").write_text(f"{caption}\n\n{table(rows)}")
    print(table(rows))
    return rows
