"""Writes into the guide what `forerun reproduce` prints today.

    python tests/claims/refresh_guide.py FOLDER_OF_MEASUREMENTS

Look at the difference before you commit it: a number that changed is a behaviour that changed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "reproduce.md"
#: the block of the guide that shows the run on published measurements
BLOCK = re.compile(
    r"(```sh\nforerun reproduce sarathi-serve --data \S+\n```\n\n```text\n)(.*?)(```)", re.DOTALL
)


def shown() -> str:
    """The output that the guide shows."""
    found = BLOCK.search(GUIDE.read_text(encoding="utf-8"))
    assert found is not None, "the guide has lost its output"
    return found[2]


def main(data: str) -> None:
    program = [sys.executable, "-c", "from forerun.cli import main; main()", "reproduce"]
    out = subprocess.run(
        [*program, "sarathi-serve", "--data", data], capture_output=True, text=True, check=True
    ).stdout
    text = GUIDE.read_text(encoding="utf-8")
    GUIDE.write_text(BLOCK.sub(lambda m: m[1] + out + m[3], text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
