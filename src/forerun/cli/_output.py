"""Answers on paper: aligned tables, JSON with a version, CSV; to stdout or a file."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from forerun.cli._options import Output
from forerun.errors import SpecError

#: of the JSON answers; grows when a key changes its meaning or goes away
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; columns of numbers, but the first, stand to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        cells = [[str(c) for c in row] for row in (self.header, *self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        right = [i and all(_is_number(row[i]) for row in cells[1:]) for i in range(len(widths))]
        lines = []
        for row in cells:
            padded = [
                cell.rjust(w) if r else cell.ljust(w)
                for cell, w, r in zip(row, widths, right, strict=True)
            ]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)


def emit(out: Output, *, command: str, text: str, data: Mapping, rows: Sequence[Mapping]) -> None:
    """Writes the answer in the form asked for.

    text : for a human.  data : the whole answer, for --json.  rows : its main table, one flat
    mapping each, for --jsonl and --csv.
    """
    if out.form == "json":
        body = dumps({"schema_version": SCHEMA_VERSION, "command": command, **data}, indent=2)
    elif out.form == "jsonl":
        body = "\n".join(dumps({"schema_version": SCHEMA_VERSION, **row}) for row in rows)
    elif out.form == "csv":
        body = as_csv(rows).rstrip("\n")
    else:
        body = text
    write(out, body)


def write(out: Output, body: str) -> None:
    """The text to stdout or to the file that -o names."""
    if out.to is None or out.to == "-":
        click.echo(body)
        return
    save(out.to, body + "\n")
    out.note(f"wrote {out.to}")


def save(path: str | os.PathLike, body: str | bytes) -> None:
    """Writes a file whole or not at all.  Raises SpecError if it cannot be written."""
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder")
        part.write_bytes(body.encode() if isinstance(body, str) else body)
        part.replace(target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError.one(str(path), f"cannot be written: {reason}", "another path") from None


def check_writable(*paths: str | None) -> None:
    """Raises SpecError now rather than after minutes of simulation."""
    wrong = []
    for path in filter(None, paths):
        folder = Path(path).parent
        if Path(path).is_dir():
            wrong.append(SpecError.one(path, "cannot be written: is a folder", "another path"))
        elif not folder.is_dir():
            wrong.append(
                SpecError.one(path, f"cannot be written: no folder {folder}", f"mkdir -p {folder}")
            )
        elif not os.access(folder, os.W_OK) or (
            Path(path).exists() and not os.access(path, os.W_OK)
        ):
            wrong.append(SpecError.one(path, "cannot be written: no permission", "another path"))
    if wrong:
        raise SpecError(*(problem for error in wrong for problem in error.problems))


def dumps(value: Any, indent: int | None = None) -> str:
    """JSON of plain values, numpy scalars and arrays; nan becomes null, inf a text."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def as_csv(rows: Sequence[Mapping]) -> str:
    """Rows as CSV with a header; the columns are those of the first row."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: _plain(v) for k, v in row.items()} for row in rows)
    return buffer.getvalue()


def _is_number(cell: str) -> bool:
    return cell in ("", "-", "unknown") or cell.lstrip("+-±<>≤≥~ ")[:1].isdigit()
