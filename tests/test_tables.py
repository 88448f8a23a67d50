"""Tables of many models: what is measured again, what stays, and what is dropped."""

import json
import sys
from pathlib import Path

import pytest
from absl import app

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

from claims.tables import measured  # noqa: E402


def test_cells_stay_until_they_are_measured_again_or_the_settings_change(tmp_path):
    def run(chosen, cells, steps=1):
        return measured({"a": 0, "b": 0}, chosen, lambda model: cells, lambda rows: f"{rows}\n", tmp_path / "table",
                        {"steps": steps}, "caption")

    run(["b"], {"x": [1.0], "y": [1.0]})
    run(["b"], {"y": [2.0]})
    assert run(["a"], {"x": [3.0]}) == {"a": {"x": [3.0]}, "b": {"x": [1.0], "y": [2.0]}}
    kept = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert list(kept) == ["a", "b"] and (tmp_path / "table.md").read_text() == f"caption\n\n{kept}\n"
    assert run(["a"], {"x": [4.0]}, steps=2) == {"a": {"x": [4.0]}}
    with pytest.raises(app.UsageError, match="unknown models c: choose among a, b"):
        run(["c"], {})
