"""Every mechanism of a serving fleet as a change of one small case, for laws of them together.

A mechanism is an entry `Mechanism(...)` in the list MECHANISMS of a module of this package; a new
module is found by itself.  `change` edits the case as its YAML would be written; `column` gives the
requests what no description of traffic draws (whose they are, what their prompts begin with).
Two entries with one `slot` are two values of one setting and are never put together.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from forerun.spec.requests import Requests

Case = dict[str, Any]

BASE: Case = {
    "model": "qwen3-30b-a3b",
    "fleet": {"h100-sxm": 64, "h200-sxm": 16},
    "traffic": {
        "rate_per_s": "80 req/s",
        "n_requests": 40,
        "isl": {"kind": "lognormal", "mean": 180, "cv": 0.7, "high": 400},
        "osl": {"kind": "lognormal", "mean": 24, "cv": 0.7, "high": 60},
    },
    "deployment": {
        "pools": [
            {
                "name": "main",
                "device": "h100-sxm",
                "replicas": 2,
                "engine": {
                    "n_blocks": 120,
                    "max_num_seqs": 8,
                    "max_num_batched_tokens": 256,
                    "max_model_len": 640,
                },
            }
        ]
    },
}


def nothing(case: Case) -> None:
    """A change that is none."""


@dataclass(frozen=True)
class Mechanism:
    """One mechanism.

    neutral : the same part of the case said so that nothing changes (None: there is no such way).
    first   : it changes which pools there are, so it comes before those that change every pool.
    law     : more that must hold of every result with it, alone or beside others.
    """

    name: str
    change: Callable[[Case], None] = nothing
    neutral: Callable[[Case], None] | None = None
    column: Callable[[Requests], Requests] | None = None
    slot: str | None = None
    first: bool = False
    law: Callable[[Any], None] | None = None


def every_pool(**settings: Any) -> Callable[[Case], None]:
    """A change of every pool; dictionaries are joined, and `engine` too."""

    def change(case: Case) -> None:
        for pool in case["deployment"]["pools"]:
            join(pool, copy.deepcopy(settings))

    return change


def engines(**settings: Any) -> Callable[[Case], None]:
    """A change of every pool's engine."""
    return every_pool(engine=settings)


def part(name: str, **settings: Any) -> Callable[[Case], None]:
    """A change of a part of the case: traffic, deployment."""
    return lambda case: join(case[name], copy.deepcopy(settings))


def join(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Put `more` into a dictionary, dictionaries into those that are there, lists behind them."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            join(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list):
            into[key] += value
        else:
            into[key] = value


def case_of(mechanisms: Iterable[Mechanism]) -> Case:
    """The small case with these mechanisms, in an order that does not depend on theirs."""
    case = copy.deepcopy(BASE)
    for one in sorted(mechanisms, key=lambda one: (not one.first, one.name)):
        one.change(case)
    return case


def found() -> list[Mechanism]:
    """Every mechanism, module by module."""
    out: list[Mechanism] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda one: one.name):
        out += importlib.import_module(f"{__name__}.{module.name}").MECHANISMS
    names = [one.name for one in out]
    assert len(set(names)) == len(names), "two mechanisms have one name"
    return out
