"""Cases from files, flags and variables: all mistakes at once, each with its place and repair.

Precedence: flag (and `--set`) > `FORERUN_<NAME>` > case file (`forerun.yaml` of the working
directory when none is named) > user config > default.  Between files a nearer one replaces whole
top-level keys (a `traffic` is never half of two); flags and variables change single values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forerun import paths, units
from forerun.errors import Problem, SpecError
from forerun.spec import tree, yaml
from forerun.spec.bridge import problems_of
from forerun.spec.case import Case
from forerun.spec.check import check_case
from forerun.spec.deployment import Deployment
from forerun.spec.settings import SETTING_BY_NAME, SETTINGS
from forerun.spec.yaml import Node, Origin

PROJECT_FILE = "forerun.yaml"
_TO_BE_CHOSEN = "to-be-chosen"  # stands for the device while a deployment without one is checked

#: (kind, name) -> the catalog's own name; raises SpecError if there is none.  Kinds: "model",
#: "device", "trace", "route", "batch", "order", "admit", "preempt", "technique"
Resolve = Callable[[str, str], str]
#: further checks, such as of the parallel layout against the model
Check = Callable[[Case], list[Problem]]


@dataclass(frozen=True)
class Reading:
    """A case with the place that each of its values came from.

    `wishes` is a deployment of which only some fields were given (its `model_fields_set` says
    which) and no device: what the chosen deployment must respect.
    """

    case: Case
    root: Node
    wishes: Deployment | None = None

    def explain(self) -> list[tuple[str, str, str]]:
        """(key, value, where it is from) for every value of the case, defaults included."""
        rows: list[tuple[str, str, str]] = []
        data = self.case.model_dump(mode="json", exclude_none=True)
        if self.wishes is not None:
            data["deployment"] = self.wishes.model_dump(mode="json", exclude_unset=True)
        _flatten(data, (), self.root, rows)
        return [row for row in rows if row[1] != _TO_BE_CHOSEN]


def load(source: Any = None, overrides: Iterable[str] = (), **how: Any) -> Case:
    """The case in a file ("-" is standard input); see `read` for the rest.

    Raises SpecError with every problem; a deployment without a device is one.
    """
    reading = read(source, overrides, **how)
    if reading.wishes is not None:
        node = reading.root.value["deployment"]
        fix = f"device: {next(iter(reading.case.fleet.devices))}"
        raise SpecError.one(f"{node.where}.device", "is missing", fix)
    return reading.case


def read(
    source: Any = None,
    overrides: Iterable[str] = (),
    *,
    flags: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    config: str | os.PathLike | None = None,
    project: bool = True,
    resolve: Resolve | None = None,
    checks: Iterable[Check] = (),
    may_lack: Iterable[str] = (),
) -> Reading:
    """The case that all sources together describe.

    source    : path, "-" for standard input, or a mapping; None looks for `forerun.yaml`.
    overrides : "fleet.h100-sxm.count=4", as given to `--set`.
    flags     : values by setting name, as typed: {"rate": "4", "ttft": "500 ms"}.
    env       : environment; the process's own when None.
    config    : the user's settings file; the usual one when None.
    project   : whether `forerun.yaml` is looked for when no source is given.
    may_lack  : keys ("traffic.rate_per_s") whose problems found by checks do not count.

    Raises SpecError with every problem found in all of them.
    """
    env = os.environ if env is None else env
    may_lack = frozenset(may_lack)
    problems: list[Problem] = []
    root = Node({}, Origin("case"), Origin("case"))
    user = paths.user_config(env) if config is None else Path(config)
    if user.is_file():
        root.value |= tree.canonical(_file(user)).value
    if isinstance(source, Mapping):
        root.value |= tree.canonical(tree.of_mapping(source, Origin("case"))).value
    elif source is not None or (project and Path(PROJECT_FILE).is_file()):
        node = tree.canonical(_file(PROJECT_FILE if source is None else source))
        root.value |= node.value
        root.origin = node.origin
    for label, path, text in _single_values(overrides, flags or {}, env, problems):
        try:
            tree.put(root, path, yaml.parse_value(text, Origin(label), path), label)
        except SpecError as error:
            problems += error.problems
    try:
        tree.canonical(root)
    except SpecError as error:
        problems += error.problems
    is_wish = _mark_wish(root)
    if resolve:
        problems += tree.resolve_names(root, resolve, skip=_TO_BE_CHOSEN)
    case = None
    try:
        case = Case.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        problems += problems_of(error, root, Case)
    wishes = None
    if case is not None:
        if is_wish:
            wishes, case = case.deployment, case.model_copy(update={"deployment": None})
        for check in (check_case, *checks):
            found = [problem for problem in check(case) if problem.where not in may_lack]
            problems += [tree.placed(problem, root) for problem in found]
    if problems:
        raise SpecError(*_in_order(problems))
    assert case is not None
    return Reading(case, root, wishes)


def _file(source: str | os.PathLike) -> Node:
    text, name = yaml.read_text(source)
    node = yaml.parse(text, name)
    tree.anchor_paths(node, "" if name == "<stdin>" else str(Path(source).parent))
    return node


def _single_values(
    overrides: Iterable[str],
    flags: Mapping[str, str],
    env: Mapping[str, str],
    problems: list[Problem],
) -> list[tuple[str, str, str]]:
    """(label, path, text) of every value given alone, the strongest last."""
    out = []
    for setting in SETTINGS:
        if env.get(setting.variable):
            text = _with_unit(str(env[setting.variable]), setting.bare)
            out.append((setting.variable, setting.path, text))
    for name, value in flags.items():
        setting = SETTING_BY_NAME[name]
        out.append((f"--{name}", setting.path, _with_unit(str(value), setting.bare)))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path.strip():
            fix = "--set fleet.h100-sxm.count=4"
            problems.append(Problem(f"--set {override}", "is not of the form key=value", fix))
            continue
        out.append((f"--set {path.strip()}", path.strip(), text))
    return out


def _with_unit(text: str, bare: str) -> str:
    try:
        float(text)
    except ValueError:
        return text
    return f"{text} {bare}" if bare else text


def _mark_wish(root: Node) -> bool:
    """Whether the deployment names no device; if so, one that stands for it is put in."""
    deployment = root.value.get("deployment")
    if deployment is None or not isinstance(deployment.value, dict):
        return False
    pools = deployment.value.get("pools")
    if pools is None or not isinstance(pools.value, list) or len(pools.value) != 1:
        return False
    pool = pools.value[0]
    if not isinstance(pool.value, dict) or "device" in pool.value:
        return False
    default = Origin("default")
    pool.value["device"] = Node(_TO_BE_CHOSEN, default, default, "deployment.device")
    return True


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Each problem once, in the order of the file's lines."""

    def place(problem: Problem) -> tuple:
        head = problem.where.split(" ")[0].rsplit(":", 2)
        if len(head) == 3 and head[1].isdigit() and head[2].isdigit():
            return (0, head[0], int(head[1]), int(head[2]))
        return (1, "", 0, 0)

    return sorted(dict.fromkeys(problems), key=place)


def _flatten(data: Any, loc: tuple, root: Node, rows: list[tuple[str, str, str]]) -> None:
    items: Iterable = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    if items and data:
        for key, value in items:
            _flatten(value, (*loc, key), root, rows)
        return
    if isinstance(data, (dict, list)):
        return
    node, depth = tree.find(root, loc)
    # a scalar found on the way is a short form that stands for the fields below it
    exact = depth == len(loc) or not isinstance(node.value, (dict, list))
    dimension = units.dimension_of(str(loc[-1]))
    shown = data if not dimension or isinstance(data, str) else units.show(float(data), dimension)
    name = ".".join(str(part) for part in loc)
    rows.append((name, str(shown), str(node.origin) if exact else "default"))
