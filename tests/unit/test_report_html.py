"""One file that needs no network, with and without the charting extra; and the trace."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from handmade_logs import S, many_requests, three_requests
from test_report_table import result

from forerun.errors import SpecError
from forerun.report import html, perfetto
from forerun.report.charts import VARIABLES, charts
from forerun.sim.leaps import span_ps
from forerun.spec.slo import Slo

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "rect", "line"}


class Page(HTMLParser):
    """Tags that stay open, links, ids and text."""

    def __init__(self, source):
        super().__init__()
        self.open, self.links, self.ids, self.words, self.tags = [], [], [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data")]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def source():
    pytest.importorskip("vl_convert")
    return html.html_text(result(many_requests(150), Slo(ttft_s=0.3, tpot_s=1, e2el_s=9)))


def test_the_page_loads_nothing(source):
    page = Page(source)
    assert page.open == []
    assert [link for link in page.links if not link.startswith("#")] == []
    assert "script" not in page.tags
    assert not re.search(r"@import|url\((?!#)", source)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", source)


def test_every_chart_is_drawn_in_the_pages_colours(source):
    page = Page(source)
    assert page.tags.count("svg") == len(charts(result(many_requests(150))))
    assert not any(stand_in in source for stand_in in VARIABLES)
    for variable in VARIABLES.values():
        assert f"var(--{variable})" in source
        assert source.count(f"--{variable}:") == 3  # light, dark and print
    assert len(page.ids) == len(set(page.ids))


def test_the_page_answers(source):
    words = Page(source).words.replace("\u00a0", " ")
    for part in ("SLO ", "TTFT p99", "Goodput", "Step time by operator", "matmul", "Provenance",
                 "1.2.3", "roofline", "sampling 95 %", "model 80 %"):  # fmt: skip
        assert part in words, part
    assert "nan" not in words.lower().split()


def test_without_the_extra_tables_stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    page = Page(html.html_text(result(many_requests(150))))
    assert "svg" not in page.tags
    assert "pip install 'forerun[plots]'" in page.words
    assert "percentile" in page.words


def test_titles_and_words_are_escaped():
    page = Page(html.html_text(result(title="<b>&", setup={"x": "<script>alert(1)</script>"})))
    assert "script" not in page.tags
    assert "<b>&" in page.words


def test_small_and_poor_logs_give_a_page():
    none = three_requests(requests=three_requests().requests[:0], leaps=three_requests().leaps[:0],
                          gaps=three_requests().gaps[:0])  # fmt: skip
    for log in (three_requests(), three_requests(leaps=None, gaps=None), none,
                replace(none, end_ps=0)):  # fmt: skip
        assert Page(html.html_text(result(log))).open == []
    assert Page(html.html_text(replace(result(), log=None))).open == []


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(SpecError, match="cannot be written"):
        html.write_html(result(), tmp_path / "no" / "report.html")


def test_the_trace_holds_every_leap_and_request(tmp_path):
    log = three_requests()
    assert perfetto.write_trace(log, tmp_path / "trace.json") == ""
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert [e["name"] for e in slices] == ["prefill", "prefill", "decode x 2"]
    assert [(e["ts"], e["dur"]) for e in slices] == [(0, 2e6), (2e6, 3e6), (5e6, 3e6)]
    assert sum(e["dur"] for e in slices) == pytest.approx(span_ps(log.leaps).sum() / S * 1e6)
    blocks = [e["args"]["kv blocks"] for e in events if e["name"] == "kv blocks"]
    assert blocks == [7, 10, 7]
    opened = [(e["id"], e["name"]) for e in events if e["ph"] == "b"]
    closed = [(e["id"], e["name"]) for e in events if e["ph"] == "e"]
    assert sorted(opened) == sorted(closed)
    assert {number for number, _ in opened} == {0, 1, 2}


def test_a_cut_trace_says_so():
    found, sentence = perfetto.trace(many_requests(50), max_leaps=10, max_requests=5)
    assert "the first 10 of" in sentence
    assert "the first 5 of 50 requests" in sentence
    assert found["otherData"]["cut"] == sentence
    assert sum(e["ph"] == "X" for e in found["traceEvents"]) == 10


def test_a_trace_without_steps_says_so():
    _, sentence = perfetto.trace(three_requests(leaps=None, gaps=None))
    assert "kept no steps" in sentence
    assert np.isfinite(S)
