"""Which row of the engines each replica runs, where several things decide about it.

A row is a pool's costs at one setting of every *dial*: how its experts are loaded, how slow its
hardware is.  A row that differs from another one by a single dial says so (`Served.like`,
`Served.dial`), so rows of several dials are made by varying each row there is already.  Whoever
turns a dial of a replica knows that dial alone; the row of all of them together is found here.

Legend: i replica, p row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from forerun.sim.serve import Server
from forerun.sim.setup import Served

#: how two lanes on the same devices divide them (`sim.control.shares`): a number of a level; it
#: stands in the lane's number
SHARES = "shares"

#: a pool, and those of its dials that are not as in the pool itself: name and value
Key = tuple[int, frozenset[tuple[str, Any]]]


def varied(
    pools: Sequence[Served], dial: str, ways: Mapping[Any, Callable[[Served], Served | None]]
) -> list[Served]:
    """The rows, then each of them at each other value of a dial, without replicas.

    ways : by value, what the dial does to a row; None where it has no such value.
    Where an encoder runs in front of a model, or latents become pixels behind it, those rows are
    varied with the model's.
    """
    more = [
        replace(
            row,
            like=p,
            dial=(dial, value),
            levels=(),
            course=None,
            group=None if served.group is None else (served.group, dial, value),
        )
        for p, served in enumerate(pools)
        for value, way in ways.items()
        if (row := way(served)) is not None
    ]
    number = {(row.like, row.dial): n for n, row in enumerate(more, start=len(pools))}
    return [*pools, *(
        row if row.encoder < 0 and row.shows < 0 and row.branch is None
        else replace(
            row,
            encoder=number.get((row.encoder, row.dial), row.encoder),
            shows=number.get((row.shows, row.dial), row.shows),
            branch=row.branch and replace(row.branch, row=_branch_row(row, number)),
        )
        for row in more
    )]  # fmt: skip


def _branch_row(row: Served, number: Mapping[Any, int]) -> int:
    """The row that prices the ControlNets of one that a dial has turned: devices that other
    replicas use as well stay as they are."""
    assert row.branch is not None
    at = row.branch.row
    return at if row.branch.shared is not None else number.get((at, row.dial), at)


def keys(pools: Sequence[Served]) -> list[Key]:
    """What each row is.  A row that is like another one comes after it."""
    out: list[Key] = []
    lanes = {
        (served.block, served.lane): p
        for p, served in enumerate(pools)
        if served.block is not None and served.dial is None
    }
    for p, served in enumerate(pools):
        if served.like is not None and served.dial is not None:
            home, shown = out[served.like]
            out.append((home, shown | {served.dial}))
        elif served.block is not None and served.lane >= 4:
            home = lanes[served.block, served.lane % 4]
            out.append((home, frozenset({(SHARES, served.lane // 4)})))
        else:
            out.append((p, frozenset()))
    return out


class Dials:
    """The dials of every replica of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.keys = keys(server.pools)
        self.rows = {key: p for p, key in enumerate(self.keys)}
        n = len(server._state.replicas)
        self.shown: list[dict[str, Any]] = [{} for _ in range(n)]
        self._turned_s = [-1.0] * n  # when a dial of it was last turned

    def home(self, i: int) -> int:
        """The pool that replica i runs as, or is about to; with models that take turns the core
        may go on with another one before an order comes."""
        return self.keys[int(self.server._state.replicas["next_pool"][i])][0]

    def turn(self, i: int, dial: str, value: Any, now_s: float) -> None:
        """Set a dial of replica i; None is as in its pool.

        It goes on with another row from its next step boundary.
        """
        shown = self.shown[i]
        if value is None:
            shown.pop(dial, None)
        else:
            shown[dial] = value
        row = self.row(i, self.home(i))
        # what was ordered at this very moment is not yet to be seen
        pending = self._turned_s[i] == self.server.now_s
        if pending or row != int(self.server._state.replicas["next_pool"][i]):
            self.server.command(now_s, "set", i, row)
            self._turned_s[i] = self.server.now_s

    def row(self, i: int, p: int) -> int:
        """Pool p as the dials of replica i have it."""
        return self.rows[p, frozenset(self.shown[i].items())]
