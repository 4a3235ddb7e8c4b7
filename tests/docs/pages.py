"""Runs what stands in the pages and says what came out.

A page is Markdown.  In it these fenced blocks are run, in order, in one fresh folder a page that
holds a copy of `examples/`:

    console   each line "$ command" is a shell command, what follows is its whole output
    python    run in one namespace a page; a `text` block right after it is its output
    any       with a first line "# name.yaml" it is written to that file (without that line where
              the format, csv, has no comments)

A command must succeed, unless the next one is `echo $?`.  Nothing else of a page is run.  What is
not run, and what may differ between machines, is declared in this file and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: first words of commands that are shown and not run, and why
NOT_RUN = {
    "make": "sets up whole environments; the continuous check runs it",
    "pip": "installs",
    "source": "changes the reader's shell",
    "git": "works on a clone",
    "python -m benchmarks": "measures this machine",
    "python -m benchmarks.vidur_same_work": "needs traces that do not ship",
}

#: (what may differ between machines, what is compared instead), on both sides
MASKS = (
    # doctor: what this machine has
    (r"(?m)^(forerun|cores|memory|GPU|energy counters|compiled core|cache|data|settings) .*$",
     r"\1 <of this machine>"),
    (r"(?m)^(numpy|numba|pydantic|polars|altair|vl-convert-python|highspy) .*$", r"\1 <version>"),
    (r"(?m)^(part) +found .*$", r"\1 found means"),
    # and so the width of its columns
    (r"(?m)^(catalog|measured here|calibrated|modelled)  +(.*?)  +(.*)$", r"\1  \2  \3"),
    # the first run compiles the core and says so
    (r"(?m)^.*compil(ing|ed).*(once|cached|cache).*\n?", ""),
    # changes with every entry of the catalog
    (r"catalog [0-9a-f]{16}", "catalog <hash>"),
    (r"forerun \d+\.\d+\.\d+", "forerun <version>"),
)  # fmt: skip

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.\w+)\n")


@dataclass
class Block:
    """One fenced block: its language, its text, and where in the page the text stands."""

    language: str
    text: str
    start: int
    end: int
    line: int
    follows: bool  # only white space lies between it and the block before


@dataclass
class Ran:
    """A block's printed output as the page has it and as it came."""

    where: str
    command: str
    expected: str
    actual: str
    block: Block
    problem: str = ""

    @property
    def same(self) -> bool:
        return not self.problem and masked(self.expected) == masked(self.actual)


@dataclass
class Page:
    """The blocks of a page and the folder it runs in."""

    path: Path
    folder: Path
    namespace: dict = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


def pages() -> list[Path]:
    """Every page that is executed."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def masked(text: str) -> str:
    """The text with what may differ between machines taken out."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    out: list[Block] = []
    last = 0
    for match in _FENCE.finditer(text):
        start, end = match.span(2)
        line = text.count("\n", 0, start) + 1
        follows = bool(out) and not text[last : match.start()].strip()
        out.append(Block(match[1], match[2], start, end, line, follows))
        last = match.end()
    return out


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, output) of a console block; a command goes on after a backslash."""
    for part in re.split(r"(?m)^\$ ", text)[1:]:
        lines = part.split("\n")
        n = 1
        while lines[n - 1].endswith("\\"):
            n += 1
        yield "\n".join(lines[:n]), "\n".join(lines[n:]).strip("\n")


def is_run(command: str) -> bool:
    """Whether a command is run; see NOT_RUN."""
    return not any(command == w or command.startswith(w + " ") for w in NOT_RUN)


def run(path: Path, folder: Path) -> Iterator[Ran]:
    """Runs a page in a folder and yields everything that prints, as it goes."""
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    page = Page(path, folder, {"__name__": path.stem})
    found = blocks(page.text)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for i, block in enumerate(found):
        where = f"{name}:{block.line}"
        if own := _FILE.match(block.text):
            text = block.text[own.end() :] if own[1].endswith(".csv") else block.text
            (folder / own[1]).write_text(text, encoding="utf-8")
        elif block.language == "console":
            yield from _console(block, folder, where)
        elif block.language == "python":
            after = found[i + 1] if i + 1 < len(found) else None
            shown = after if after and after.language == "text" and after.follows else None
            yield _python(block, shown, page, where)


def _console(block: Block, folder: Path, where: str) -> Iterator[Ran]:
    listed = list(commands(block.text))
    code = 0
    for i, (command, expected) in enumerate(listed):
        if not is_run(command):
            yield Ran(where, command, expected, expected, block)
            continue
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; (exit {code})\n{command}"],
            cwd=folder, env=environment(), text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        code = done.returncode
        asked = i + 1 < len(listed) and listed[i + 1][0] == "echo $?"
        problem = "" if code == 0 or asked else f"exits {code}"
        if "Traceback (most recent call last)" in done.stdout:
            problem = "shows a stack trace"
        yield Ran(where, command, expected, done.stdout.strip("\n"), block, problem)


def _python(block: Block, shown: Block | None, page: Page, where: str) -> Ran:
    said = io.StringIO()
    problem = ""
    with contextlib.chdir(page.folder), contextlib.redirect_stdout(said):
        try:
            exec(compile(block.text, where, "exec"), page.namespace)
        except Exception as error:
            problem = f"raises {type(error).__name__}: {error}"
    expected = shown.text.strip("\n") if shown else ""
    first = block.text.strip().partition("\n")[0]
    return Ran(where, first, expected, said.getvalue().strip("\n"), shown or block, problem)


def environment() -> dict[str, str]:
    """The variables of a page's commands: none of the reader's own settings."""
    kept = ("FORERUN_CACHE_DIR", "FORERUN_JIT")
    env = {k: v for k, v in os.environ.items() if not k.startswith("FORERUN_") or k in kept}
    return env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "XDG_CONFIG_HOME": ".config",  # in the page's folder, where there is none
        "XDG_DATA_HOME": ".data",
    }


def refreshed(path: Path, folder: Path) -> tuple[str, list[Ran]]:
    """The page with every output as it comes now, and what has a problem besides its output."""
    text = path.read_text(encoding="utf-8")
    ran = list(run(path, folder))
    edits: dict[int, tuple[int, str]] = {}
    for block in {id(r.block): r.block for r in ran}.values():
        mine = [r for r in ran if r.block is block]
        if all(r.same for r in mine) or block.language == "python":
            continue
        if block.language == "console":
            new = "".join(f"$ {r.command}\n" + _lines(_kept(r)) for r in mine)
        else:
            new = _lines(mine[0].actual)
        edits[block.start] = (block.end, new)
    for start in sorted(edits, reverse=True):
        end, new = edits[start]
        text = text[:start] + new + text[end:]
    return text, [r for r in ran if r.problem or (r.block.language == "python" and not r.same)]


def _kept(r: Ran) -> str:
    return r.expected if r.same else "\n".join(line.rstrip() for line in r.actual.splitlines())


def _lines(text: str) -> str:
    return text + "\n" if text else ""
