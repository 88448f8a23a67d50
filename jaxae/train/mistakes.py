"""One line for what is wrong with a command line: what absl and ml_collections say about it is for programmers."""

import difflib
import os
import re
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from jaxae.train.config import ConfigError, has_key, nearest, nearest_key

_KINDS = {"int": "a whole number, such as 8", "float": "a number, such as 1e-3", "bool": "true or false",
          "tuple": "a tuple, such as (32,64)"}


def check_config_file(argv: Sequence[str]) -> None:
    """Raises ConfigError where the config file is not there, which ml_collections says at its first use only."""
    path, _ = config_path(argv)
    if path and not os.path.isfile(path):
        folder = Path(path).parent if Path(path).parent.is_dir() else Path("configs")
        raise ConfigError(f"there is no config file {path!r}{nearest(path, [str(p) for p in folder.glob('*.py')])}")


def explained(error: Exception, argv: Sequence[str], known: flags.FlagValues) -> str:
    """What to change, for an error that parsing `argv` into the flags `known` raised."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    # Errors of the config file come back as flag errors, with a traceback for a message.
    own = [e for e in chain if isinstance(e, ConfigError)]
    if own:
        return str(own[-1])
    path, arg = config_path(argv)
    unknown = _unknown(argv, path, arg, known)
    if unknown:
        return unknown
    text = str(error).strip()
    if not isinstance(error, flags.Error) or "whilst parsing config file" in text:
        return f"the config file {path!r} fails: {type(chain[-1]).__name__}: {chain[-1]} (--traceback shows where)"
    wrong = re.match(r"flag --([\w.]+)=(.*?): ", text, re.S)
    kind = _KINDS.get(known[wrong[1]].flag_type()) if wrong and wrong[1] in known else None
    return f"{wrong[1]}={wrong[2]!r} must be {kind}" if kind else text.splitlines()[0]


def check_tuples(argv: Sequence[str], config: ConfigDict) -> None:
    """Raises ConfigError for entries of a tuple that are not of the type that the config file gives them."""
    defaults = _defaults(*config_path(argv))
    for key in _keys(argv):
        if defaults is None or not has_key(defaults, key):
            continue
        default, value = (reduce(getitem, key.split("."), c) for c in (defaults, config))
        if isinstance(default, tuple) and default and isinstance(value, tuple):
            kinds = {type(entry) for entry in default} | ({int} if isinstance(default[0], float) else set())
            if any(type(entry) not in kinds for entry in value):
                raise ConfigError(f"config.{key}={value!r} must be a tuple like {default!r}")


def _unknown(argv: Sequence[str], path: str, arg: str, known: flags.FlagValues) -> str:
    """Names the flag or key that is not there; '' where all are."""
    defaults = _defaults(path, arg) if path else None
    for key in _keys(argv):
        if not path:
            return "name the config that config.* flags change: --config=configs/vq.py"
        if defaults is not None and not has_key(defaults, key):
            return f"unknown key config.{key}{nearest_key(defaults, key)}"
    for word in argv[1:]:
        name = re.match(r"--?([\w.]*)", word)
        if name and not name[1].startswith("config.") and not {name[1], name[1].removeprefix("no")} & {*known, ""}:
            near = difflib.get_close_matches(name[1].partition(".")[0], list(known), n=1)
            return f"unknown flag --{name[1]}" + (f" (did you mean --{near[0]}?)" if near else "")
    return ""


def _keys(argv: Sequence[str]) -> list[str]:
    """`optim.name` for a word `--config.optim.name=adam`."""
    found = [re.match(r"--?(?:no)?config\.([\w.]+)", word) for word in argv[1:]]
    return [match[1] for match in found if match]


def config_path(argv: Sequence[str]) -> tuple[str, str]:
    """Config file and variants of the flags, '' where there are none."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        match = re.fullmatch(r"--?config(?:=(.*))?", word)
        if match:
            path, _, arg = (following if match[1] is None else match[1]).partition(":")
            return path, arg
    return "", ""


def _defaults(path: str, arg: str) -> ConfigDict | None:
    """The config file's own config, without overrides; None where it cannot be had."""
    space: dict = {"__file__": path, "__name__": "config"}
    try:
        exec(compile(Path(path).read_text(), path, "exec"), space)
        return space["get_config"](arg)
    except Exception:
        return None
