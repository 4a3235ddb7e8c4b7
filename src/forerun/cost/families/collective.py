"""Collectives of n devices over the links of a node, or over the network between nodes.

S is the message as nccl-tests counts it (see `ops.collectives`).  Three ways, the quickest counts:

    one-shot  start + step + (n-1) S / rate                       everyone reads everything
    short     start + hops step + wire / (rate * short)           flags in the data, half the rate
    long      start + long_s + hops step + wire / rate            synchronised chunks, whole rate

    wire  = 2 (n-1)/n S for all_reduce, (n-1)/n S for the others, S for send_recv
    hops  = 2 (n-1) for a ring all_reduce, n-1 for gather and scatter, 1 for send_recv
    rate  = link * share of the node's link, or network * across between nodes
    time  = the way of least time, joined smoothly

On several nodes a device's port carries the part of the wire that leaves the node.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
NEEDS = ("n_gpus", "bytes")
DEFAULTS: dict[str, float | str] = {"n_nodes": 1.0, "graphs": 1.0, "dtype": "bf16", "impl": ""}
KEYS = ("op", "impl")
COEFS = (
    Coef("share", 0.75, 0.005, 1.2, "share of the link that long messages reach"),
    Coef("short", 0.35, 0.02, 1.0, "share of that with flags in the data"),
    Coef("across", 0.7, 0.02, 8.0, "share of the network port that long messages reach"),
    Coef("start_s", 5e-6, 0.3e-6, 500e-6, "time of an empty call, s"),
    Coef("step_s", 0.8e-6, 0.02e-6, 50e-6, "one hop, s"),
    Coef("long_s", 6e-6, 0.1e-6, 1e-3, "what synchronised chunks take more to start, s"),
    Coef("eager_s", 0.3e-6, 0.05e-6, 100e-6, "start outside a graph, more, s"),
)
#: tables of collectives are small: a few rows may make a leaf
OWN = dict(min_data_in_leaf=3, num_leaves=31, n_trees=250)
#: how sharply the quickest way is taken
SHARP = 6.0


def wire(x: Rows) -> np.ndarray:
    """Bytes one device sends, float64 [N]."""
    n, S, op = x.get("n_gpus"), x.get("bytes"), x.words("op")
    times = np.where(op == "all_reduce", 2.0, 1.0)
    return np.where(op == "send_recv", S, times * (n - 1) / np.maximum(n, 1) * S)


def counts(x: Rows) -> Counts:
    """No flop; the message passes the device's memory on the way out and in."""
    sent = wire(x)
    return Counts(flop=0.0 * sent, activation_bytes=2.0 * sent)


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: libraries start slower than kernels that share memory, and hosts'
    buses are slower to answer than links between devices."""
    custom = np.array([w.startswith(("custom", "one")) for w in x.words("impl")])
    bus = s.link_bytes_per_s < 100e9
    return {
        "start_s": np.where(custom, 3e-6, 6e-6) * np.where(bus, 3.0, 1.0),
        "step_s": np.maximum(0.5e-6, s.link_latency_s),
        "share": np.where(bus, 0.55, 0.75),
    }


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]; 0 for a group of one."""
    n, S, op, sent = x.get("n_gpus"), x.get("bytes"), x.words("op"), wire(x)
    nodes = np.maximum(x.get("n_nodes"), np.ceil(n / s.per_node))
    far = nodes > 1
    near = s.link_bytes_per_s * c["share"]
    port = np.where(far, s.network_bytes_per_s * c["across"], near)
    rate = np.where(far, np.minimum(port, near), near)
    hops = np.where(op == "all_reduce", 2 * (n - 1), np.where(op == "send_recv", 1, n - 1))
    begin = c["start_s"] + np.where(x.get("graphs") > 0, 0.0, c["eager_s"])
    step = c["step_s"] + np.where(far, np.nan_to_num(s.network_latency_s), 0.0)
    # with a switch, or in flags, hops overlap: they count by the logarithm
    deep = np.where(s.switched > 0, 2 * np.ceil(np.log2(np.maximum(n, 2))), hops)
    several = np.where(op == "all_reduce", (n - 1) * S, sent)
    ways = (
        begin + step + several / rate,
        begin + deep * step + sent / (rate * c["short"]),
        begin + c["long_s"] + hops * step + sent / rate,
    )
    least = np.minimum.reduce(ways)
    smooth = least * sum((way / least) ** -SHARP for way in ways) ** (-1 / SHARP)
    return np.where(n > 1, smooth, 0.0) + 1e-12


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far a collective is from its link's rate anywhere."""
    n, sent = x.get("n_gpus"), wire(x)
    return {
        "latencies": np.log2(sent / s.link_bytes_per_s / 5e-6 + 1e-6),
        "message": np.log2(x.get("bytes")),
        "n": n,
        "nodes": np.maximum(x.get("n_nodes"), np.ceil(n / s.per_node)),
        "switched": s.switched,
        "kind": code(x, ("op",)),
        "custom": np.array([w.startswith("custom") for w in x.words("impl")], dtype=float),
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """What libraries look at when they choose an algorithm."""
    n, S = x.get("n_gpus"), x.get("bytes")
    return {
        "part": np.log2(S / n), "graphs": x.get("graphs"), "element": code(x, ("dtype",)),
        "key": code(x, KEYS),
    }  # fmt: skip
