"""Recorded runs of conversations that share prefixes, each set-up against its simulation.

    python -m forerun.calibrate.prefix_run FILE --model NAME --device NAME --replicas N \\
        --setup NAME=route:kept_connections --setup NAME=route:session_sticky ... \\
        [--plot PICTURE.svg]

FILE (CSV, .gz allowed) has a row a request:

    setup, qps, prompt_tokens, generation_tokens, ttft, generation_time, user_id, launch_time

Times in seconds; `launch_time` from the first launch of its (setup, qps).  Every prompt begins with
the same `--system-tokens` and goes on with its user's own history, so a user who comes back finds
what its replica still keeps.  Rates of a set-up follow each other, lowest first, on one fleet, with
`--rest` seconds between; what was kept stays.  Nothing is fitted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun import catalog, units
from forerun.calibrate.pictures import both, draw
from forerun.errors import SpecError
from forerun.metrics import latency
from forerun.sim.prepare import prepare, tiers
from forerun.sim.serve import run
from forerun.spec.columns import Columns, read_columns
from forerun.spec.deployment import Deployment
from forerun.spec.requests import Requests

NEEDED = ("qps", "prompt_tokens", "generation_tokens", "ttft", "generation_time", "user_id",
          "launch_time")  # fmt: skip
BLOCK = 64  # tokens of a prefix block
WARM_S = 3.0  # between prompts sent before the first rate
LATE = 2.0  # a set-up is saturated where the mean TTFT is this many times that of a cold prompt


@dataclass(frozen=True, eq=False)
class Recorded:
    """One set-up: columns by request, in the order in which they were sent; seconds and tokens."""

    name: str
    rate_per_s: np.ndarray
    launch_s: np.ndarray
    isl: np.ndarray
    osl: np.ndarray
    user: np.ndarray
    ttft_s: np.ndarray
    generation_s: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        return np.unique(self.rate_per_s)

    def by_rate(self, seconds: np.ndarray) -> np.ndarray:
        """The mean at each rate."""
        return np.array([seconds[self.rate_per_s == rate].mean() for rate in self.rates])


def read(path: str | Path) -> list[Recorded]:
    """The set-ups of a file, sorted by name.  Raises SpecError with what is missing or wrong."""
    table: Columns = read_columns(path)
    missing = [name for name in ("setup", *NEEDED) if name not in table.names]
    if missing:
        raise SpecError.one(
            str(path), f"has no column {', '.join(missing)}", f"it has {table.names}"
        )
    numbers = {name: table.number(name)[0] for name in NEEDED}
    bad = ~np.all([np.isfinite(column) & (column >= 0) for column in numbers.values()], axis=0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        what = f"no time or count, and in {int(bad.sum())} rows in all"
        raise SpecError.one(f"{path}{table.place(first)}", what, "remove these rows")
    setups = np.asarray(table.text("setup"))
    out = []
    for name in np.unique(setups):
        at = np.flatnonzero(setups == name)
        order = at[np.lexsort((numbers["launch_time"][at], numbers["qps"][at]))]
        column = {key: values[order] for key, values in numbers.items()}
        out.append(
            Recorded(
                str(name),
                column["qps"],
                column["launch_time"],
                column["prompt_tokens"].astype(int),
                column["generation_tokens"].astype(int),
                column["user_id"].astype(int),
                column["ttft"],
                column["generation_time"],
            )
        )
    return out


def workload(run: Recorded, system_tokens: int, rest_s: float, warm: bool = False) -> Requests:
    """All rates after each other, prompts as prefix blocks: first the system's, then the user's.

    warm : every user has sent its prompt once before, one in WARM_S; these requests come first.
    """
    start = np.zeros(len(run.launch_s))
    users, first = np.unique(run.user, return_index=True)
    if not warm:
        users, first = users[:0], first[:0]
    clock = WARM_S * len(users) + (rest_s if warm else 0.0)
    for rate in run.rates:
        mine = run.rate_per_s == rate
        start[mine] = clock
        clock += float(run.launch_s[mine].max()) + rest_s
    isl, osl, user, arrival = (
        np.concatenate([before, after])
        for before, after in (
            (run.isl[first], run.isl),
            (np.ones(len(users), dtype=int), run.osl),
            (users, run.user),
            (WARM_S * np.arange(len(users)), start + run.launch_s),
        )
    )
    n_blocks = isl // BLOCK
    starts = np.concatenate([[0], np.cumsum(n_blocks)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], n_blocks)
    owner = np.repeat(user, n_blocks)
    hashes = np.where(place < system_tokens // BLOCK, place, (owner + 1) * 1_000_000 + place)
    return Requests(
        arrival, isl, osl, session=user, block_hashes=hashes,
        block_starts=starts, hash_tokens=BLOCK,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Compared:
    """A set-up by rate, [rates] each: simulated seconds, share of prompt tokens found."""

    run: Recorded
    ttft_s: np.ndarray
    generation_s: np.ndarray
    hit: np.ndarray

    @property
    def recorded_ttft_s(self) -> np.ndarray:
        return self.run.by_rate(self.run.ttft_s)


def compare(run_: Recorded, model: str, deployment: Deployment, system_tokens: int, rest_s: float,
            warm: bool = False, seed: int = 0) -> Compared:  # fmt: skip
    """One set-up simulated on a deployment."""
    requests = workload(run_, system_tokens, rest_s, warm)
    pools = prepare(catalog.model(model), deployment)
    log = run(
        requests, pools, log="requests", route=deployment.route, seed=seed,
        tiers=tiers(deployment), fetch=deployment.fetch,
    )  # fmt: skip
    rows = log.requests[len(requests) - len(run_.isl) :]
    found = run_.by_rate(rows["cached"].astype(float)) / run_.by_rate(rows["isl"].astype(float))
    after = latency.e2el_s(rows) - latency.ttft_s(rows)
    return Compared(run_, run_.by_rate(latency.ttft_s(rows)), run_.by_rate(after), found)


def saturation(rates: np.ndarray, ttft_s: np.ndarray, cold_s: float) -> float:
    """Requests a second at which the mean TTFT passes LATE cold prompts, linear between rates; inf
    when it never does."""
    late = np.flatnonzero(ttft_s > LATE * cold_s)
    if not len(late):
        return float("inf")
    k = int(late[0])
    if k == 0:
        return float(rates[0])
    share = (LATE * cold_s - ttft_s[k - 1]) / (ttft_s[k] - ttft_s[k - 1])
    return float(rates[k - 1] + share * (rates[k] - rates[k - 1]))


def agreement(found: Sequence[Compared]) -> tuple[int, int]:
    """(pairs of set-ups in the recorded order, pairs) by mean TTFT, summed over rates.

    Pairs whose recorded means differ by less than 15 % have no order worth keeping.
    """
    right = pairs = 0
    for a in range(len(found)):
        for b in range(a):
            same = np.intersect1d(found[a].run.rates, found[b].run.rates)
            for rate in same:
                (ra, sa), (rb, sb) = (
                    (float(c.recorded_ttft_s[c.run.rates == rate][0]),
                     float(c.ttft_s[c.run.rates == rate][0]))
                    for c in (found[a], found[b])
                )  # fmt: skip
                if abs(np.log(ra / rb)) >= np.log(1.15):
                    pairs += 1
                    right += int((ra < rb) == (sa < sb))
    return right, pairs


# -- the command -----------------------------------------------------------------------------------


def report(found: Sequence[Compared], cold_s: float) -> str:
    """Mean TTFT by rate, recorded and simulated, then order and saturation."""
    lines = []
    for one in found:
        lines += [f"{one.run.name}", f"  {'req/s':>6}{'TTFT recorded':>15}{'simulated':>11}"
                  f"{'error':>8}{'answer':>9}{'simulated':>11}{'found':>7}"]  # fmt: skip
        answer = one.run.by_rate(one.run.generation_s)
        for k, rate in enumerate(one.run.rates):
            theirs, ours = one.recorded_ttft_s[k], one.ttft_s[k]
            lines.append(
                f"  {rate:6.1f}{theirs:13.2f} s{ours:9.2f} s{100 * (ours / theirs - 1):+7.0f}%"
                f"{answer[k]:7.2f} s{one.generation_s[k]:9.2f} s{100 * one.hit[k]:6.0f}%"
            )
    lines.append(f"saturated (mean TTFT beyond {LATE:g} cold prompts of {cold_s:.2f} s) at, req/s")
    for one in found:
        theirs = saturation(one.run.rates, one.recorded_ttft_s, cold_s)
        ours = saturation(one.run.rates, one.ttft_s, cold_s)
        error = f"{100 * (ours / theirs - 1):+.0f}%" if np.isfinite([ours, theirs]).all() else ""
        lines.append(f"  {one.run.name:24}{theirs:6.2f} recorded{ours:8.2f} simulated {error:>6}")
    right, pairs = agreement(found)
    lines.append(
        f"{right} of {pairs} pairs of set-ups that differ by 15 % or more are in the recorded order"
    )
    errors = np.concatenate([np.abs(one.ttft_s / one.recorded_ttft_s - 1) for one in found])
    lines.append(
        f"mean TTFT by set-up and rate: median error {100 * np.median(errors):.0f} %, "
        f"p90 {100 * np.quantile(errors, 0.9):.0f} %"
    )
    return "\n".join(lines)


def plots(found: Sequence[Compared]) -> list[dict[str, object]]:
    """Mean TTFT over the rate, recorded and simulated, a plot a set-up."""
    return [
        both(
            one.run.name, "requests/s", "mean TTFT, s",
            [{"x": float(rate), "recorded": float(theirs), "simulated": float(ours)}
             for rate, theirs, ours in zip(one.run.rates, one.recorded_ttft_s, one.ttft_s,
                                           strict=True)],
            log=True,
        )
        for one in found
    ]  # fmt: skip


def deployment_of(base: Mapping[str, object], text: str) -> tuple[str, Deployment, bool]:
    """NAME=key:value,key:value as a name, the deployment with these keys set, and whether its users
    have been there before.

    `warm:1` says that; `dram:120 GB` and `dram_rate:25 GB/s` put host memory below each replica.
    """
    name, _, settings = text.partition("=")
    data: dict[str, object] = dict(base)
    engine = dict(data.pop("engine"))  # type: ignore[call-overload]
    given = {}
    for setting in filter(None, settings.split(",")):
        key, colon, value = setting.partition(":")
        if not colon:
            raise SpecError.one("--setup", f"{setting!r} is no key:value", "route:session_sticky")
        given[key] = value
    warm = given.pop("warm", "0") == "1"
    if "dram" in given:
        rate = given.pop("dram_rate", None)
        if rate is None:
            raise SpecError.one("--setup", "dram has no rate", "dram_rate:25 GB/s")
        capacity_bytes = units.parse(given.pop("dram"), "bytes")
        bandwidth = units.parse(rate, "bytes_per_s")
        tier = {
            "tier": "dram",
            "capacity_bytes": capacity_bytes,
            "bandwidth_bytes_per_s": bandwidth,
        }
        data["kv_tiers"] = [tier]
    for key, value in given.items():
        known = (*Deployment.model_fields, "device", "replicas")
        (data if key in known else engine)[key] = value
    return name, Deployment.model_validate({**data, "engine": engine}), warm


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; a mistake in the input is told without a stack trace."""
    import argparse

    from forerun.errors import ForerunError

    parser = argparse.ArgumentParser(prog="python -m forerun.calibrate.prefix_run")
    parser.add_argument("file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--setup", action="append", required=True, metavar="NAME=key:value,...")
    parser.add_argument("--system-tokens", type=int, default=1000)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--rest", type=float, default=200.0, metavar="SECONDS")
    parser.add_argument("--plot", metavar="PICTURE.svg")
    given = parser.parse_args(arguments)
    base = {
        "device": given.device, "replicas": given.replicas,
        "engine": {"max_num_batched_tokens": given.max_num_batched_tokens},
    }  # fmt: skip
    try:
        runs = {one.name: one for one in read(given.file)}
        found = []
        for text in given.setup:
            name, deployment, warm = deployment_of(base, text)
            if name not in runs:
                raise SpecError.one("--setup", f"no set-up {name!r}", f"one of {', '.join(runs)}")
            found.append(
                compare(runs[name], given.model, deployment, given.system_tokens, given.rest, warm)
            )
        if given.plot:
            draw(plots(found), given.plot)
    except ForerunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    cold_s = float(np.median([one.run.ttft_s[one.run.rate_per_s == one.run.rates[0]].max()
                              for one in found]))  # fmt: skip
    print(report(found, cold_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
