"""YAML 1.2 as a tree in which every value knows where it stands.

`parse` finds every duplicate key in one go; other mistakes of syntax stop it at the first, because
what follows them cannot be read with confidence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun.errors import Problem, SpecError

MAX_DEPTH = 50  # of nesting; a case needs seven


@dataclass(frozen=True)
class Origin:
    """Where a value was given: a file with line and column (from 1), a flag, a variable."""

    name: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name


@dataclass
class Node:
    """A value (a scalar, a dict of nodes or a list of nodes) with its place.

    `path` is what the user wrote ("deployment.tp"), which may be shorter than the field's own path.
    """

    value: Any
    origin: Origin
    key_origin: Origin
    path: str = ""

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def leaves(self) -> Iterator[Node]:
        """The scalars below, in the order written."""
        children = self.value if isinstance(self.value, list) else None
        if isinstance(self.value, dict):
            children = list(self.value.values())
        if children is None:
            yield self
        for child in children or ():
            yield from child.leaves()

    @property
    def where(self) -> str:
        return f"{self.origin} {self.path}".strip()


def read_text(source: str | os.PathLike) -> tuple[str, str]:
    """The text of a file and its name for messages; "-" is standard input.

    Raises SpecError if the file is absent, a folder, unreadable or not UTF-8.
    """
    if str(source) == "-":
        name, raw = "<stdin>", sys.stdin.buffer.read()
    else:
        name, raw = str(source), _read_bytes(Path(source), str(source))
    try:
        return raw.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError.one(
            f"{name}:{line}",
            f"byte {error.start} (0x{raw[error.start]:02x}) is not UTF-8",
            "save the file as UTF-8",
        ) from None


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        fix = "forerun init chat writes one" if path.name == "forerun.yaml" else "check the path"
        raise SpecError.one(name, "no such file", fix) from None
    except IsADirectoryError:
        raise SpecError.one(name, "is a folder, not a file", f"{name}/forerun.yaml") from None
    except OSError as error:
        raise SpecError.one(name, f"cannot be read: {error.strerror}", "check its rights") from None


def parse(text: str, name: str) -> Node:
    """The tree of a YAML (or JSON) text whose top is a mapping.  Raises SpecError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise SpecError(_syntax(error, text, name)) from None
    except YAMLError as error:
        raise SpecError.one(name, f"is not YAML: {str(error).splitlines()[0]}") from None
    if root is None:
        raise SpecError.one(name, "the file is empty", "forerun init chat writes a whole case")
    builder = _Builder(name, yaml)
    node = builder.build(root, "", _at(name, root), 0)
    if builder.problems:
        raise SpecError(*builder.problems)
    if not isinstance(node.value, dict):
        kind = "a list" if isinstance(node.value, list) else "a single value"
        fix = "begin with `model: llama-3.1-8b`"
        raise SpecError.one(str(node.origin), f"expected keys and values, found {kind}", fix)
    return node


def parse_value(text: str, origin: Origin, path: str) -> Node:
    """The tree of one value given on the command line: `4`, `500 ms`, `{h100-sxm: 4}`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except YAMLError:
        raise SpecError.one(f"{origin}", f"{text!r} cannot be read", "quote it") from None
    if root is None:
        return Node(None, origin, origin, path)
    builder = _Builder(origin.name, yaml, origin)
    node = builder.build(root, path, origin, 0)
    if builder.problems:
        raise SpecError(*builder.problems)
    return node


class _Builder:
    """Turns the nodes of ruamel into ours, and gathers duplicate keys."""

    def __init__(self, name: str, yaml: Any, fixed: Origin | None = None) -> None:
        self.name, self.yaml, self.fixed = name, yaml, fixed
        self.problems: list[Problem] = []

    def build(self, node: Any, path: str, key: Origin, depth: int) -> Node:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        here = self.at(node)
        if depth > MAX_DEPTH:  # also ends a list that contains itself through an alias
            raise SpecError.one(f"{here} {path}", f"is nested more than {MAX_DEPTH} deep")
        if isinstance(node, MappingNode):
            return Node(self.mapping(node, path, depth), here, key, path)
        if isinstance(node, SequenceNode):
            items = [
                self.build(item, f"{path}[{i}]", self.at(item), depth + 1)
                for i, item in enumerate(node.value)
            ]
            return Node(items, here, key, path)
        return Node(self.scalar(node, path), here, key, path)

    def mapping(self, node: Any, path: str, depth: int) -> dict[str, Node]:
        out: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key_node, value_node in node.value:
            where = self.at(key_node)
            key = key_node.value if isinstance(key_node.value, str) else str(key_node.value)
            here = f"{path}.{key}" if path else key
            child = self.build(value_node, here, where, depth + 1)
            if key == "<<" and isinstance(child.value, (dict, list)):
                for base in child.value if isinstance(child.value, list) else [child]:
                    inherited = dict(base.value) | inherited
            elif key in out:
                first = out[key].key_origin
                self.problems.append(
                    Problem(
                        f"{where} {here}",
                        f"key given twice, first in line {first.line}",
                        "keep one of them",
                    )
                )
            else:
                out[key] = child
        return inherited | out

    def scalar(self, node: Any, path: str) -> Any:
        try:
            value = self.yaml.constructor.construct_object(node, deep=True)
        except Exception as error:
            what = f"{node.value!r} cannot be read: {str(error).splitlines()[0]}"
            self.problems.append(Problem(f"{self.at(node)} {path}".strip(), what, "quote it"))
            return None
        # dates and other rich scalars mean nothing in a description: keep what was written
        return value if isinstance(value, (str, int, float, bool, type(None))) else node.value

    def at(self, node: Any) -> Origin:
        return self.fixed or _at(self.name, node)


def _at(name: str, node: Any) -> Origin:
    return Origin(name, node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax(error: Any, text: str, name: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return Problem(where, "a tab indents this line", "indent with spaces; YAML allows no tabs")
    if "another document" in str(error.problem):
        return Problem(where, "a second document begins here", "one file holds one case")
    if "mapping values are not allowed" in str(error.problem):
        fix = "indent like the lines around it, or quote a text that contains a colon"
        return Problem(where, "a key is not expected here", fix)
    if "<stream end>" in str(error.problem):
        return Problem(where, "the file ends too early", "close every [, { and quote")
    what = str(error.problem or error.context).replace("\n", " ")
    return Problem(where, f"is not YAML: {what}", "see https://yaml.org/spec/1.2.2")
