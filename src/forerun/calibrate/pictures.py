"""Pictures of what was recorded beside what is predicted, drawn from Vega-Lite descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forerun.errors import MissingDependency

GREY = "#808080"  # reads on light and dark
COLOURS = ("#3b82c4", "#d97706", "#2a9d5c", "#b65fcf", "#c4453b", "#808080", "#0e9aa7", "#8a6d3b")


def side_by_side(plots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One description of several plots, two or three a row, that reads on light and on dark."""
    axis = {
        "domainColor": GREY, "gridColor": GREY, "gridOpacity": 0.2, "tickColor": GREY,
        "labelColor": GREY, "titleColor": GREY, "titleFontWeight": "normal",
    }  # fmt: skip
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": None,
        "concat": list(plots),
        "columns": 2 if len(plots) % 2 == 0 else 3,
        "config": {
            "axis": axis, "view": {"stroke": None}, "title": {"color": GREY, "fontSize": 12},
            "legend": {"labelColor": GREY, "titleColor": GREY},
            "range": {"category": list(COLOURS)},
        },
    }  # fmt: skip


def both(
    title: str, x: str, y: str, rows: Sequence[dict[str, Any]], *, log: bool = False,
    points: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Points as recorded and a line as simulated over one axis.

    rows : {"x", "recorded", "simulated"} each; x, y : titles of the axes; log : of y.
    points : recorded values as points, else as a line.
    """
    x_axis = {"field": "x", "type": "quantitative", "title": x}
    y_axis: dict[str, Any] = {"type": "quantitative", "title": y}
    if log:
        y_axis["scale"] = {"type": "log", "nice": False}
    colour = {
        "type": "nominal", "title": None,
        "scale": {"domain": ["recorded", "simulated"], "range": [COLOURS[0], COLOURS[1]]},
    }  # fmt: skip
    marks: dict[str, dict[str, Any]] = {
        "recorded": {"type": "point", "filled": True, "size": 40} if points else {"type": "line"},
        "simulated": {"type": "line"} if points else {"type": "line", "strokeDash": [5, 3]},
    }
    return {
        "title": title, "width": 230, "height": 190, "data": {"values": list(rows)},
        "layer": [
            {"mark": mark,
             "transform": [{"calculate": f"'{name}'", "as": "of"}],
             "encoding": {"x": x_axis, "y": {"field": name, **y_axis},
                          "color": {"field": "of", **colour}}}
            for name, mark in marks.items()
        ],
    }  # fmt: skip


def draw(plots: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write plots side by side as SVG.  Raises MissingDependency without vl-convert."""
    try:
        import vl_convert
    except ImportError:
        raise MissingDependency.one(
            "--plot", "needs vl-convert", "pip install 'forerun[plots]'"
        ) from None
    svg = vl_convert.vegalite_to_svg(side_by_side(plots))
    slim = re.sub(r' (?:aria-[a-z]+|role)="[^"]*"', "", svg)  # a third of it
    Path(path).write_text(slim + "\n", encoding="utf-8")
