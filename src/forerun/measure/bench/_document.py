"""What a file holds: one JSON or YAML document, or one JSON object a line; gzip too."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forerun.errors import SpecError

MOST_BYTES = 2 << 30


def documents(path: Path) -> list[Any]:
    """The documents of a file; one unless it is JSON lines.

    Raises SpecError for a file that is missing, empty, damaged or not text.
    """
    text = _text(path)
    first = text.lstrip()[:1]
    if not first:
        raise SpecError.one(str(path), "is empty", "the result file of a benchmark")
    if first not in "[{":
        return [_yaml(text, path)]
    try:
        return [json.loads(text)]
    except json.JSONDecodeError as error:
        if "Extra data" not in error.msg:
            where = f"{path}:{error.lineno}:{error.colno}"
            raise SpecError.one(where, f"is damaged JSON ({error.msg})", "save it again") from None
    return list(_lines(text, path))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError.one(str(path), "is larger than 2 GiB", "a shorter benchmark")
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError.one(str(path), f"cannot be read: {reason}", "check the path") from None
    except (EOFError, zlib.error) as error:
        raise SpecError.one(str(path), f"is damaged gzip ({error})", "fetch it again") from None
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.start})"
        raise SpecError.one(str(path), what, "the result as JSON") from None


def _lines(text: str, path: Path) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                what = f"is damaged JSON ({error.msg})"
                raise SpecError.one(f"{path}:{number}", what, "remove that line") from None


def _yaml(text: str, path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        what = f"is neither JSON nor YAML ({str(error).splitlines()[0]})"
        raise SpecError.one(str(path), what, "the result file of a benchmark") from None
