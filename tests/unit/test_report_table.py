"""The terminal table: plain where no terminal is, with a unit beside every number."""

import io
import re
import sys

from handmade_logs import many_requests, three_requests

from forerun.metrics.reason import explain
from forerun.metrics.score import score
from forerun.report import table
from forerun.report.progress import Progress
from forerun.report.result import Result
from forerun.spec.slo import Slo


def result(log=None, slo=None, **changes):
    log = log or three_requests()
    slo = slo or Slo(ttft_s=3, tpot_s=3)
    m = score(log, slo, price_usd_per_hour=3.6, carbon_gco2e_per_kwh=360)
    values = dict(title="three requests", metrics=m, slo=slo, log=log,
                  setup={"model": "toy"}, reasons=tuple(explain(log, m)),
                  provenance={"forerun_version": "1.2.3"})  # fmt: skip
    return Result(**(values | changes))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_plain_text():
    out = io.StringIO()
    table.show(result(), out)
    assert out.getvalue() == table.plain(result())
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_the_same_figures(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    table.show(result(), out)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    for _, lines in table.groups(result().metrics):
        for label, value, *_ in lines:
            assert label in bare
            assert value in bare


def test_every_value_has_a_unit_or_is_unknown():
    m = result(many_requests(100)).metrics
    for _, lines in table.groups(m):
        for label, value, *_ in lines:
            assert value == "unknown" or re.search(r"\d (%|\D)", value), (label, value)


def test_a_sampling_interval_and_a_model_band_stand_in_their_own_columns():
    lines = dict(table.groups(result(many_requests(300)).metrics))["latency"]
    p50 = next(line for line in lines if line[0] == "time to first token, p50")
    assert " to " in p50[2]
    assert " to " in p50[3]
    assert p50[2] != p50[3]


def test_the_verdict_is_a_sentence():
    assert table.verdict(result()).startswith("SLO missed: 33.3 % of requests are good")
    assert "time to first token <= 3 s" in table.verdict(result())
    assert table.verdict(result(slo=Slo())) == "no SLO was given"


def test_a_figure_nobody_asked_for_is_left_out():
    groups = dict(table.groups(score(three_requests())))
    assert "money" not in groups
    assert "carbon" not in groups


def test_the_progress_bar_is_silent_without_a_terminal(capsys):
    with Progress("working") as bar:
        bar.update(1, 2)
    assert capsys.readouterr().err == ""


def test_the_progress_bar_shows_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("working") as bar:
        bar.update(1, 2)
    assert "working" in terminal.getvalue()
    assert not Progress("working", quiet=True).shown
