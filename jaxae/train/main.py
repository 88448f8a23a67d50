"""What the commands under `experiments/` share: flags, devices, errors in one line."""

import logging
import os
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import config_dict, config_flags

from jaxae.train import mistakes
from jaxae.train.config import ConfigError

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and variants, such as configs/vq.py or configs/vq.py:gradient.", lock_config=True)
flags.DEFINE_integer("cpu_devices", 0, "Treat the CPU as this many devices.")
flags.DEFINE_bool("distributed", False, "Join the cluster by jax.distributed.initialize; on by itself under Slurm, "
                  "Open MPI and where JAX_COORDINATOR_ADDRESS is set.")
flags.DEFINE_string("coordinator", "", "host:port of process 0, with --processes and --process.")
flags.DEFINE_integer("processes", 0, "Number of processes.")
flags.DEFINE_integer("process", 0, "Index of this process.")
flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")

_CLUSTER = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "JAX_COORDINATOR_ADDRESS")


def run(main: Callable[[], None]) -> None:
    """Parses the flags, starts the devices, runs `main`; a user's mistake is one line and exit code 1 or 2."""
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def config() -> config_dict.ConfigDict:
    """The config of the flags.

    Raises:
      ConfigError: where none was named.
    """
    if CONFIG.value is None:
        raise ConfigError("name a config: --config=configs/vq.py")
    return CONFIG.value


def _parse(argv):
    try:
        mistakes.check_config_file(argv)
        rest = FLAGS(argv)
        mistakes.check_tuples(argv, CONFIG.value)
    except Exception as error:
        if "--traceback" in argv:
            raise
        _fail(mistakes.explained(error, argv, FLAGS), 2)
    if len(rest) > 1:
        _fail(f"{rest[1]!r} is not a flag: flags start with --, as in --config.steps=100", 2)
    return rest


def _guarded(main):
    try:
        _start_devices()
        main()
    except KeyboardInterrupt:
        _fail("interrupted; the same command starts again", 130)
    except (ValueError, ArithmeticError, ImportError, OSError) as error:
        if FLAGS.traceback:
            raise
        _fail(f"{error}\n(--traceback shows where)" if type(error) in (ValueError, ImportError) else str(error), 1)


def _start_devices() -> None:
    logging.getLogger("jax").setLevel(logging.WARNING)  # absl would show which backends are missing
    if FLAGS.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    several = int(os.environ.get("SLURM_NTASKS", "2")) > 1
    if FLAGS.coordinator:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
    elif FLAGS.distributed or (several and any(name in os.environ for name in _CLUSTER)):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize()


def _fail(text: str, code: int) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    raise SystemExit(code)
