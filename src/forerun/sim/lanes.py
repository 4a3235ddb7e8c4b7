"""Pools whose replicas compute prompts and answers on the same devices: rows of costs, and looks.

A level is a pair of shares of the SMs.  Each has four rows: prompts and answers, each alone and
while the other is in a step too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forerun.cost import part as parts
from forerun.cost.part import Part
from forerun.cost.table import CostTable
from forerun.sim.setup import PS, Served
from forerun.spec.device import Device

ROLES = ("prefill", "decode")
WORDS = {"prefill": "prompts", "decode": "answers"}
ASSUMED = (
    "shares of SMs: arithmetic goes with the share, memory until the SMs fill it (28 % of an "
    "A100's SMs, other devices by their SMs, clock and memory); launches, links and host work are "
    "as on the whole device, and uneven waves of tiles are not looked at",
    "prompts and answers at once: each has at least half of the memory rate that the device is "
    "seen to reach, and what the other, in a usual step (of a full prompt; of 32 answers after "
    "1,024 tokens), does not take; their energies add up, with no power limit over both",
)


def lanes_of(served: Served, device: Device, price: Callable[[Part], CostTable]) -> list[Served]:
    """The rows of a pool with `sm_share`, that of its prompts at the start first.

    price : what steps cost on a part of the devices.
    """
    said = served.pool.sm_share
    assert said is not None
    measure = (parts.prompt_bytes_per_s, parts.answer_bytes_per_s)
    whole = price(Part())
    most = max(of(whole) for of in measure)
    out: list[Served] = []
    for level, shares in enumerate(said.shares):
        alone = [parts.alone(device, share) for share in shares]
        tables = [price(part) for part in alone]
        moved = [of(table) for of, table in zip(measure, tables, strict=True)]
        for k, role in enumerate(ROLES):
            left = parts.beside(alone[k], shares[k], shares[1 - k], moved[1 - k], most)
            for busy, (part, table) in enumerate(((alone[k], tables[k]), (left, price(left)))):
                name = served.pool.name if not out else _name(served, shares, k, busy)
                here = served.pool.replicas if level == 0 and not busy else 0
                row = _row(served, table, role, name, here, 4 * level + 2 * k + busy)
                out.append(replace(row, part=part))
    return out


def _name(served: Served, shares: tuple[float, float], k: int, busy: int) -> str:
    beside = " beside" if busy else ""
    return f"{served.pool.name} {WORDS[ROLES[k]]} on {shares[k]:.0%}{beside}"


def _row(
    served: Served, table: CostTable, role: str, name: str, replicas: int, lane: int
) -> Served:
    said = served.pool.sm_share
    assert said is not None
    pool = served.pool.model_copy(update={"role": role, "name": name, "replicas": replicas})
    # each of the two rows of replicas stands for half of the devices, as stages do
    table = replace(table, stages=2, assumed=(*table.assumed, *ASSUMED))
    return replace(
        served, pool=pool, table=table, block=served.pool.name, lane=lane, switch_s=said.switch_s
    )


def shares_of(one: Served) -> tuple[float, float]:
    """(prefill, decode) of the level that a row belongs to."""
    assert one.pool.sm_share is not None
    return one.pool.sm_share.shares[one.lane // 4]


def is_split(pools: Sequence[Served]) -> bool:
    """Whether some replicas compute prompts and answers on shares of the same devices."""
    return any(one.block is not None for one in pools)


def told(pools: Sequence[Served], state: Any) -> dict[str, Any] | None:
    """What a log says of lanes: by row its share of the SMs, by replica its partner and times."""
    if not is_split(pools):
        return None
    rows = [
        None if one.block is None or one.pool.sm_share is None
        else {"role": one.pool.role, "shares": shares_of(one), "beside": one.lane % 2}
        for one in pools
    ]  # fmt: skip
    return {
        "rows": rows,
        "partner": np.array(state.replicas["partner"]).tolist(),
        "alone_s": (np.array(state.lanes["alone_ps"]) / PS).tolist(),
        "busy_s": (np.array(state.totals["busy_ps"]) / PS).tolist(),
    }
