"""One self-contained HTML file: no script, no network, light and dark, phone to paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from forerun.metrics.figure import text
from forerun.report import table
from forerun.report.charts import FAINT, GRID, HEIGHT, INK, VARIABLES, WIDTH, Chart, charts
from forerun.report.files import write_text
from forerun.report.jsonout import PROVENANCE
from forerun.report.result import Result

NO_PLOTS = "Charts are tables here: pip install 'forerun[plots]' draws them."


def html_text(result: Result) -> str:
    """The report's source."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["tied"] = tied
    found = charts(result)
    pictures = [draw(chart, i) for i, chart in enumerate(found)]
    undrawn = bool(found) and all(picture is None for picture in pictures)
    return environment.get_template("report.html.j2").render(
        result=result,
        headline=_headline(result),
        verdict=table.verdict(result),
        counts=table.counts_words(result.metrics),
        costs=table.cost_words(result.metrics),
        head=table.HEAD,
        groups=list(table.groups(result.metrics)),
        charts=list(zip(found, pictures, strict=True)),
        no_plots=NO_PLOTS if undrawn else "",
        provenance=_provenance(result),
    )


def write_html(result: Result, path: str | Path) -> Path:
    """The report as a file that opens from disk.  Raises SpecError when it cannot be written."""
    return write_text(path, html_text(result))


def tied(words: str) -> str:
    """The words with numbers held to their units across line breaks."""
    return re.sub(r"(\d) (?=[%A-Za-z])", "\\1\u00a0", words)


def draw(chart: Chart, number: int) -> str | None:
    """The chart as inline SVG coloured by CSS variables; None when the extra is not installed."""
    try:
        import vl_convert
    except ImportError:
        return None
    svg = vl_convert.vegalite_to_svg({**chart.spec, **_LOOK})
    return _inline(svg, chart.title, number)


_LOOK: dict[str, Any] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "width": WIDTH,
    "height": HEIGHT,
    "autosize": {"type": "fit", "contains": "padding"},
    "background": None,
    "padding": 4,
    "config": {
        "font": "sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": FAINT, "titleColor": FAINT, "gridColor": GRID, "domainColor": GRID,
            "tickColor": GRID, "labelFontSize": 13, "titleFontSize": 13,
            "titleFontWeight": "normal", "titlePadding": 6,
        },
        "legend": {"labelColor": INK, "labelFontSize": 13, "symbolType": "stroke",
                   "symbolStrokeWidth": 3},
    },
}  # fmt: skip


def _inline(svg: str, title: str, number: int) -> str:
    """SVG fit to stand in a page: scales, takes the page's colours, ids of its own, a name."""
    body = svg[svg.index("<svg") :]
    opening, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', opening)
    width = re.search(r'\bwidth="([\d.]+)', opening)
    height = re.search(r'\bheight="([\d.]+)', opening)
    if box:
        frame = box.group(1)
    elif width and height:
        frame = f"0 0 {width.group(1)} {height.group(1)}"
    else:
        raise ValueError("the drawn chart states no size")
    for stand_in, variable in VARIABLES.items():
        rest = rest.replace(f'"{stand_in}"', f'"var(--{variable})"')
    rest = re.sub(r'id="([^"]+)"', rf'id="c{number}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#c{number}-\1)", rest)
    return f'<svg viewBox="{frame}" role="img" aria-label="{title}">{rest}'


def _headline(result: Result) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the five figures that answer first."""
    m = result.metrics
    out = []
    for name, label in (("ttft_s", "TTFT p99"), ("tpot_s", "TPOT p99"), ("e2el_s", "E2E p99")):
        q = getattr(m, name)
        bounds = q.intervals.get("p99")
        small = f"median {text(q.p50, 's')}"
        if bounds:
            small += f"; 95 % sampling {text(bounds[0], 's')} to {text(bounds[1], 's')}"
        out.append((label, text(q.p99, "s"), small))
    good = m.goodput_per_s
    share = text(m.attainment.value, "share")
    out.append(("Goodput", text(good.value, good.unit), f"{share} of requests are good"))
    rate = m.output_tokens_per_s
    each = m.output_tokens_per_s_per_device
    out.append(("Output", text(rate.value, rate.unit), f"{text(each.value, each.unit)} per device"))
    cost = m.usd_per_million_output_tokens
    if cost.value is not None:
        out.append(
            ("Cost", text(cost.value, "USD"),
             f"per million output tokens, at {text(m.usd_per_hour.value, 'USD/h')}")
        )  # fmt: skip
    energy = m.energy_j_per_output_token
    if energy.value is not None:
        out.append(
            ("Energy", text(energy.value, "J"), f"per output token; {text(m.power_w.value, 'W')}")
        )
    return out


def _provenance(result: Result) -> list[tuple[str, str]]:
    known = {key: result.provenance.get(key) for key in PROVENANCE}
    if known["seed"] is None and result.log is not None:
        known["seed"] = result.log.seed
    rest = {k: v for k, v in sorted(result.provenance.items()) if k not in known}
    return [(k.replace("_", " "), "unknown" if v is None else _words(v))
            for k, v in (known | rest).items()]  # fmt: skip


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(v) for v in value) or "none"
    return str(value)
