"""What a run starts from: a fresh state, or another run's."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxae.systems.base import State
from jaxae.train import config as configs
from jaxae.train.checkpoint import Checkpoints
from jaxae.train.program import Program


def initial(config: ConfigDict, program: Program) -> tuple[int, State, dict]:
    """A fresh state, or one that starts from another run (`resume`: all of it, `init_from`: its parameters)."""
    source = config.resume or config.init_from
    if not source:
        return 0, program.init(), {}
    name = f"config.{'resume' if config.resume else 'init_from'}={source!r}"
    directory = Path(source)
    directory = directory / "checkpoints" if (directory / "checkpoints").is_dir() else directory
    if not directory.is_dir():
        raise configs.ConfigError(f"{name}: there is no such workdir")
    other = Checkpoints(directory, read_only=True)
    if not other.steps():
        raise configs.ConfigError(f"{name}: there is no checkpoint in it")
    if config.resume:
        found = other.restore(program.abstract)
        if found[0] >= config.steps:
            raise configs.ConfigError(f"{name} is at step {found[0]}: set config.steps above that")
    else:
        abstract, parts = program.abstract.params, tuple(config.init_parts)
        unknown = sorted({*parts} - {*abstract})
        if unknown:
            raise configs.ConfigError(f"config.init_parts: the parameters have {', '.join(abstract)}, not "
                                      f"{', '.join(unknown)}")
        params, state = other.restore_params(abstract, parts), program.init()
        found = 0, state._replace(params=state.params | params if parts else params), {}
    other.close()
    return found


def first_preparation(config: ConfigDict, state: State, prepare: Callable[[State], State]) -> State:
    """The state that `prepare`, which may donate it, fits to the data; what `init_from` gave stays as it is."""
    if config.resume or not config.init_from:
        return prepare(state)
    names = tuple(config.init_parts)
    given = jax.tree.map(jnp.array, {name: state.params[name] for name in names} if names else state.params)
    found = prepare(state)
    params = found.params | given if names else given
    average = jax.tree.map(jnp.array, params) if jax.tree.leaves(found.average) else found.average
    return found._replace(params=params, average=average)
