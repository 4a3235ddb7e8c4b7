"""ServeGen's fitted clients: rates and lengths of each client by time window, drawn into requests.

Two files make a workload: `<name>_client_rates.csv[.gz]` (client, t_start_s, rate_req_s, cv, dist,
p0, p1) and `<name>_length_pmfs.jsonl[.gz]` (per client and window, probabilities of input and
output lengths).  These are models, not requests: reading them draws, with a seed.

Each client and window draws as many requests as its rate asks for (a fraction by chance) and
spaces them by its family (p0 is the shape), scaled to fill the window: burstiness is kept and the
rate is exact, which an ordinary renewal started at each window would overshoot when cv >> 1.
Source: github.com/alibaba/ServeGen (Apache-2.0); Xiang et al., arXiv 2505.09999.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import Problem, TraceError
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._json import read_lines
from forerun.spec.traces._source import Head, head_of
from forerun.spec.traces._table import Column, Table, read_csv

NAME = "servegen"

_RATES = "_client_rates.csv"
_PMFS = "_length_pmfs.jsonl"
#: families of gaps and the least p0 that can be drawn; "" is Poisson and has none
_LOWEST_SHAPE = {"": -np.inf, "gamma": 1e-3, "weibull": 0.02}
_HIGHEST_SHAPE = 1e5
_MAX_DRAWN = 50_000_000
Pmf = tuple[np.ndarray, np.ndarray]  # lengths int64, cumulative probability float64


def detect(head: Head) -> bool:
    if head.kind in ("folder", "prefix"):
        return bool(_prefixes(head.path))
    # a table of lengths is often longer than the head, so there may be no whole record to look at
    tables = head.text.lstrip().startswith("{") and '"client"' in head.text
    return head.has("client", "t_start_s", "rate_req_s") or (
        tables and '"input_tokens"' in head.text and '"t_start_s"' in head.text
    )


def read(
    path: str | Path,
    *,
    skip_bad: bool = False,
    sort: bool = False,
    seed: int = 0,
    start_s: float | None = None,
    duration_s: float = 3600.0,
) -> Requests:
    """Requests drawn for `duration_s` from `start_s` (of the windows' clock).

    path: one of the two files, their common prefix, or a folder with one pair.  start_s defaults
    to the first window in which anyone sends.  The client is the tenant.  Clients without length
    tables (only the busiest have them) draw from all tables pooled; `meta["assumed"]` says so.
    """
    rates_path, pmfs_path = _pair(Path(path))
    faults = Faults(rates_path)
    table = _rates(rates_path, faults, skip_bad)
    if not duration_s > 0:
        raise TraceError.one("duration_s", f"{duration_s:g} s is not above 0")
    width = _window_s(table.columns["start"], rates_path)
    active = table.columns["start"][table.columns["rate"] > 0]
    if not len(active):
        raise TraceError.one(str(rates_path), "no client ever sends a request")
    begin = float(active.min()) if start_s is None else start_s
    tables, skipped = _tables(pmfs_path, skip_bad)
    rng = stream(seed, "arrivals")
    parts = _arrivals(table, begin, begin + duration_s, width, rng)
    if not parts:
        span = f"{table.columns['start'].min():g} to {table.columns['start'].max() + width:g} s"
        what = f"nobody sends between {begin:g} and {begin + duration_s:g} s"
        raise TraceError.one(str(rates_path), what, f"windows reach from {span}")
    arrival = np.concatenate([times for _, times in parts])
    client = np.concatenate([np.full(len(times), who) for who, times in parts])
    order = np.argsort(arrival, kind="stable")
    arrival, client = arrival[order], client[order]
    isl, osl, borrowed = _lengths(client, arrival, tables, stream(seed, "lengths"))
    meta: dict[str, Any] = {
        "source": str(path), "format": NAME, "n_rows": table.n_rows, "sorted": 0,
        "skipped": dict(sorted((faults.counts + skipped.counts).items())),
        "drawn": {"seed": seed, "start_s": begin, "duration_s": duration_s},
    }  # fmt: skip
    if borrowed:
        meta["assumed"] = (
            f"{borrowed} of {len(arrival)} requests come from clients without length tables; "
            "their lengths are drawn from all clients' tables pooled",
        )
    return Requests(arrival_s=arrival - begin, isl=isl, osl=osl, tenant=client, meta=meta)


def _prefixes(path: Path) -> list[str]:
    """Prefixes that have both files, in a folder or for a prefix."""
    folder, begin = (path, "") if path.is_dir() else (path.parent, path.name)
    names = {p.name for p in folder.iterdir()}
    rates = [n.split(_RATES)[0] for n in names if _RATES in n and n.startswith(begin)]
    return sorted(p for p in rates if {p + _PMFS, p + _PMFS + ".gz"} & names)


def _pair(path: Path) -> tuple[Path, Path]:
    folder, prefix = path.parent, path.name
    if path.is_dir():
        folder, prefixes = path, _prefixes(path)
        if len(prefixes) != 1:
            what = f"holds {len(prefixes)} ServeGen pairs ({', '.join(prefixes)}); name one"
            fix = str(path / prefixes[0]) if prefixes else ""
            raise TraceError.one(str(path), what, fix)
        prefix = prefixes[0]
    for part in (_RATES, _PMFS):
        prefix = prefix.split(part)[0]
    found = []
    problems = []
    for part in (_RATES, _PMFS):
        options = [folder / f"{prefix}{part}{end}" for end in ("", ".gz")]
        here = [option for option in options if option.is_file()]
        found += here[:1]
        if not here:
            problems.append(Problem(str(options[0]), "is not there; ServeGen needs both files"))
    if problems:
        raise TraceError(*problems)
    return found[0], found[1]


def _rates(path: Path, faults: Faults, skip_bad: bool) -> Table:
    wanted = {
        "client": Column(("client",)), "start": Column(("t_start_s",)),
        "rate": Column(("rate_req_s",)), "cv": Column(("cv",)),
        "dist": Column(("dist",), "text"), "shape": Column(("p0",)),
    }  # fmt: skip
    table = read_csv(head_of(path), wanted, faults)
    c = table.columns
    for name in ("client", "start", "rate"):
        values = c[name]
        bad = ~((values >= 0) & (values < 1e12))
        for k in np.flatnonzero(bad):
            faults.add("malformed", int(table.lines[k]), f"{name} is {values[k]:g}")
        c = {n: v[~bad] for n, v in c.items()}
        table.lines = table.lines[~bad]
    lowest = np.array([_LOWEST_SHAPE.get(name.lower(), np.nan) for name in table.labels["dist"]])
    lowest = lowest[c["dist"]]  # NaN for a family that is not known
    ranged = (c["shape"] >= lowest) & (c["shape"] <= _HIGHEST_SHAPE)
    shaped = ranged | (lowest == -np.inf) | ((c["rate"] == 0) & ~np.isnan(lowest))
    faults.add_where(
        "malformed", ~shaped, table.lines,
        lambda i: f"dist {table.labels['dist'][c['dist'][i]]!r} with p0 {c['shape'][i]:g}",
    )  # fmt: skip
    table.columns = {n: v[shaped] for n, v in c.items()}
    table.lines = table.lines[shaped]
    if len(faults) and not skip_bad:
        raise faults.error(table.n_rows)
    return table


def _window_s(starts: np.ndarray, path: Path) -> float:
    steps = np.diff(np.unique(starts))
    if not len(steps):
        raise TraceError.one(str(path), "there is only one time window, so its width is unknown")
    return float(steps.min())


def _arrivals(
    table: Table, begin: float, end: float, width: float, rng: np.random.Generator
) -> list[tuple[int, np.ndarray]]:
    """(client, arrival times on the windows' clock) of each client and window that sends."""
    c = table.columns
    rows = np.flatnonzero((c["rate"] > 0) & (c["start"] < end) & (c["start"] + width > begin))
    expected = float((c["rate"][rows] * width).sum())
    if expected > _MAX_DRAWN:
        what = f"about {expected:,.0f} requests would be drawn, more than {_MAX_DRAWN:,}"
        raise TraceError.one("duration_s", what, "a shorter duration_s")
    parts = []
    for k in rows[np.lexsort((c["start"][rows], c["client"][rows]))]:
        n = int(c["rate"][k] * width + rng.random())
        family = table.labels["dist"][c["dist"][k]].lower()
        if family == "gamma":
            gaps = rng.standard_gamma(c["shape"][k], n + 1)
        elif family == "weibull":
            gaps = rng.weibull(c["shape"][k], n + 1)
        else:
            gaps = rng.standard_exponential(n + 1)
        total = gaps.sum()
        if n == 0:
            continue
        # gaps of a tiny shape may all vanish: one burst, at any moment
        place = np.cumsum(gaps)[:-1] / total if total > 0 else np.full(n, rng.random())
        times = c["start"][k] + place * width
        times = times[(times >= begin) & (times < end)]
        if len(times):
            parts.append((int(c["client"][k]), times))
    return parts


@dataclass(frozen=True)
class _Tables:
    by_client: dict[int, list[tuple[float, Pmf, Pmf]]]  # (window's start, input, output)
    pooled: tuple[Pmf, Pmf]


def _tables(path: Path, skip_bad: bool) -> tuple[_Tables, Faults]:
    faults = Faults(path)
    records, lines, n_rows = read_lines(head_of(path), faults)
    by_client: dict[int, list[tuple[float, Pmf, Pmf]]] = {}
    for record, line in zip(records, lines, strict=True):
        try:
            if record["input_tokens"] == [] or record["output_tokens"] == []:
                continue  # the client was silent in that window
            isl, osl = _pmf(record["input_tokens"]), _pmf(record["output_tokens"])
            start, client = float(record["t_start_s"]), int(record["client"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            faults.add("malformed", int(line), f"no table of lengths: {error}")
            continue
        by_client.setdefault(client, []).append((start, isl, osl))
    if len(faults) and not skip_bad:
        raise faults.error(n_rows)
    if not by_client:
        raise TraceError.one(str(path), "no client has a table of lengths")
    every = [entry for entries in by_client.values() for entry in entries]
    pooled = _pool([e[1] for e in every]), _pool([e[2] for e in every])
    return _Tables(by_client, pooled), faults


def _pmf(pairs: list[list[float]]) -> Pmf:
    values = np.array(pairs, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError("not pairs of length and probability")
    if values.min() < 0 or values[:, 1].sum() <= 0:
        raise ValueError("negative, or all probabilities 0")
    # a length of 0 tokens (an empty answer) cannot be a request; its share goes to the others
    values = values[values[:, 0] >= 1]
    if not values[:, 1].sum() > 0:
        raise ValueError("no length of at least 1 token")
    return values[:, 0].astype(np.int64), np.cumsum(values[:, 1]) / values[:, 1].sum()


def _pool(pmfs: list[Pmf]) -> Pmf:
    """All tables as one, each with the same weight."""
    lengths = np.concatenate([length for length, _ in pmfs])
    shares = np.concatenate([np.diff(total, prepend=0.0) for _, total in pmfs])
    return lengths, np.cumsum(shares) / shares.sum()


def _draw(pmf: Pmf, u: np.ndarray) -> np.ndarray:
    lengths, total = pmf
    return lengths[np.minimum(np.searchsorted(total, u, side="right"), len(lengths) - 1)]


def _lengths(
    client: np.ndarray, time: np.ndarray, tables: _Tables, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """(isl, osl, how many were drawn from the pool); a client uses its nearest window's table."""
    u, v = rng.random((2, len(client)))
    isl, osl = _draw(tables.pooled[0], u), _draw(tables.pooled[1], v)
    borrowed = len(client)
    for who, entries in tables.by_client.items():
        mine = np.flatnonzero(client == who)
        borrowed -= len(mine)
        starts = np.array([start for start, _, _ in entries])
        nearest = np.abs(time[mine][:, None] - starts).argmin(axis=1)
        for k, (_, p, q) in enumerate(entries):
            rows = mine[nearest == k]
            isl[rows], osl[rows] = _draw(p, u[rows]), _draw(q, v[rows])
    return isl, osl, borrowed
