"""A section of a report: predicted against measured on this machine."""

from __future__ import annotations

from html import escape
from pathlib import Path

from forerun.calibrate.onnx_loop import Compared
from forerun.errors import SpecError
from forerun.report.files import write_text

MARK = '<section id="measured-here">'
_END = "</section><!-- measured-here -->"


def section(compared: Compared) -> str:
    """The comparison as HTML, in the look of `report.html`."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in compared.HEAD)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in compared.rows()
    )
    words = "\n".join(f"<li>{escape(word)}.</li>" for word in compared.words())
    return (
        f"{MARK}\n<h2>Predicted against measured on this machine</h2>\n"
        '<p class="small">A small transformer: operators were measured at other shapes, the model '
        "was predicted from them, and then run.</p>\n"
        f'<div class="box"><div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n<ul>\n{words}\n</ul></div>\n{_END}\n"
    )


def add_section(path: str | Path, compared: Compared) -> Path:
    """Adds the comparison to a report that is there, before "How far to trust this"; a section of
    an earlier comparison is replaced.

    Raises SpecError for a file that is no report.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {error}"
        raise SpecError.one(
            str(path), what, "forerun simulate ... --html FILE writes one"
        ) from None
    if MARK in text and _END in text:
        before, _, rest = text.partition(MARK)
        text = before + rest.partition(_END)[2].lstrip("\n")
    place = text.find("<h2>How far to trust this</h2>")
    if place < 0:
        fix = "forerun simulate ... --html FILE writes one"
        raise SpecError.one(str(path), "is no report of Forerun", fix)
    return write_text(path, text[:place] + section(compared) + "\n" + text[place:])
