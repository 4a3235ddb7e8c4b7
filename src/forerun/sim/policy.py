"""Policies by name, by file or by value: found, checked, compiled.

A policy is a plain function of the signature of its kind (`sim/core/signatures.py`).  It is named
by its file in `sim/policies/<kind>/`, by `path/to/file.py:function`, or given as the function.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from forerun.errors import PolicyError, nearest
from forerun.sim import policies
from forerun.sim.core import compile as compiler
from forerun.sim.core.signatures import KINDS
from forerun.spec.deployment import Policy

ARGUMENTS = {
    "order": ("request", "now_ps", "params"),
    "admit": ("request", "replica", "engine", "params"),
    "batch": ("replica", "engine", "params"),
    "preempt": ("request", "params"),
    "route": ("request", "load", "params", "memory", "rng"),
    "place": ("request", "load", "params", "memory", "rng"),
    "fetch": ("request", "engine", "offer", "params"),
    "speculate": ("request", "replica", "engine", "step_ps", "params"),
    "gate": ("request", "load", "now_ps", "params", "memory"),
    "scale": ("pool", "rule", "memory"),  # plain Python, see sim/control/
    "fault": ("rng", "fault"),
    "power": ("row", "rule", "memory"),  # plain Python, see sim/power/
    "share": ("lanes", "rule", "memory"),  # the same
    "rebalance": ("fleet", "rule", "memory"),  # plain Python too
    "turn": ("replica", "engine", "model", "queued", "now_ps", "params"),
    "tune": ("replica", "engine", "params"),
}

FOLDER = {"place": "route"}  # whoever chooses a replica for a prompt can choose one for an answer


@dataclass(frozen=True)
class Found:
    """A policy ready to run."""

    kind: str
    name: str
    function: Callable[..., Any]  # plain Python
    params: np.ndarray  # float64, in the order of its PARAMS
    shipped: bool  # its compiled form may be kept
    every_step: bool  # it reads what changes inside a leap
    fresh: bool  # a router that wants the KV use of this moment
    cached: bool  # a router that wants to know who keeps how much of the prompt
    priced: bool  # one that wants to know what steps would take
    again: bool  # an order asked whenever a request may start, for the first of each tenant
    knobs: dict[str, float]  # params by name

    def compiled(self) -> Any:
        """The function as the engine calls it.  Raises PolicyError if it cannot be compiled."""
        if self.shipped:
            return _compiled_shipped(self.kind, self.function)
        try:
            return compiler.policy(self.kind, self.function)
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise PolicyError.one(
                f"policy {self.name}",
                f"does not compile as a `{self.kind}` policy: {reason[-1] if reason else error!r}",
                f"return what {self.kind}({', '.join(ARGUMENTS[self.kind])}) promises in "
                "forerun.sim.core.signatures, or run it uncompiled with FORERUN_JIT=0",
            ) from error


@cache
def _compiled_shipped(kind: str, function: Callable[..., Any]) -> Any:
    return compiler.policy(kind, function, keep=True)


@cache
def names(kind: str) -> tuple[str, ...]:
    """The policies of a kind that ship with Forerun."""
    package = importlib.import_module(f"{policies.__name__}.{FOLDER.get(kind, kind)}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__)))


def find(kind: str, policy: Policy | Callable[..., Any]) -> Found:
    """The policy, with its knobs in order.  Raises PolicyError with what would fix it."""
    assert kind in KINDS
    if callable(policy):
        return _found(kind, policy, policy.__name__, {}, None, shipped=False)
    where = f"policy {policy.name}"
    path, colon, function_name = policy.name.rpartition(":")
    if colon:
        module = _load_file(Path(path), where)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise PolicyError.one(where, f"{path} has no function {function_name!r}")
        return _found(kind, function, policy.name, policy.params, module, shipped=False)
    if policy.name not in names(kind):
        raise PolicyError.one(
            where, f"no `{kind}` policy of this name", nearest(policy.name, names(kind))
        )
    module = importlib.import_module(f"{policies.__name__}.{FOLDER.get(kind, kind)}.{policy.name}")
    function = getattr(module, policy.name)
    return _found(kind, function, policy.name, policy.params, module, shipped=True)


@lru_cache(maxsize=256)
def _n_arguments(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


def _found(
    kind: str,
    function: Callable[..., Any],
    name: str,
    given: dict[str, float],
    module: ModuleType | None,
    *,
    shipped: bool,
) -> Found:
    where = f"policy {name}"
    n_arguments = _n_arguments(function)
    if n_arguments != len(ARGUMENTS[kind]):
        raise PolicyError.one(
            where,
            f"takes {n_arguments} arguments, a `{kind}` policy takes {len(ARGUMENTS[kind])}",
            f"def {function.__name__}({', '.join(ARGUMENTS[kind])})",
        )

    def said(what: str, default: Any) -> Any:
        return getattr(module, what, getattr(function, what, default))

    defaults: dict[str, float] = said("PARAMS", {})
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise PolicyError.one(where, f"has no knob {unknown[0]!r}", nearest(unknown[0], defaults))
    knobs = {k: float({**defaults, **given}[k]) for k in defaults}
    params = np.array(list(knobs.values()), dtype=np.float64)
    return Found(
        kind,
        name,
        function,
        params,
        shipped,
        bool(said("EVERY_STEP", False)),
        bool(said("FRESH", False)),
        bool(said("CACHED_WANTED", False)),
        bool(said("PRICED", False)),
        bool(said("AGAIN", False)),
        knobs,
    )


def _load_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise PolicyError.one(where, f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PolicyError.one(where, f"{path} cannot be run: {error}") from error
    return module


def by_pool(found: Sequence[Found]) -> tuple[Any, np.ndarray]:
    """One compiled function and its knobs, for pools whose policies may differ."""
    first = found[0]
    if all(f.function is first.function and (f.params == first.params).all() for f in found):
        return first.compiled(), first.params
    ends = np.cumsum([len(f.params) for f in found])
    chosen: Any = None
    for p in range(len(found) - 1, -1, -1):
        own, start = found[p].compiled(), int(ends[p]) - len(found[p].params)
        chosen = _either(first.kind, p, own, start, own if chosen is None else chosen)
    return chosen, np.concatenate([f.params for f in found])


@lru_cache(maxsize=256)
def _either(kind: str, p: int, own: Any, start: int, other: Any) -> Any:
    """Pool p's own policy with the knobs from `start` on, or another one for the others."""
    return compiler.policy(kind, _DISPATCH[kind](p, own, start, other))


def _dispatch_order(p: int, own: Any, start: int, other: Any) -> Any:
    def order(request, now_ps, params):
        if request.pool == p:
            return own(request, now_ps, params[start:])
        return other(request, now_ps, params)

    return order


def _dispatch_admit(p: int, own: Any, start: int, other: Any) -> Any:
    def admit(request, replica, engine, params):
        if replica.pool == p:
            return own(request, replica, engine, params[start:])
        return other(request, replica, engine, params)

    return admit


def _dispatch_batch(p: int, own: Any, start: int, other: Any) -> Any:
    def batch(replica, engine, params):
        if replica.pool == p:
            return own(replica, engine, params[start:])
        return other(replica, engine, params)

    return batch


def _dispatch_preempt(p: int, own: Any, start: int, other: Any) -> Any:
    def preempt(request, params):
        if request.pool == p:
            return own(request, params[start:])
        return other(request, params)

    return preempt


def _dispatch_speculate(p: int, own: Any, start: int, other: Any) -> Any:
    def speculate(request, replica, engine, step_ps, params):
        if replica.pool == p:
            return own(request, replica, engine, step_ps, params[start:])
        return other(request, replica, engine, step_ps, params)

    return speculate


def _dispatch_turn(p: int, own: Any, start: int, other: Any) -> Any:
    def turn(replica, engine, model, queued, now_ps, params):
        if replica.pool == p:
            return own(replica, engine, model, queued, now_ps, params[start:])
        return other(replica, engine, model, queued, now_ps, params)

    return turn


def _dispatch_tune(p: int, own: Any, start: int, other: Any) -> Any:
    def tune(replica, engine, params):
        if replica.pool == p:
            return own(replica, engine, params[start:])
        return other(replica, engine, params)

    return tune


_DISPATCH = {
    "order": _dispatch_order,
    "admit": _dispatch_admit,
    "batch": _dispatch_batch,
    "preempt": _dispatch_preempt,
    "speculate": _dispatch_speculate,
    "turn": _dispatch_turn,
    "tune": _dispatch_tune,
}


#: knobs of orders that are asked again which the engine itself heeds (weights: Sheng et al.)
FAIR = {"input": 1.0, "output": 2.0, "shared": 0.0, "lift": 1.0}


def fair_knobs(found: Sequence[Found]) -> dict[str, float]:
    """How tokens of tenants are counted, by the orders that are asked again.

    Raises PolicyError where pools disagree or a token would count less than nothing.
    """
    again = [f for f in found if f.again]
    if not again:
        return FAIR
    said = [{**FAIR, **{k: v for k, v in f.knobs.items() if k in FAIR}} for f in again]
    where = f"policy {again[0].name}"
    if any(knobs != said[0] for knobs in said):
        what = "pools count what tenants are served in different ways"
        raise PolicyError.one(where, what, f"the same {', '.join(FAIR)} in all pools")
    for name in ("input", "output"):
        if not 0 <= said[0][name] <= 1e6:
            what = f"{name} is {said[0][name]:g}: a token counts 0 to 1,000,000"
            raise PolicyError.one(where, what, f"{name}: {FAIR[name]:g}")
    return said[0]
