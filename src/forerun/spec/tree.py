"""What can be done to the tree of a case: spell short forms out, set one value, find a place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forerun.errors import Problem, SpecError
from forerun.spec.deployment import Deployment, Engine
from forerun.spec.yaml import Node, Origin

_POLICIES = ("batch", "order", "admit", "preempt", "speculate", "turn", "tune")
_DEFAULT_POLICY = {kind: Engine.model_fields[kind].default.name for kind in _POLICIES} | {
    "route": Deployment.model_fields["route"].default.name
}


def of_mapping(value: Any, origin: Origin, path: str = "") -> Node:
    """A tree of plain Python values, all from one place."""
    if isinstance(value, Mapping):
        value = {str(k): of_mapping(v, origin, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [of_mapping(v, origin, f"{path}[{i}]") for i, v in enumerate(value)]
    return Node(value, origin, origin, path)


def canonical(root: Node) -> Node:
    """The same tree with every short form spelt out, in place, so that two can be merged.

    `fleet: "H100:8"` and `{h100: 8}` get `devices` and `count`; a flat deployment gets `pools`; a
    plain length gets a `mean`.  Raises SpecError for a fleet text that cannot be read.
    """
    if fleet := root.value.get("fleet"):
        _spell_fleet(fleet)
    deployment = root.value.get("deployment")
    if deployment and isinstance(deployment.value, dict) and "pools" not in deployment.value:
        shared = {k: v for k, v in deployment.value.items() if k in Deployment.model_fields}
        flat = {k: v for k, v in deployment.value.items() if k not in shared}
        pool = Node(flat, deployment.origin, deployment.key_origin, deployment.path)
        deployment.value = shared | {"pools": _like(deployment, [pool])}
    models = root.value.get("models")
    if models and isinstance(models.value, dict):
        _spell_models(root, models)
    traffic = root.value.get("traffic")
    if traffic and isinstance(traffic.value, dict):
        for key in ("isl", "osl"):
            length = traffic.value.get(key)
            if length and type(length.value) in (int, float):
                mean = _like(length, length.value)
                length.value = {"kind": _like(length, "fixed"), "mean": mean}
    return root


def _spell_models(root: Node, models: Node) -> None:
    """`{name: share}` gets its keys; the model that is meant is its name where none is given."""
    for name, asked in models.value.items():
        if type(asked.value) in (int, float):
            asked.value = {"share": _like(asked, asked.value)}
        if isinstance(asked.value, dict) and "model" not in asked.value:
            asked.value["model"] = Node(name, asked.key_origin, asked.key_origin, asked.path)
    first = next(iter(models.value.values()), None)
    if first and isinstance(first.value, dict) and "model" not in root.value:
        root.value["model"] = first.value["model"]


def _like(node: Node, value: Any, path: str | None = None) -> Node:
    return Node(value, node.origin, node.key_origin, node.path if path is None else path)


def _spell_fleet(fleet: Node) -> None:
    if isinstance(fleet.value, str):
        fleet.value = _fleet_text(fleet)
    if not isinstance(fleet.value, dict):
        return
    if "devices" not in fleet.value:
        fleet.value = {"devices": _like(fleet, fleet.value)}
    devices = fleet.value["devices"]
    if isinstance(devices.value, dict):
        for group in devices.value.values():
            if type(group.value) is int:
                group.value = {"count": _like(group, group.value)}


def _fleet_text(fleet: Node) -> dict[str, Node]:
    """SkyPilot's "H100:8, L4:4"; one device when no count is given."""
    out: dict[str, Node] = {}
    for part in filter(None, (part.strip() for part in fleet.value.split(","))):
        name, colon, count = (piece.strip() for piece in part.partition(":"))
        if not name or (colon and not re.fullmatch(r"\d+", count)):
            what = f"{part!r} is not a device with a count"
            raise SpecError.one(fleet.where, what, "h100-sxm:4, or several: h100-sxm:4,l4:8")
        if name in out:
            raise SpecError.one(fleet.where, f"{name} is given twice", "add the counts")
        out[name] = _like(fleet, int(count or 1), f"{fleet.path}.{name}")
    if not out:
        raise SpecError.one(fleet.where, "the fleet is empty", "h100-sxm:4")
    return out


def put(root: Node, path: str, value: Node, label: str) -> None:
    """Sets one value by the key a user knows it by; null removes it.

    `deployment.tp` is of the one pool, `fleet.h100-sxm.count` needs no `devices`.  Raises
    SpecError if there are several pools and the key does not say which.
    """
    canonical(root)
    parts = path.replace("[", ".").replace("]", "").split(".")
    if parts[0] == "fleet" and len(parts) > 1 and parts[1] != "devices":
        parts.insert(1, "devices")
    if parts[0] == "deployment" and len(parts) > 1:
        known = {*Deployment.model_fields}
        if parts[1] not in known:
            _refuse_several_pools(root, parts[1], label)
            parts[1:1] = ["pools", "0"]
    node = root
    for key in parts[:-1]:
        node = _step(node, key, label, path)
    last = parts[-1]
    if isinstance(node.value, list):
        if not last.isdigit() or int(last) >= len(node.value):
            raise SpecError.one(label, f"{path!r} is not in the case", "see --explain")
        node.value[int(last)] = value
    elif value.value is None:
        node.value.pop(last, None)
    else:
        node.value[last] = value


def _refuse_several_pools(root: Node, key: str, label: str) -> None:
    deployment = root.value.get("deployment")
    pools = deployment.value.get("pools") if deployment else None
    n = len(pools.value) if pools and isinstance(pools.value, list) else 1
    if n > 1:
        fix = f"--set deployment.pools.0.{key}=..."
        raise SpecError.one(label, f"the deployment has {n} pools: which one?", fix)


def _step(node: Node, key: str, label: str, path: str) -> Node:
    """The child to descend into, made if it is not there."""
    if isinstance(node.value, list):
        if key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
        else:
            raise SpecError.one(label, f"{path!r} is not in the case", "see --explain")
    else:
        if key not in node.value:
            origin = Origin(label)
            fresh: Any = [Node({}, origin, origin, "deployment")] if key == "pools" else {}
            if key in _DEFAULT_POLICY:  # its parameters are set, its name stays
                fresh = {"name": Node(_DEFAULT_POLICY[key], Origin("default"), origin)}
            below = f"{node.path}.{key}".lstrip(".") if key != "pools" else node.path
            node.value[key] = Node(fresh, origin, origin, below)
        node = node.value[key]
    if isinstance(node.value, str) and key in _DEFAULT_POLICY:  # a policy by plain name
        node.value = {"name": _like(node, node.value)}
    if not isinstance(node.value, (dict, list)):
        raise SpecError.one(label, f"{key} has no keys below it", f"--set {key}=...")
    return node


def find(root: Node, loc: tuple) -> tuple[Node, int]:
    """The deepest node on the way to a field, and how many parts of `loc` led there.

    Parts that the user did not write (tags of unions, keys of spelt-out forms) are passed over.
    """
    node, depth = root, 0
    for i, part in enumerate(loc):
        child = None
        if isinstance(node.value, dict):
            child = node.value.get(str(part))
        elif isinstance(node.value, list) and str(part).isdigit() and int(part) < len(node.value):
            child = node.value[int(part)]
        if child is not None:
            node, depth = child, i + 1
    return node, depth


def placed(problem: Problem, root: Node) -> Problem:
    """A problem whose `where` is a dotted path of the case, with the place in the file in front."""
    loc = tuple(problem.where.split("."))
    node, depth = find(root, loc)
    rest = "".join(f".{part}" for part in loc[depth:])
    where = f"{node.where}{rest}" if node.path else f"{node.origin} {problem.where}"
    return Problem(where, problem.what, problem.fix)


def resolve_names(root: Node, resolve: Callable[[str, str], str], skip: str) -> list[Problem]:
    """Replaces names by the catalog's own, in place; one problem for each that is not known."""
    problems: list[Problem] = []

    def name(kind: str, node: Node | None) -> None:
        if node is not None and isinstance(node.value, dict):
            node = node.value.get("name")
        if node is not None and isinstance(node.value, str) and node.value != skip:
            try:
                node.value = resolve(kind, node.value)
            except SpecError as error:
                first = error.problems[0]
                problems.append(Problem(node.where, first.what, first.fix))

    def child(node: Node | None, *keys: str) -> Node | None:
        for key in keys:
            node = node.value.get(key) if node and isinstance(node.value, dict) else None
        return node

    name("model", child(root, "model"))
    models = child(root, "models")
    for asked in models.value.values() if models and isinstance(models.value, dict) else ():
        name("model", child(asked, "model"))
        name("trace", child(asked, "traffic", "trace"))
    devices = child(root, "fleet", "devices")
    if devices is not None and isinstance(devices.value, dict):
        renamed: dict[str, Node] = {}
        for given, group in devices.value.items():
            holder = Node(given, group.key_origin, group.key_origin, group.path)
            name("device", holder)
            if holder.value in renamed:
                what = f"{given} is {holder.value}, which is given already"
                problems.append(Problem(holder.where, what, "add the counts"))
            renamed[holder.value] = group
        devices.value = renamed
    name("trace", child(root, "traffic", "trace"))
    deployment = child(root, "deployment")
    name("route", child(deployment, "route"))
    name("power", child(deployment, "power", "policy"))
    techniques = child(deployment, "techniques")
    for technique in techniques.value if techniques and isinstance(techniques.value, list) else ():
        name("technique", technique)
    pools = child(deployment, "pools")
    for pool in pools.value if pools and isinstance(pools.value, list) else ():
        name("device", child(pool, "device"))
        for kind in _POLICIES:
            name(kind, child(pool, "engine", kind))
        name("model", child(pool, "engine", "speculation", "draft"))
        name("device", child(pool, "engine", "speculation", "device"))
        name("scale", child(pool, "autoscale", "policy"))
    faults = child(root, "faults")
    for fault in faults.value if faults and isinstance(faults.value, list) else ():
        name("fault", child(fault, "process"))
    return problems


def anchor_paths(root: Node, folder: str) -> None:
    """Makes relative paths in a file relative to that file, where such a file exists."""
    files = (("model",), ("traffic", "trace"), ("deployment", "engine", "calibration"))
    for keys in files:
        node: Node | None = root
        for key in keys:
            node = node.value.get(key) if node and isinstance(node.value, dict) else None
        if folder not in ("", ".") and node is not None and isinstance(node.value, str):
            path = Path(folder) / node.value
            if not Path(node.value).is_absolute() and path.exists():
                node.value = str(path)
