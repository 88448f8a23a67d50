"""The real command, `python experiments/run.py`, in a process of its own, and what it leaves in a workdir."""

import atexit
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# Compiled programs are shared between the commands of a test session: compiling is most of what a short run does.
_CACHE = tempfile.TemporaryDirectory(prefix="jaxae-compiled-")
atexit.register(_CACHE.cleanup)
_TIME = ("steps_per_second", "examples_per_second")  # the only metrics that two equal runs do not share
_TIMEOUT = 300
# Compiling is most of what tests do. jax 0.10 compiles three times as fast without its new emitters of fused loops;
# later versions have no others and refuse the flag.
_OLD_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")
QUICK_COMPILATION = " ".join(["--xla_backend_optimization_level=0",
                              *["--xla_cpu_use_fusion_emitters=false"] * _OLD_EMITTERS])


class Result(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    text: str  # stdout and stderr


def environment(cached: bool = True) -> dict[str, str]:
    """One CPU device, and quick compilation."""
    added = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILATION}
    if cached:
        added |= {"JAX_COMPILATION_CACHE_DIR": _CACHE.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return os.environ | added


def start(*flags: str, cached: bool = True) -> subprocess.Popen:
    """Starts the command; its output is one stream of text."""
    return subprocess.Popen([sys.executable, "experiments/run.py", *map(str, flags)], cwd=ROOT,
                            env=environment(cached), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(*flags: str) -> Result:
    """Runs the command to its end."""
    process = start(*flags)
    text, _ = process.communicate(timeout=_TIMEOUT)
    return Result(process.returncode, text)


def finish(*flags: str) -> str:
    """Runs the command, which has to succeed; returns what it printed."""
    result = run(*flags)
    assert result.code == 0, result.text
    return result.text


def read_until(process: subprocess.Popen, pattern: str, times: int = 1) -> str:
    """Reads output until a line matches for the n-th time; the process is then still under way."""
    seen, alarm = [], threading.Timer(_TIMEOUT, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            seen.append(line)
            times -= bool(re.search(pattern, line))
            if not times:
                return "".join(seen)
    finally:
        alarm.cancel()
    raise AssertionError(f"the command ended before {pattern!r} was seen:\n" + "".join(seen))


def rest(process: subprocess.Popen) -> Result:
    """What the process prints until it ends."""
    text, _ = process.communicate(timeout=_TIMEOUT)
    return Result(process.returncode, text)


def mistake(result: Result, *expected: str) -> str:
    """Asserts that the command failed with one clear message, which names what to change; returns the message."""
    assert result.code not in (0, None), result.text
    assert "Traceback" not in result.text, result.text
    messages = re.findall(r"^error: .*(?:\n  .*)*", result.text, re.M)
    assert len(messages) == 1, result.text
    for part in expected:
        assert part in result.text[result.text.index("error: "):], f"{part!r} is not in: {result.text}"
    return messages[0]


def rows(workdir: Path) -> list[dict]:
    """The rows of `metrics.jsonl` in the order written, without those that measure time. Every line must be whole."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in _TIME} for line in lines]


def steps(workdir: Path) -> list[int]:
    """Steps that have a checkpoint."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def leaves(workdir: Path, step: int | None = None) -> dict:
    """Every array of a checkpoint, the newest by default, by its name: what orbax reads, without our code."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    path = workdir.absolute() / "checkpoints" / str(steps(workdir)[-1] if step is None else step) / "state"
    with ocp.StandardCheckpointer() as reader:
        state = reader.restore(path)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_equal_runs(workdir: Path, reference: Path) -> None:
    """The last checkpoints are equal in every bit, and the rows of metrics in number, order and value."""
    import numpy as np

    found, wanted = leaves(workdir), leaves(reference)
    assert found.keys() == wanted.keys() and len(wanted) > 20
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert rows(workdir) == rows(reference)


def contents(workdir: Path) -> dict[str, str]:
    """A digest of every file below a workdir."""
    return {str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(workdir.rglob("*")) if path.is_file()}
