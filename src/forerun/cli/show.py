"""Show what is known of a device, model, link, policy or technique, and where it is from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from forerun.cli._options import Output, output_options

Row = dict[str, Any]
_WIDE = 60  # characters; a longer value stands below the table
#: fields whose absence is itself known
_ABSENT = {"scale_up": "none", "scale_up_domain": "one node", "host_link": "none", "window": "all"}


@click.group()
def command() -> None:
    """Show everything known of one thing, every number with its unit and source.

    Without NAME, list what there is.
    """


def _kind(function: Any) -> Any:
    function = output_options()(function)
    function = click.argument("name", required=False)(function)
    return command.command(name=function.__name__.strip("_"))(function)


@_kind
def device(name: str | None, out: Output) -> None:
    """A device (GPU, TPU, NPU, server processor): peaks, memory, power, links, price."""
    from forerun import catalog

    if name is None:
        _list(out, "device", [_brief(catalog.device(n)) for n in catalog.devices()])
        return
    found = catalog.device(name)
    rows = list(_fields(found, found.source_of, skip=("sources", "aliases")))
    offer = catalog.price(found.name)
    if offer is None:
        rows.append(_row("price_usd_per_hour", None, "no on-demand offer is known"))
    else:
        source = f"{offer.provider}, {offer.date}; {offer.source}"
        rows.append(_row("price_usd_per_hour", offer.usd_per_hour, source))
    _emit(out, "device", found.name, rows, also=("also called", ", ".join(found.aliases)))


def _brief(found: Any) -> Row:
    from forerun import units

    best = "bf16" if "bf16" in found.peak_flop_per_s else "fp16"
    peak = found.peak_flop_per_s.get(best)
    return {
        "name": found.name,
        "vendor": found.vendor,
        "year": str(found.year),
        "memory": units.show(found.hbm_bytes, "bytes"),
        "bandwidth": units.show(found.hbm_bytes_per_s, "bytes_per_s"),
        "16-bit peak": units.show(peak, "flop_per_s") if peak else "none",
        "power": units.show(found.tdp_w, "power"),
    }


@_kind
def link(name: str | None, out: Output) -> None:
    """A link between devices, one direction."""
    from forerun import catalog, units

    if name is None:
        found = [catalog.link(n) for n in catalog.links()]
        _list(out, "link", [
            {"name": x.name, "kind": x.kind, "latency": units.show(x.latency_s, "time"),
             "bandwidth": units.show(x.bandwidth_bytes_per_s, "bytes_per_s")}
            for x in found
        ])  # fmt: skip
        return
    one = catalog.link(name)
    rows = list(_fields(one, lambda field: one.source, skip=("source",)))
    _emit(out, "link", one.name, rows)


@_kind
def model(name: str | None, out: Output) -> None:
    """A model: layers, parameters counted and published, KV bytes a token, assumptions."""
    from forerun import catalog
    from forerun.spec.params import count

    if name is None:
        rows = []
        for known in catalog.models():
            found = catalog.model(known)
            rows.append({
                "name": known, "layers": str(found.n_layers), "hidden": str(found.hidden),
                "context": f"{found.max_len:,}" if found.max_len else "unknown",
                "parameters": f"{count(found).total / 1e9:,.4g} billion",
                "KV per token": _kv(found),
            })  # fmt: skip
        _list(out, "model", rows)
        return
    found = catalog.model(name)
    _emit(out, "model", found.name, list(_model_rows(found)), notes=found.assumed)


def _model_rows(found: Any) -> Iterable[Row]:
    from forerun.spec.params import count

    counted = count(found)
    config = found.source
    yield _row("hf_id", found.hf_id, config)
    yield _row("family", found.family, config)
    yield _row("parameters", counted.total, "counted from the shapes below", whole=True)
    yield _row("active parameters", counted.active, "the same, of one token", whole=True)
    for label, value in (
        ("published parameters", found.published_params),
        ("published active parameters", found.published_active_params),
    ):
        yield _row(label, value, "as the maker states", whole=True)
    yield _row("KV per token", _kv(found), "from the shapes, all layers", text=True)
    for name in ("hidden", "vocab", "n_layers", "max_len", "dtype", "tied_embeddings"):
        yield _row(name, getattr(found, name), config)
    for i, group in enumerate(found.layers):
        words = f"{group.n} x ({_part(group.mixer)}; {_part(group.ffn)})"
        yield _row(f"layers[{i}]", words, config)
    if found.quantization:
        yield _row("quantization", _part(found.quantization), config)
    if found.vision:
        yield _row("vision", _part(found.vision), config)
    if found.audio:
        yield _row("audio", _part(found.audio), config)


def _kv(found: Any) -> str:
    """KV bytes of one more token, all layers, in the checkpoint's cache format."""
    from forerun import units
    from forerun.spec.dtype import WEIGHT_BYTES
    from forerun.spec.params import cached_per_token

    stored = found.quantization.kv if found.quantization else None
    size = WEIGHT_BYTES[stored or found.dtype]
    n = sum(g.n * cached_per_token(g.mixer) for g in found.layers if g.mixer is not None)
    return f"{units.show(n * size, 'bytes')} ({stored or found.dtype})"


def _part(part: Any) -> str:
    if part is None:
        return "none"
    data = part.model_dump(exclude_defaults=True)
    kind = str(getattr(part, "kind", ""))
    words = (f"{k} {v}" for k, v in data.items() if k != "kind")
    return " ".join([kind, ", ".join(words)]).strip()


@_kind
def policy(name: str | None, out: Output) -> None:
    """A policy, by its kind and name (route/round_robin), or all of a kind (route)."""
    from forerun import api
    from forerun.errors import SpecError, nearest

    known = {f"{kind}/{n}": (kind, n) for kind in api.policy_kinds() for n in api.policies(kind)}
    of = "route" if name == "place" else name  # the same choose a replica for an answer
    if of is None or of in api.policy_kinds():
        _list(out, "policy", [
            {"name": key, "does": _docstring(f"sim/policies/{kind}/{n}.py")[0]}
            for key, (kind, n) in known.items() if of in (None, kind)
        ])  # fmt: skip
        return
    assert name is not None
    fits = [key for key in known if name in (key, key.partition("/")[2])]
    if len(fits) != 1:
        what = f"fits {len(fits)} policies" if fits else "is not known"
        fix = "one of: " + ", ".join(fits) if fits else nearest(name, known)
        raise SpecError.one(f"policy {name!r}", what, fix)
    kind, stem = known[fits[0]]
    _page(out, "policy", fits[0], f"sim/policies/{kind}/{stem}.py")


@_kind
def technique(name: str | None, out: Output) -> None:
    """A published technique: what it does, its source, what it helps and costs."""
    from forerun import api
    from forerun.errors import SpecError, nearest

    known = api.techniques()
    if name is None:
        _list(out, "technique", [
            {"name": n, "does": _docstring(f"techniques/{n}.py")[0]} for n in known
        ])  # fmt: skip
        return
    if name not in known:
        fix = nearest(name, known) if known else ""
        raise SpecError.one(f"technique {name!r}", "is not known", fix)
    _page(out, "technique", name, f"techniques/{name}.py")


def _docstring(path: str) -> list[str]:
    """The lines of a file's docstring; nothing is imported."""
    import ast
    from pathlib import Path

    import forerun

    text = (Path(forerun.__file__).parent / path).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").splitlines() or [""]


def _page(out: Output, kind: str, name: str, path: str) -> None:
    from forerun.cli._output import emit

    lines = _docstring(path)
    data = {"kind": kind, "name": name, "file": f"forerun/{path}", "text": "\n".join(lines)}
    text = "\n".join([f"{kind} {name}", "", *lines, "", f"file: forerun/{path}"])
    emit(out, command=f"show {kind}", text=text, data=data, rows=[data])


def _fields(spec: Any, source_of: Any, skip: Sequence[str] = ()) -> Iterable[Row]:
    """A row for every number of a description; dictionaries give one for each key."""
    for name in type(spec).model_fields:
        if name in skip or name == "name":
            continue
        value = getattr(spec, name)
        if isinstance(value, dict):
            for key, inner in value.items():
                yield _row(f"{name}.{key}", inner, source_of(name), unit_of=name)
        else:
            yield _row(name, _ABSENT.get(name) if value is None else value, source_of(name))


def _row(
    name: str,
    value: Any,
    source: str,
    *,
    unit_of: str | None = None,
    whole: bool = False,
    text: bool = False,
) -> Row:
    from forerun import units

    dimension = None if text or whole else units.dimension_of(unit_of or name)
    if value is None or value == "":
        shown, source = "unknown", "nobody publishes it, or we have not found it"
    elif dimension:
        shown = units.show(value, dimension, digits=4)
    elif whole:
        shown = f"{value:,.0f}"
    else:
        shown = str(value)
    return {"field": name, "value": value, "shown": shown, "source": source}


def _emit(
    out: Output,
    kind: str,
    name: str,
    rows: list[Row],
    *,
    notes: Sequence[str] = (),
    also: tuple[str, str] = ("", ""),
) -> None:
    """One thing: its fields, and each source once, by number, below."""
    from forerun.cli._output import Table, emit

    sources = list(dict.fromkeys(row["source"] for row in rows))
    body = [(r["field"], r["shown"], f"[{sources.index(r['source']) + 1}]") for r in rows]
    long = [row for row in body if len(row[1]) > _WIDE]
    lines = [f"{kind} {name}"] + ([f"{also[0]}: {also[1]}"] if also[1] else [])
    body = [row for row in body if len(row[1]) <= _WIDE]
    lines += ["", Table(("field", "value", "source"), body).text(), ""]
    lines += [f"{field}: {shown} {source}" for field, shown, source in long] + [""] * bool(long)
    lines += [f"[{i}] {source}" for i, source in enumerate(sources, 1)]
    lines += [f"assumed: {note}" for note in notes]
    data = {"kind": kind, "name": name, "fields": rows, "assumed": list(notes)}
    emit(out, command=f"show {kind}", text="\n".join(lines), data=data, rows=rows)


def _list(out: Output, kind: str, rows: list[Row]) -> None:
    from forerun.cli._output import Table, emit

    header = list(rows[0]) if rows else ["name"]
    text = Table(header, [list(row.values()) for row in rows]).text()
    emit(out, command=f"show {kind}", text=text, data={f"{kind}s": rows}, rows=rows)
