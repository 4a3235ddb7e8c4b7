"""Plain CSV or Parquet: one row a request, columns by their usual names.

Arrival: arrival_s, timestamp, ... in seconds, or with a suffix _ms, _us, _ns; wall-clock strings
and seconds since 1970 are counted from the first row.  Lengths: isl | input_tokens |
prompt_tokens ... and osl | output_tokens ....  Optional: priority, session, tenant, deadline_s;
images, image_width, image_height (in pixels): images of a prompt, whose tokens isl leaves out;
image_hashes: a word for each of them, with spaces between, the same for the same image;
audio_s: with it they are pieces of sound, each so many seconds long.
adapter (a number, -1 for none); took_s, what the answer took from arrival to its end;
kept_tokens and attended_tokens, 0 for none.
For a response cache: query_id (requests with one have the same text), question_id (the same right
answer; each text a question of its own when absent), category.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import MissingDependency, TraceError
from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, head_of, write_text
from forerun.spec.traces._table import (
    Column,
    Table,
    clock_ns,
    header_error,
    number_of,
    read_csv,
    whole_labels,
)
from forerun.spec.wordings import Wordings, apart

NAME = "plain"
MAX_ADAPTER = 99_999  # a replica has a row for each of them

_TIME = (
    "arrival_s", "arrived_at_s", "arrived_at", "arrival_time_s", "arrival_time", "arrival",
    "timestamp_s", "timestamp", "start_time", "time_s", "time",
)  # fmt: skip
_DIVIDE = {"_ms": 1e3, "_us": 1e6, "_ns": 1e9}
_ISL = (
    "isl", "input_tokens", "prompt_tokens", "input_length", "input_len", "prompt_len",
    "prompt_length", "context_tokens", "num_prefill_tokens", "prompt_size", "input_toks",
)  # fmt: skip
_OSL = (
    "osl", "output_tokens", "completion_tokens", "output_length", "output_len", "response_tokens",
    "generated_tokens", "completion_len", "num_decode_tokens", "token_size", "output_toks",
)  # fmt: skip
_OPTIONAL = {
    "priority": Column(("priority",), required=False),
    "session": Column(("session", "session_id", "conversation_id"), "text", required=False),
    "tenant": Column(("tenant", "tenant_id", "user", "user_id"), "text", required=False),
    "model": Column(("model", "model_name"), "text", required=False),
    "adapter": Column(("adapter", "lora", "adapter_id"), required=False),
    "deadline_s": Column(("deadline_s",), required=False),
    "took_s": Column(("took_s", "e2el_s", "e2e_s", "elapsed_s"), required=False),
    "n_items": Column(("images", "n_images", "num_images"), required=False),
    "item_width": Column(("image_width",), required=False),
    "item_height": Column(("image_height",), required=False),
    "item_names": Column(("image_hashes", "mm_hashes"), "text", required=False),
    "item_s": Column(("audio_s",), required=False),
    "kept_tokens": Column(("kept_tokens",), required=False),
    "attended_tokens": Column(("attended_tokens",), required=False),
    "query": Column(("query_id", "query", "text_id"), "text", required=False),
    "question": Column(("question_id", "question"), "text", required=False),
    "category": Column(("category",), "text", required=False),
}
_EPOCH_S = 1e8  # a first arrival beyond this (three years) is a clock, not a time since the start
_EPOCH_MS = 1e11


def detect(head: Head) -> float:
    """Low, so that a format with its own column names goes first."""
    if head.kind == "parquet":
        return 0.1
    return 0.1 if any(map(head.has, _ISL)) and any(map(head.has, _OSL)) else 0.0


def _time_columns() -> tuple[str, ...]:
    stems = [name.removesuffix("_s") for name in _TIME]
    return _TIME + tuple(f"{a}{b}" for a, b in itertools.product(dict.fromkeys(stems), _DIVIDE))


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a plain table; without a time column all arrive at 0."""
    head = head_of(path)
    faults = Faults(path, "row " if head.kind == "parquet" else "")
    columns = _parquet_columns(head.path) if head.kind == "parquet" else head.columns
    found = [name for name in _time_columns() if name in columns]
    if len(found) > 1:
        raise header_error(head.path, f"{' and '.join(found)} could all be the arrival")
    wanted = {"isl": Column(_ISL), "osl": Column(_OSL), **_OPTIONAL}
    if found:
        clock = head.kind == "text" and _is_clock(head, found[0])
        wanted["arrival"] = Column((found[0],), "clock" if clock else "number")
    if head.kind == "parquet":
        table = _read_parquet(head.path, wanted, columns)
    else:
        table = read_csv(head, wanted, faults)
    values: dict[str, Any] = {"arrival": None, **table.columns}
    meta: dict[str, Any] = {}
    if found:
        values["arrival"], meta = _seconds(values["arrival"], found[0], head.path)
    extra = {name: values.pop(name) for name in _OPTIONAL if name in values}
    for name, labels in table.labels.items():
        if name == "model":  # its numbers are places in this list
            meta["models"] = tuple(labels)
        elif name in _TEXTS or name == "item_names":
            meta[name] = tuple(labels)
        else:
            if name == "tenant":
                numbers = whole_labels(np.arange(len(labels)), labels)
                named = zip(numbers.tolist(), labels, strict=True)
                meta["tenants"] = {label: number for number, label in named if label}
            extra[name] = whole_labels(extra[name], labels)
    wordings = _texts(extra, meta, head.path)
    for name in ("kept_tokens", "attended_tokens"):
        if name in extra:
            extra[name] = _whole_or_none(extra[name], name, head.path)
    lines = table.lines
    for name in [one for one in _WHOLE if one in extra]:
        bad = _refused(faults, name, extra[name], lines)
        values = {n: None if v is None else v[~bad] for n, v in values.items()}
        extra, lines = {n: v[~bad] for n, v in extra.items()}, lines[~bad]
        extra[name] = extra[name].astype(np.int64)
    names = _item_names(extra, meta, head.path)
    requests = build(
        faults, format=NAME, n_rows=table.n_rows, lines=lines, **values,
        extra=extra, items=names, meta=meta, skip_bad=skip_bad, sort=sort,
    )  # fmt: skip
    return requests if wordings is None else replace(requests, wordings=wordings)


def _whole_or_none(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """A column of counts, int64 [N]; 0 stands for none.  Raises TraceError for what is no count."""
    bad = np.flatnonzero(~(values >= 0) | (values % 1 != 0))
    if bad.size:
        what = f"{name} {values[bad[0]]:g} is not a whole number of tokens"
        raise TraceError.one(str(path), what, "0 for none")
    return values.astype(np.int64)


def _item_names(
    columns: dict[str, Any], labels: dict[str, Any], path: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers for the words in image_hashes, which is taken out, and where each row's begin.

    Raises TraceError where a row has another number of them than of images.
    """
    if "item_names" not in columns:
        return None
    which, cells = columns.pop("item_names"), [cell.split() for cell in labels.pop("item_names")]
    count = np.array([len(cell) for cell in cells], dtype=np.int64)[which]
    shown = columns.get("n_items")
    if shown is None:
        columns["n_items"] = shown = count
    if (bad := np.flatnonzero((count > 0) & (count != shown))).size:
        i = bad[0]
        what = f"a row has {shown[i]:g} images and {count[i]} image_hashes"
        raise TraceError.one(str(path), what, "one for each image, or none")
    codes: dict[str, int] = {}
    numbers = [[codes.setdefault(word, len(codes)) for word in cell] for cell in cells]
    rows = [
        numbers[k] or [-1] * int(n) for k, n in zip(which.tolist(), shown.tolist(), strict=True)
    ]
    flat = [k for row in rows for k in row]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return np.array(flat, dtype=np.int64), starts


_TEXTS = ("query", "question", "category")


def _texts(columns: dict[str, Any], labels: dict[str, Any], path: Path) -> Wordings | None:
    """What requests ask, from columns that are taken out; `wording` is put in for them.

    Raises TraceError where one text asks two things, or is of two categories.
    """
    found = {name: columns.pop(name) for name in _TEXTS if name in columns}
    names = {name: labels.pop(name) for name in found}
    if "query" not in found:
        if found:
            what = f"a column {next(iter(found))} and no query_id"
            raise header_error(path, what, "query_id: which requests have the same text")
        return None
    query = found["query"]
    n = len(names["query"])
    of: dict[str, np.ndarray] = {"question": np.arange(n), "category": np.zeros(n, dtype=np.int64)}
    for name in found.keys() & of.keys():
        of[name][query] = found[name]
        if (bad := np.flatnonzero(of[name][query] != found[name])).size:
            text = names["query"][query[bad[0]]]
            what = f"the text {text!r} has more than one {name}"
            raise TraceError.one(str(path), what, f"one {name} for each query_id")
    columns["wording"] = np.where(np.array([bool(t) for t in names["query"]])[query], query, -1)
    return apart(of["question"], of["category"], names.get("category", ("all",)))


#: columns of whole numbers, and the least and the most that each may be
_WHOLE = {
    "priority": (-np.inf, np.inf), "adapter": (-1, MAX_ADAPTER), "n_items": (0, np.inf),
    "item_width": (0, np.inf), "item_height": (0, np.inf),
}  # fmt: skip


def _refused(faults: Faults, name: str, numbers: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Rows whose number in a column of whole ones is none, or none of those that it may be: bool
    [N]."""
    least, most = _WHOLE[name]
    bad = ~(np.abs(numbers) < 2**53) | (numbers % 1 != 0) | (numbers < least) | (numbers > most)
    words = "is not whole"
    if name == "adapter":
        words = f"is not a number from -1 to {MAX_ADAPTER}"
    elif least == 0:
        words = "is not whole, or is below 0"
    shown = name if name == "adapter" else _OPTIONAL[name].names[0]
    faults.add_where("not_whole", bad, lines, lambda i: f"{shown} {numbers[i]:g} {words}")
    return bad


def _is_clock(head: Head, column: str) -> bool:
    """Does the first row that can be read hold a date, not a number?"""
    place = head.columns.index(column)
    for line in itertools.islice(head.text.split("\n"), 1, 20):
        text = (line.split(head.delimiter) + [""] * len(head.columns))[place].strip().strip('"')
        try:
            number_of(text)
            return False
        except ValueError:
            try:
                clock_ns(np.array([text]))
                return True
            except ValueError:
                continue
    return False


def _seconds(values: np.ndarray, column: str, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Arrivals in seconds (or clock nanoseconds as they are), and what was assumed."""
    if values.dtype.kind == "i":
        return values, {}
    values = values / _DIVIDE.get(column[-3:], 1.0)
    sound = values[np.isfinite(values) & (values >= 0)]
    first = float(sound.min()) if len(sound) else 0.0
    if first >= _EPOCH_MS:
        what = f"{column}: {first:.15g} s is too far away to be seconds since 1970"
        raise header_error(path, what, f"name the column {column}_ms, {column}_us or {column}_ns")
    if first >= _EPOCH_S:
        start = str(np.datetime64(round(first * 1e6), "us"))
        return values - first, {"start": start}
    return values, {}


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes CSV, or Parquet when the name ends in .parquet; times to the last bit."""
    names = (
        "arrival_s", "isl", "osl", "priority", "session", "tenant", "adapter", "deadline_s",
        "kept_tokens", "attended_tokens",
    )  # fmt: skip
    columns = {n: v for n in names if (v := getattr(requests, n)) is not None}
    if Path(path).suffix == ".parquet":
        try:
            _polars().DataFrame(columns).write_parquet(Path(path))
        except OSError as error:
            raise TraceError.one(str(path), f"cannot be written: {error}") from None
    else:
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        body = "".join(",".join(map(repr, row)) + "\n" for row in rows)
        write_text(path, ",".join(columns) + "\n" + body)
    return lost(requests, NAME, *columns)


def _polars():
    try:
        import polars
    except ImportError:
        what = "Parquet is read and written with polars, which is not here"
        raise MissingDependency.one("parquet", what, "pip install 'forerun[tables]'") from None
    return polars


def _broken(polars) -> tuple[type[BaseException], ...]:
    """What polars raises on a damaged file; its Rust part panics on some."""
    return OSError, polars.exceptions.PolarsError, polars.exceptions.PanicException


def _parquet_columns(path: Path) -> tuple[str, ...]:
    polars = _polars()
    try:
        return tuple(name.lower() for name in polars.read_parquet_schema(path))
    except _broken(polars) as error:
        raise TraceError.one(str(path), f"the Parquet file cannot be read: {error}") from None


def _read_parquet(path: Path, wanted: dict[str, Column], known: tuple[str, ...]) -> Table:
    """The same table from Parquet; a missing value becomes NaN and is refused as one."""
    polars = _polars()
    head = Head(path, "parquet", columns=known)
    place = {n: name for n, column in wanted.items() for name in column.names if name in known}
    missing = [n for n in ("isl", "osl") if n not in place]
    if missing:
        what = f"no column for {' and '.join(missing)} among {', '.join(head.columns[:12])}"
        raise header_error(path, what, f"name it {' or '.join(missing)}")
    try:
        frame = polars.read_parquet(path)
    except _broken(polars) as error:
        raise TraceError.one(str(path), f"the Parquet file cannot be read: {error}") from None
    if not len(frame):
        raise TraceError.one(str(path), "the table has no rows", "at least one request")
    frame.columns = [name.lower() for name in frame.columns]
    columns: dict[str, np.ndarray] = {}
    labels: dict[str, list[str]] = {}
    for name, source in {n: next(c for c in wanted[n].names if c in known) for n in place}.items():
        series = frame[source]
        if wanted[name].kind == "text":
            text = series.cast(polars.String).fill_null("").to_list()
            codes: dict[str, int] = {}
            columns[name] = np.array([codes.setdefault(t, len(codes)) for t in text], dtype="i8")
            labels[name] = list(codes)
        elif series.dtype.is_temporal() and name == "arrival" and not series.null_count():
            columns[name] = series.cast(polars.Datetime("ns")).cast(polars.Int64).to_numpy()
        elif series.dtype.is_numeric():
            columns[name] = series.cast(polars.Float64).fill_null(float("nan")).to_numpy()
        else:
            what = f"column {source} is {series.dtype}, not a number"
            raise TraceError.one(str(path), what)
    return Table(columns, np.arange(1, len(frame) + 1), len(frame), labels)
