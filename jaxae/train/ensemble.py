"""Several seeds and hyper-parameters of one system side by side under `vmap`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxae.systems.base import State, System


def size(config: ConfigDict) -> int:
    """Number of members: `ensemble` seeds for each set of swept values."""
    return config.ensemble * len(_settings(config.sweep))


def labels(config: ConfigDict) -> list[dict[str, Any]]:
    """The seed and swept values of each member, in order."""
    return [values | {"seed": config.seed + i} for values in _settings(config.sweep)
            for i in range(config.ensemble)]


def seeds(config: ConfigDict) -> list[int]:
    """The seed of each member: member i of one setting is the run with `seed + i`."""
    return [label["seed"] for label in labels(config)]


def ensemble(build: Callable[[ConfigDict], System], config: ConfigDict) -> System:
    """The system whose state, keys, batches and metrics have a leading axis of members.

    Swept values are traced: a system that branches on one in Python cannot sweep it. Evaluation batches and
    the training set are shared; figures are those of the first member.

    Args:
      build: `config -> System` of one member.
      config: with `ensemble` and `sweep`.
    """
    settings = _settings(config.sweep)
    names = list(settings[0])
    values = {name: jnp.repeat(jnp.asarray([s[name] for s in settings]), config.ensemble) for name in names}

    def member(swept) -> System:
        return build(override(config, swept)) if swept else build(config)

    first = build(config)

    def mapped(field: str, axes):
        def call(*args):
            return jax.vmap(lambda swept, *inner: getattr(member(swept), field)(*inner), in_axes=(0, *axes))(
                values, *args)
        return call if values else jax.vmap(getattr(first, field), in_axes=axes)

    def figures(state, batch, key):
        return first.figures(select(state, 0), batch, key[0])

    return first._replace(
        init=mapped("init", (0, None)),
        step=mapped("step", (0, 0, 0)),
        evaluate=mapped("evaluate", (0, None, 0)),
        summary=jax.vmap(first.summary),
        prepare=mapped("prepare", (0, None, 0)) if first.prepare else None,
        figures=figures if first.figures else None)


def select(state: State, i: int) -> State:
    """Member i of a stacked state."""
    return jax.tree.map(lambda x: x[i], state)


def _settings(sweep: Sequence) -> list[dict[str, Any]]:
    """Swept values, zipped: one dict for each position."""
    columns = {name: tuple(values) for name, values in sweep}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"config.sweep: all lists must have the same length, they have {sorted(lengths)}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] or [{}]


def override(config: ConfigDict, swept: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with other values of some keys, which may be traced.

    Args:
      config: stays as it is.
      swept: path of a key, such as 'model.beta', to its value.

    Raises:
      ValueError: for a key that is not there.
    """
    copy = config.copy_and_resolve_references()  # ConfigDict(config) would share the nested dicts
    with copy.unlocked(), copy.ignore_type():
        for path, value in swept.items():
            *parents, leaf = path.split(".")
            node = copy
            for name in parents:
                node = node[name]
            if leaf not in node:
                raise ValueError(f"config.sweep: there is no key config.{path}")
            node[leaf] = value
    return copy
