"""Every command and every snippet of the README and the documentation runs and prints what is said.

When outputs have changed for a good reason: `python -m tests.docs.refresh`.
"""

from pathlib import Path

import pytest
from pages import NOT_RUN, ROOT, blocks, commands, is_run, masked, pages, refreshed, run


@pytest.mark.parametrize("path", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_page_does_what_it_says(path: Path, tmp_path: Path):
    wrong = [r for r in run(path, tmp_path) if not r.same]
    told = "\n\n".join(
        f"{r.where}: $ {r.command}\n{r.problem or 'prints something else'}\n--- page\n"
        f"{masked(r.expected)}\n--- now\n{masked(r.actual)}"
        for r in wrong
    )
    where = path.relative_to(ROOT)
    assert not wrong, f"{told}\n\nif this is right: python -m tests.docs.refresh {where}"


def test_a_changed_output_is_noticed_and_refreshed(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# P\n\n```console\n$ echo one\nONE\n$ echo two\ntwo\n```\n\n```python\nprint(3)\n```\n\n"
        "```text\n4\n```\n"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    assert [r.same for r in run(page, folder)] == [False, True, False]
    text, problems = refreshed(page, folder)
    assert "$ echo one\none\n$ echo two\ntwo\n" in text
    assert "```text\n3\n```" in text
    assert not problems


def test_a_failing_command_is_a_problem_unless_its_code_is_asked_for(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ false\n```\n\n```console\n$ (exit 3)\n$ echo $?\n3\n```\n")
    assert [r.problem for r in run(page, tmp_path)] == ["exits 1", "", ""]


def test_only_declared_commands_are_not_run():
    shown = [
        command
        for path in pages()
        for block in blocks(path.read_text(encoding="utf-8"))
        if block.language == "console"
        for command, _ in commands(block.text)
    ]
    run_here = [command for command in shown if is_run(command)]
    assert len(run_here) > 40
    assert {c for c in shown if not is_run(c)}, "the list of commands not run has gone stale"
    assert all(reason for reason in NOT_RUN.values())
