"""Every file of examples/ runs as its first lines say, each command of them."""

import re
import shlex
from pathlib import Path

import pytest
from pages import ROOT

from forerun.cli import main
from forerun.cli.simulate import MISSED

COMPILING = "compiling the simulator for this machine (once, about 15 s) ...\n"
COMMANDS = [
    (path, command.partition(" | ")[0])
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for command in re.findall(r"(?m)^#   forerun (.*)$", path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[c for _, c in COMMANDS])
def test_example_does_what_it_says(path: Path, command: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(shlex.split(command, comments=True))
    told = capsys.readouterr()
    assert end.value.code in (None, 0, MISSED), told.err
    assert not told.err.replace(COMPILING, ""), told.err
    assert str(path.relative_to(ROOT)) in command
    assert told.out.strip()
    assert "nan" not in re.findall(r"[a-z]+", told.out)


def test_every_example_says_how_it_is_run():
    paths = {path for path, _ in COMMANDS}
    assert paths == set((ROOT / "examples").glob("*.yaml"))
