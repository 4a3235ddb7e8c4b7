"""Rules and processes by name or by file: plain Python functions, not compiled."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forerun.errors import PolicyError, nearest
from forerun.sim import policy as policy_room
from forerun.spec.policy import Policy


def find(kind: str, policy: Policy) -> Callable[..., Any]:
    """The function of a `scale` rule or a `fault` process.  Raises PolicyError."""
    where = f"policy {policy.name}"
    path, colon, function_name = policy.name.rpartition(":")
    if colon:
        module = policy_room._load_file(Path(path), where)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise PolicyError.one(where, f"{path} has no function {function_name!r}")
    else:
        known = policy_room.names(kind)
        if policy.name not in known:
            fix = nearest(policy.name, known)
            raise PolicyError.one(where, f"no `{kind}` policy of this name", fix)
        module = importlib.import_module(f"forerun.sim.policies.{kind}.{policy.name}")
        function = getattr(module, policy.name)
    takes = policy_room.ARGUMENTS[kind]
    if len(inspect.signature(function).parameters) != len(takes):
        raise PolicyError.one(
            where,
            f"takes {len(inspect.signature(function).parameters)} arguments, a `{kind}` policy "
            f"takes {len(takes)}",
            f"def {function.__name__}({', '.join(takes)})",
        )
    known_knobs = getattr(module, "PARAMS", {})
    for knob in policy.params:
        if not colon and knob not in known_knobs:
            raise PolicyError.one(where, f"has no knob {knob!r}", nearest(knob, known_knobs))
    return function
