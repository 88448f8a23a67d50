"""Many settings of one config trained in one call: traced keys under `vmap`, static ones on the same batches."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import data, systems
from jaxae.systems.base import State, System, Variables, variables
from jaxae.systems.compose import together
from jaxae.train import ensemble
from jaxae.train.config import ConfigError, has_key, nearest_key
from jaxae.train.loop import fit
from jaxae.train.setup import example_of

Setting = Mapping[str, Any]  # path of a key of the config, such as 'model.k' -> its value


class Member(NamedTuple):
    """One trained model of a sweep."""

    setting: dict[str, Any]
    seed: int
    system: System
    variables: Variables
    test: dict[str, float]  # metrics on the test split


def sweep(config: ConfigDict, settings: Sequence[Setting], dataset: "data.Dataset") -> list[Member]:
    """Trains a config with every setting, and `config.ensemble` seeds of each, in one run.

    Keys through which one can trace (`traced_keys`: weights of losses, rates) train side by side under `vmap`; settings
    of the others (numbers of units, names) are programs of their own, which train on the same batches. Either way a
    member learns what it would learn alone.

    Args:
      config: `config.sweep` must be empty.
      settings: the same keys in each, of `config.model` or `config.optim`.
      dataset: what all train on.

    Returns:
      Members in the order of the settings, the seeds of each one after the other.

    Raises:
      ConfigError: for settings that differ in their keys, or keys that the config does not have or that cannot be
        swept.
    """
    settings = [dict(setting) for setting in settings]
    _check(config, settings)
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, config.batch_size), jax.random.key(0))
    traced = traced_keys(config, settings, example)
    groups: dict[tuple, list[int]] = {}  # static values -> the settings that have them
    for i, setting in enumerate(settings):
        groups.setdefault(tuple((k, v) for k, v in setting.items() if k not in traced), []).append(i)
    found: dict[int, list[Member]] = {}
    for size in sorted({len(group) for group in groups.values()}):  # programs of one call have as many members each
        same = [(static, group) for static, group in groups.items() if len(group) == size]
        configs = [_with(config, static, [settings[i] for i in group], traced) for static, group in same]
        for one, (_, group), (state, test) in zip(configs, same, _trained(configs, dataset, example), strict=True):
            system = systems.build(_with(one, (), (), ()), example)
            for j, i in enumerate(np.repeat(group, config.ensemble)):
                member = ensemble.select(state, j) if ensemble.size(one) > 1 else state
                numbers = {metric: float(value[j]) for metric, value in test.items()}
                found.setdefault(int(i), []).append(
                    Member(settings[i], ensemble.seeds(one)[j], system, variables(member), numbers))
    return [member for i in range(len(settings)) for member in found[i]]


def reported(config: ConfigDict, setting: Setting, dataset: "data.Dataset") -> tuple[str, ...]:
    """The test metrics that members of a setting will have; nothing is computed."""
    example = jax.eval_shape(dataset.test_transform, example_of(dataset, config.batch_size), jax.random.key(0))
    system, key = systems.build(ensemble.override(config, setting), example), jax.random.key(0)
    found = jax.eval_shape(lambda batch: system.summary(system.evaluate(system.init(key, batch), batch, key)), example)
    return tuple(name for name, value in found.items() if not value.shape)


def traced_keys(config: ConfigDict, settings: Sequence[Setting], example: PyTree) -> tuple[str, ...]:
    """The keys whose values may be traced: the system does not branch on them, nor take a shape from them.

    Args:
      config: of the system.
      settings: the values.
      example: shapes of a batch as the system sees it.
    """
    numbers = [key for key in settings[0] if all(isinstance(s[key], int | float) and not isinstance(s[key], bool)
                                                 for s in settings)]
    # What one setting leaves unused another may read: both ends of the list are tried.
    return tuple(key for key in numbers if all(_can_be_traced(config, key, setting, example)
                                               for setting in (settings[0], settings[-1])))


def _can_be_traced(config: ConfigDict, path: str, setting: Setting, example: PyTree) -> bool:
    key = jax.random.key(0)

    def run(value, batch):
        system = systems.build(ensemble.override(config, {**setting, path: value}), example)
        state = system.init(key, batch)
        state = system.prepare(state, batch, key) if system.prepare else state
        return system.step(state, batch, key), system.evaluate(state, batch, key)

    try:
        jax.eval_shape(run, jnp.asarray(setting[path]), example)
    except (TypeError, ValueError):  # jax's errors on tracers in the place of values are among them
        return False
    return True


def _with(config: ConfigDict, static: Sequence[tuple[str, Any]], settings: Sequence[Setting],
          traced: Sequence[str]) -> ConfigDict:
    one = ensemble.override(config, dict(static))
    one.sweep = tuple((key, tuple(setting[key] for setting in settings)) for key in traced)
    return one


def _trained(configs: Sequence[ConfigDict], dataset, example) -> list[tuple[State, dict[str, np.ndarray]]]:
    """State and test metrics `[members]` of each config; all have as many members."""
    first, members = configs[0], ensemble.size(configs[0])
    build = partial(systems.build, example=example)
    parts = {str(i): ensemble.ensemble(build, c) if members > 1 else build(c) for i, c in enumerate(configs)}
    seeds = jnp.asarray(ensemble.seeds(first), jnp.uint32)
    key = jax.vmap(jax.random.key)(seeds) if members > 1 else jax.random.key(first.seed)
    state, history = fit(together(parts), dataset, first.steps, key, batch_size=first.batch_size,
                         prepare_every=first.prepare_every, prepare_examples=first.prepare_examples)
    results = []
    for name in parts:
        test = {metric.removeprefix(f"test/{name}/"): np.atleast_1d(value) for metric, value in history[-1].items()
                if metric.startswith(f"test/{name}/") and np.atleast_1d(value).shape == (members,)}
        results.append((State(*(field[name] for field in state[:-1]), state.step), test))
    return results


def _check(config: ConfigDict, settings: Sequence[Setting]) -> None:
    if not settings or any(setting.keys() != settings[0].keys() for setting in settings):
        raise ConfigError("a sweep wants at least one setting, and the same keys in each")
    if config.sweep:
        raise ConfigError("leave config.sweep empty: settings are swept already")
    for path in settings[0]:
        if not has_key(config, path):
            raise ConfigError(f"there is no key config.{path}{nearest_key(config, path)}")
        if not path.startswith(("model.", "optim.")):
            raise ConfigError(f"config.{path} cannot be swept, as all settings train on the same batches: sweep keys "
                              "of config.model or config.optim")


__all__ = ["Member", "reported", "sweep", "traced_keys"]
