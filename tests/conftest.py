"""Eight CPU devices in every test process, quick compilation (both set before jax starts), and bounded memory maps."""

import os

import pytest

os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8",
                                    "--xla_backend_optimization_level=0"])
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """Each compiled program keeps memory maps: a thousand tests in one process pass Linux's limit (65,530), and XLA
    then crashes. So a module's programs go when the module is over."""
    yield
    import jax

    jax.clear_caches()
