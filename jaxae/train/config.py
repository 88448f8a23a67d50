"""The keys that every experiment has, their checks, and variants by name.

A config file is a short program: it starts from `base()`, sets its own keys, and names its variants.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping

from ml_collections import ConfigDict

from jaxae import data, optim, systems

# Keys that may change between a run and its continuation: they do not change what was computed so far.
_FREE = ("steps", "log_every", "eval_every", "figures_every", "checkpoint_every", "keep", "tensorboard", "wandb",
         "parallel", "mesh", "rules", "evaluators", "resume", "init_from",
         "init_parts")


class ConfigError(ValueError):
    """A config that cannot be run; the message says what to change."""


def base() -> ConfigDict:
    """The keys of the training loop with their defaults; `model` is the system's own.

    Periods are in steps; 0 switches off. `parallel` is 'jit' (a mesh of `data`, `fsdp` and `tensor` axes, -1 takes
    the devices that are left) or 'pmap'. `rules` are pairs of a regular expression over parameter names and the
    mesh axis of each dimension, such as `(('.*/kernel', (None, 'tensor')),)`. `ensemble` trains that many seeds
    side by side; `sweep` holds pairs of a key and the values that train side by side, such as
    `(("model.beta", (0.5, 1.0, 4.0)),)`. `init_parts` names the entries of the parameters that `init_from` gives, such
    as `("decoder",)`; () takes all of them, of the same model.
    """
    return ConfigDict(dict(
        system="",
        seed=0,
        steps=1000,
        batch_size=100,
        log_every=50,
        eval_every=500,
        figures_every=500,
        checkpoint_every=500,
        prepare_every=0,
        prepare_examples=2000,
        keep=3,
        parallel="jit",
        mesh=dict(data=-1, fsdp=1, tensor=1),
        rules=(),
        ensemble=1,
        sweep=(),
        dtype="float32",
        resume="",
        init_from="",
        init_parts=(),
        autoencoder="",
        evaluators=(),
        tensorboard=True,
        wandb="",
        data=dict(data.DEFAULTS),
        optim=optim.defaults(),
        model=ConfigDict(),
    ))


Variant = Callable[[ConfigDict], None]


def apply_variants(config: ConfigDict, arg: str, variants: Mapping[str, Variant]) -> ConfigDict:
    """Applies the comma-separated variants of `--config=FILE:arg` in order.

    Every config has `tiny`, applied last: two steps on a few examples, for tests and for a first look.

    Raises:
      ConfigError: for a name that the config does not have.
    """
    names = [name for name in arg.split(",") if name]
    for name in names:
        if name not in variants:
            known = sorted({*variants, "tiny"})
            if name != "tiny":
                raise ConfigError(f"unknown variant {name!r}{nearest(name, known)}: choose among {', '.join(known)}")
    for name in (n for n in names if n != "tiny"):
        variants[name](config)
    if "tiny" in names:
        config.update(dict(steps=2, batch_size=8, log_every=1, eval_every=2, checkpoint_every=2,
                           figures_every=2 if config.figures_every else 0,
                           prepare_examples=min(64, config.prepare_examples)))
        config.data.update(dict(num_train=64, num_test=16))
        config.optim.warmup_steps = 0
        if "tiny" in variants:
            variants["tiny"](config)
    return config


def check(config: ConfigDict) -> None:
    """Raises ConfigError for values that no run can have."""
    for key in ("steps", "batch_size", "ensemble", "keep"):
        if getattr(config, key) < 1:
            raise ConfigError(f"config.{key}={getattr(config, key)} must be at least 1")
    if not 0 <= config.seed <= 2**32 - config.ensemble:
        raise ConfigError(f"config.seed={config.seed} must be in [0, 2**32)")
    for key in ("log_every", "eval_every", "figures_every", "checkpoint_every", "prepare_every", "prepare_examples"):
        if getattr(config, key) < 0:
            raise ConfigError(f"config.{key}={getattr(config, key)} must be 0 (off) or a number of steps")
    if config.parallel not in ("jit", "pmap"):
        raise ConfigError(f"config.parallel={config.parallel!r} must be 'jit' or 'pmap'")
    if config.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"config.dtype={config.dtype!r} must be float32, bfloat16 or float16")
    if not config.system:
        raise ConfigError("config.system is empty: name a module under jaxae.systems, such as 'discrete.vq_vae'")
    if config.optim.accumulate < 1:
        raise ConfigError(f"config.optim.accumulate={config.optim.accumulate} must be at least 1")
    if not 0 <= config.optim.average < 1:
        raise ConfigError(f"config.optim.average={config.optim.average} must be in [0, 1)")


def completed(saved: Mapping) -> dict:
    """A saved config, with the defaults of the keys that jaxae did not have yet when it was saved."""
    defaults = base()
    if saved.get("system") in systems.names():
        defaults.model = systems.defaults(saved["system"])
    return _filled(saved, json.loads(defaults.to_json()))


def _filled(saved: Mapping, defaults: Mapping) -> dict:
    filled = {**defaults, **saved}
    for key, value in saved.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            filled[key] = _filled(value, defaults[key])
    return filled


def differing_keys(saved: Mapping, config: Mapping, prefix: str = "") -> list[str]:
    """Lines `key: saved -> now` for the keys that must not change between a run and its continuation."""
    lines = []
    for key in sorted({*saved, *config}):
        if not prefix and key in _FREE:
            continue
        old, new = saved.get(key), config.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differing_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old!r} -> {new!r}")
    return lines


def has_key(config: ConfigDict, path: str) -> bool:
    """Whether a config has the key of a dotted path, such as 'model.beta'."""
    for name in path.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return True


def nearest_key(config: ConfigDict, key: str) -> str:
    """' (did you mean config.steps?)' for a key that the config does not have, '' where nothing is near."""
    paths = list(_paths(config))
    leaf = key.rsplit(".", 1)[-1]
    exact = [path for path in paths if path.rsplit(".", 1)[-1] == leaf]
    return nearest(key, paths, exact, "config.")


def nearest(name: str, known: Iterable[str], preferred: Iterable[str] = (), prefix: str = "") -> str:
    """' (did you mean grey?)' where one of the known names is like it, else ''."""
    near = list(preferred) or difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _paths(config: ConfigDict, prefix: str = ""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _paths(value, f"{prefix}{key}.")
