"""Writing a report's file, or saying in a sentence why it cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from forerun.errors import SpecError


def write_text(path: str | Path, text: str) -> Path:
    """The file at path, replaced whole.  Raises SpecError when it cannot be written."""
    return write(path, lambda target: target.write_text(text, encoding="utf-8"))


def write(path: str | Path, writer: Callable[[Path], object]) -> Path:
    """Run a writer on a path beside it and move the result there, so no half file is left."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.part")
    try:
        writer(beside)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True) if _reachable(beside) else None
        reason = error.strerror or str(error)
        raise SpecError.one(
            str(target), f"cannot be written: {reason}", "a path in a folder you may write to"
        ) from None
    return target


def _reachable(path: Path) -> bool:
    return path.parent.is_dir()
