"""Writes into the pages what their commands print today.

    python -m tests.docs.refresh [PAGE.md ...]

Look at the difference before you commit it: an output that changed is a behaviour that changed.
What docs/guides/reproduce.md says of published measurements: tests/claims/refresh_guide.py.
Exits 1 when a command fails that the page does not expect to fail.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.pages import pages, refreshed


def main(names: list[str]) -> int:
    wrong = 0
    for path in [Path(name).resolve() for name in names] or pages():
        with tempfile.TemporaryDirectory() as folder:
            text, problems = refreshed(path, Path(folder))
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"{path}: outputs written anew")
        for ran in problems:
            print(f"{ran.where}: {ran.command}: {ran.problem or 'prints, and shows no output'}")
            print("  " + ran.actual.replace("\n", "\n  "))
        wrong += len(problems)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
