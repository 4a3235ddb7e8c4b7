"""Files as text: compressed or not, in blocks of lines, with every way of failing said."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from forerun.errors import TraceError, nearest

BLOCK_BYTES = 8_000_000
HEAD_BYTES = 65_536


@dataclass(frozen=True)
class Head:
    """The beginning of a file, enough to tell its format.

    kind    : "text", "parquet", "folder", or "prefix" (no such file, but a ServeGen pair named so).
    text    : the first 64 KiB, decoded leniently.
    columns : names of a CSV header, lower case; () when the file begins like JSON.
    record  : the first line as a JSON object, or the first object of a JSON list.
    """

    path: Path
    kind: str
    text: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    record: Mapping[str, Any] | None = None

    def has(self, *names: str) -> bool:
        """Are all these columns there?"""
        return set(names) <= set(self.columns)


def open_bytes(path: Path) -> BinaryIO:
    """A binary stream, decompressed if the content is gzip (whatever the name says)."""
    try:
        with path.open("rb") as file:
            magic = file.read(2)
        return gzip.open(path, "rb") if magic == b"\x1f\x8b" else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise TraceError.one(str(path), f"cannot be opened: {error.strerror}") from None


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"the gzip stream is damaged or ends early ({error})"
        raise TraceError.one(str(path), what, "fetch the file again, in whole") from None
    except OSError as error:
        raise TraceError.one(str(path), f"cannot be read: {error.strerror or error}") from None


def head_of(path: str | Path) -> Head:
    """The head of a file.  Raises TraceError for a missing, unreadable or empty one."""
    path = Path(path)
    if path.is_dir():
        return Head(path, "folder")
    if not path.exists():
        return _missing(path)
    with open_bytes(path) as file:
        data = _read(file, HEAD_BYTES, path)
    if data[:4] == b"PAR1":
        return Head(path, "parquet")
    if not data.strip():
        raise TraceError.one(str(path), "the file is empty", "a trace holds at least one request")
    _refuse_binary(data, path)
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    first = text.lstrip().split("\n", 1)[0].strip()
    if first[:1] in ("{", "["):
        return Head(path, "text", text, record=_first_record(text.lstrip()))
    delimiter = next((d for d in (",", ";", "\t") if d in first), ",")
    names = tuple(name.strip().strip('"').lower() for name in first.split(delimiter))
    return Head(path, "text", text, names, delimiter)


def _missing(path: Path) -> Head:
    if path.name and path.parent.is_dir():
        near = [p.name for p in path.parent.iterdir()]
        if any(name.startswith(path.name + "_client_rates.csv") for name in near):
            return Head(path, "prefix")
        raise TraceError.one(
            str(path), "there is no such file", nearest(path.name, near) if near else ""
        )
    raise TraceError.one(str(path), f"there is no such file, and no folder {path.parent}")


def _refuse_binary(data: bytes, path: Path) -> None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        fix = f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        raise TraceError.one(str(path), "the file is UTF-16, not UTF-8", fix)
    if b"\0" in data:
        raise TraceError.one(
            str(path), "the file is binary, not text", "CSV, JSON lines or Parquet"
        )


def _first_record(text: str) -> Mapping[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:  # broken, or longer than the head
        return None
    return value if isinstance(value, dict) else None


def blocks(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Lines in blocks of about 8 MB: (number of the first line, lines without their ends)."""
    path = Path(path)
    line, rest = 1, b""
    with open_bytes(path) as file:
        while True:
            data = _read(file, BLOCK_BYTES, path)
            cut = data.rfind(b"\n") + 1 if data else 0
            if data and not cut:
                rest += data
                continue
            chunk, rest = rest + data[:cut], data[cut:]
            if chunk:
                lines = _decode(chunk, path, line).split("\n")
                if lines and not lines[-1]:
                    lines.pop()  # what stands after the last line end
                yield line, lines
                line += len(lines)
            if not data:
                return


def _decode(chunk: bytes, path: Path, line: int) -> str:
    try:
        text = chunk.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        at = line + chunk[: error.start].count(b"\n")
        what = f"byte 0x{chunk[error.start]:02x} is not UTF-8 text"
        fix = f"iconv -f LATIN1 -t UTF-8 {path.name} > utf8-{path.name}  (if it is Latin-1)"
        raise TraceError.one(f"{path}:{at}", what, fix) from None
    return text.replace("\r\n", "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file, gzip-compressed when its name ends in .gz (same text, same bytes)."""
    path = Path(path)
    data = text.encode()
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
            file.write(data)
        data = buffer.getvalue()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise TraceError.one(str(path), f"cannot be written: {error.strerror}") from None
