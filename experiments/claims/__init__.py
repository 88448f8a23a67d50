"""What the papers claim, measured: functions registered with a paper, a budget and one sentence.

A claim trains or computes what it needs, always with its baseline in the same run, and returns an `Outcome`. Its
thresholds stand in the decorator, written before the run, from the paper or from theory.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """What a claim measured."""

    holds: bool
    measured: dict[str, Any]  # numbers
    seeds: tuple[int, ...] = (0,)


class Claim(NamedTuple):
    """A registered claim."""

    paper: str
    family: str
    name: str
    sentence: str
    threshold: dict[str, Any]
    budget: int  # seconds on two cores
    measure: Callable[[dict[str, Any]], Outcome]


_CLAIMS: dict[tuple[str, str], Claim] = {}


def claim(*, paper: str, sentence: str, threshold: dict[str, Any], budget: int = 60):
    """Registers `measure(threshold) -> Outcome`; the function's name is the claim's, its module the family."""
    def register(measure):
        family = measure.__module__.rsplit(".", 1)[-1]
        entry = Claim(paper, family, measure.__name__, sentence, threshold, budget, measure)
        if (paper, entry.name) in _CLAIMS:
            raise ValueError(f"claim {entry.name} of {paper} is registered twice")
        _CLAIMS[paper, entry.name] = entry
        return measure
    return register


def all_claims() -> list[Claim]:
    """Every claim of every family, by paper."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_CLAIMS.values(), key=lambda c: (c.paper, c.name))
