"""What other libraries give on seeded inputs is still what `tests/golden` holds (extra `parity`)."""

import runpy
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parity
@pytest.mark.parametrize("script", sorted(GOLDEN.glob("*.py")), ids=lambda script: script.stem)
def test_other_libraries_give_what_is_frozen(script, monkeypatch):
    written = {}
    monkeypatch.setattr(np, "savez_compressed", lambda path, **arrays: written.update(path=path, arrays=arrays))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed: pip install -e '.[parity]'")
    assert Path(written["path"]) == script.with_suffix(".npz")
    with np.load(script.with_suffix(".npz")) as frozen:
        found = {name: np.asarray(value) for name, value in written["arrays"].items() if "version" not in name}
        assert found.keys() == {name for name in frozen.files if "version" not in name}
        for name, value in found.items():
            if np.issubdtype(value.dtype, np.floating):
                np.testing.assert_allclose(value, frozen[name], rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(value, frozen[name], err_msg=name)
