"""`Store`: every finished point under its content hash, so that a stopped search resumes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from functools import lru_cache
from pathlib import Path
from typing import Any

from forerun import paths
from forerun.version import __version__

#: rooms whose code decides what a point says; costs and requests are in its key as values
_ROOMS = ("sim", "metrics", "plan")


class Store:
    """A table key -> JSON in one sqlite file (WAL: workers write at once), or in memory.

    An unreadable or unwritable file is no error: the store then keeps points for this run only.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.n_read = self.n_written = 0
        self._rows = self._open()
        self._n_before = self._count()

    def _count(self) -> int:
        return self._rows.execute("SELECT COUNT(*) FROM points").fetchone()[0]

    @property
    def n_new(self) -> int:
        """Points that came since it was opened, those of worker processes among them."""
        return self._count() - self._n_before

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                return self._table(sqlite3.connect(self.path, timeout=60))
            except (sqlite3.Error, OSError):
                self.path = None
        return self._table(sqlite3.connect(":memory:"))

    def _table(self, rows: sqlite3.Connection) -> sqlite3.Connection:
        rows.execute("PRAGMA journal_mode=WAL")
        rows.execute("PRAGMA synchronous=NORMAL")
        rows.execute("CREATE TABLE IF NOT EXISTS points (key TEXT PRIMARY KEY, value TEXT)")
        rows.commit()
        return rows

    def get(self, key: str) -> Any:
        """The value stored, or None."""
        row = self._rows.execute("SELECT value FROM points WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self.n_read += 1
        return json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        """Keeps a value for good; what is stored already stays."""
        with self._rows:
            self._rows.execute("INSERT OR IGNORE INTO points VALUES (?, ?)",
                               (key, json.dumps(value)))  # fmt: skip
        self.n_written += 1

    def close(self) -> None:
        self._rows.close()


def usual_path() -> Path:
    """Where plans keep their points: `plan.sqlite` in the cache folder."""
    return paths.cache_dir() / "plan.sqlite"


def digest(*parts: Any) -> str:
    """A hash of bytes, texts, arrays (None among them) and plain values, in order."""
    whole = hashlib.sha256()
    for part in parts:
        if part is None:
            raw = b"-"
        elif isinstance(part, bytes):
            raw = part
        elif hasattr(part, "tobytes"):
            raw = str(part.dtype).encode() + part.tobytes()
        else:
            raw = json.dumps(part, sort_keys=True).encode()
        whole.update(len(raw).to_bytes(8, "little") + raw)
    return whole.hexdigest()[:32]


@lru_cache(maxsize=1)
def code_version() -> str:
    """Changes with the version and with any line of the rooms that make a point."""
    here = Path(__file__).parents[1]
    files = sorted(path for room in _ROOMS for path in (here / room).rglob("*.py"))
    return digest(__version__, *(path.read_bytes() for path in files))
