"""What the commands under `experiments/` share: flags, devices, errors in one line."""

import logging
import os
import re
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import config_dict, config_flags

from jaxae.train.config import ConfigError, nearest_key

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


def _parse(argv):
    try:
        return FLAGS(argv)
    except Exception as error:
        if "--traceback" in argv:
            raise
        _fail(_explained(error, argv), 2)


def _guarded(main):
    try:
        _start_devices()
        main()
    except (ValueError, ArithmeticError, ImportError, FileNotFoundError) as error:
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


def _explained(error: Exception, argv) -> str:
    """One line for what absl and ml_collections raise about a flag."""
    text = str(error).strip().strip("\"'")
    if isinstance(error, ConfigError):
        return text
    if isinstance(error, FileNotFoundError):
        return f"there is no config file: {text}"
    wrong = [m for m in (re.match(r"--?config\.([\w.]+)", word) for word in argv) if m]
    for match in wrong:
        config = _config_of(argv)
        if config is not None and not _has(config, match.group(1)):
            return f"unknown key config.{match.group(1)}{nearest_key(config, match.group(1))}"
    return re.sub(r"^flag --config\.", "config.", text.splitlines()[0] if text else repr(error))


def _config_of(argv) -> config_dict.ConfigDict | None:
    """The config file's own config, without overrides."""
    for i, word in enumerate(argv):
        match = re.match(r"--?config(?:=(.*))?$", word)
        if match:
            path, _, arg = (match.group(1) or argv[i + 1]).partition(":")
            space: dict = {"__file__": path, "__name__": "config"}
            try:
                with open(path) as file:
                    exec(compile(file.read(), path, "exec"), space)
                return space["get_config"](arg)
            except Exception:
                return None
    return None


def _has(config, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(config, config_dict.ConfigDict) or name not in config:
            return False
        config = config[name]
    return True


def _fail(text: str, code: int) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    raise SystemExit(code)
