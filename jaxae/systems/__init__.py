"""Trainable systems by name: `build(config, example)` finds `jaxae/systems/<family>/<system>.py`."""

import difflib
import importlib
import pkgutil

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.systems.base import System


def names() -> list[str]:
    """Names of all systems, such as 'discrete.vq_vae'."""
    found = []
    for family in pkgutil.iter_modules(__path__):
        if family.ispkg:
            package = importlib.import_module(f"{__name__}.{family.name}")
            found += [f"{family.name}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return sorted(found)


def defaults(name: str) -> ConfigDict:
    """The keys of a system's `config.model`, with their defaults."""
    return importlib.import_module(f"{__name__}.{name}").defaults()


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of `config.system`.

    Args:
      config: a whole experiment's config.
      example: shapes (`jax.ShapeDtypeStruct`) of one batch as the system will see it.
      axis_name: mapped axis of the batch under `pmap`.

    Raises:
      ValueError: for a name that is not there, or a config that the system refuses.
    """
    if config.system not in names():
        near = difflib.get_close_matches(config.system, names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"config.system={config.system!r} is not a system{hint} There are: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{config.system}")
    if not hasattr(module, "build"):
        raise ValueError(f"config.system={config.system!r} is a part of systems and none itself: name one that has "
                         "`build`, such as 'discrete.vq_vae'")
    return module.build(config, jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), example), axis_name)
