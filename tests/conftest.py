"""Eight CPU devices in every test process, quick compilation (both set before jax starts), and bounded memory maps.

With `--dist loadgroup`, tests that share an expensive fixture or reference run in one process.
"""

import itertools
import os
from pathlib import Path

import pytest
from commands import QUICK_COMPILATION

# Eight devices share two cores with other work: XLA ends the process when one of them is forty seconds late.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", QUICK_COMPILATION,
    "--xla_cpu_collective_call_terminate_timeout_seconds=600", "--xla_cpu_collective_timeout_seconds=600"])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
MAPS = Path("/proc/self/maps")
_TESTS = itertools.count(1)
_TOGETHER = {"test_readme", "test_resume"}  # one command goes on where another has been


def pytest_collection_modifyitems(items):
    for item in items:
        values = getattr(item, "callspec", None) and item.callspec.params
        if item.path.stem in _TOGETHER:
            group = item.path.stem
        elif item.path.stem == "test_parallel":  # each case has a reference
            group = f"parallel {values['case']}"
        elif "autoencoder" in item.fixturenames and item.path.stem == "test_configs":
            group = f"priors of {values['name']}"
        else:
            continue
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def compiled_programs_are_dropped():
    """Each compiled program keeps memory maps: a thousand tests in one process pass Linux's limit (65,530), and XLA
    then crashes. So programs go once a process is half the way there; counting takes milliseconds, hence now and then.
    """
    yield
    if next(_TESTS) % 10 == 0 and (not MAPS.exists() or MAPS.read_bytes().count(b"\n") > 30_000):
        import jax

        jax.clear_caches()
