"""1 device = 8 devices (jit over data and fsdp, pmap) = 2 processes x 4 devices: parameters, codebook, counters."""

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import parallel_case
import pytest
from commands import QUICK_COMPILATION

HERE = Path(__file__).parent


@cache
def reference(case):
    """On one device: after 1 step and after 20."""
    return parallel_case.run(case, "one")


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, want in expected.items():
        # Relative to the array's scale: single entries near zero carry the rounding of the large ones.
        scale = max(float(np.abs(want).max()), 1e-3)
        np.testing.assert_allclose(found[name] / scale, want / scale, atol=1e-5, err_msg=name)


GRID = [(case, layout) for case in sorted(parallel_case.CASES) for layout in ("data", "fsdp", "pmap")
        if layout != "fsdp" or not case.startswith("sae")]  # one of which stands for them


@pytest.mark.parametrize("case, layout", [*GRID, ("sae_topk", "fsdp"), ("sae_topk", "tensor"),
                                          ("sae_batch_topk", "tensor")])
def test_eight_devices_give_what_one_gives(case, layout):
    after_one, after_twenty = parallel_case.run(case, layout)
    assert_same(after_one, reference(case)[0])
    assert_same(after_twenty, reference(case)[1])


@pytest.mark.parametrize("layout", ["data", "fsdp", "pmap"])
@pytest.mark.parametrize("case", ["vq_ema", "vae"])
def test_two_processes_of_four_devices_give_what_one_gives(case, layout, tmp_path):
    out = tmp_path / "state.npz"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count=4 {QUICK_COMPILATION}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
    workers = [subprocess.Popen(
        [sys.executable, str(HERE / "parallel_case.py"), case, layout, str(out), coordinator, "2", str(i)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for i in range(2)]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)[-3000:]
    with np.load(out) as found:
        assert_same(dict(found), reference(case)[1])
