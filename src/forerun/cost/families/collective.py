"""Collectives of n devices over the links of a node, or over the network between nodes.

S is the message as nccl-tests counts it (see `ops.collectives`).  The quickest way counts:

    one-shot   start + step + (n-1) S / rate                      everyone reads everything
    short      start + hops step + wire / (rate * short)          flags in the data, half the rate
    long       start + long_s + hops step + wire / rate           synchronised chunks, whole rate
    in-switch  start + in_switch_s + 2 step + (1 + 1/n) S / (rate * in_switch)

In-switch is NCCL's all_reduce of 16- and 32-bit floats over a switch that adds up (NVLink SHARP):
every device's message is read once, every sum written once.

    wire  = 2 (n-1)/n S for all_reduce, (n-1)/n S for the others, S for send_recv
    hops  = 2 (n-1) for a ring all_reduce, n-1 for gather and scatter, 1 for send_recv
    rate  = link * share of the link inside a node, or network * across between nodes
    time  = the way of least time, joined smoothly

On several nodes a device's port carries the part of the wire that leaves the node.  Bridged pairs
reach further over the host's link; of a full mesh a group has the links between its members.
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
#: what a library calls one of its own ways
KERNELS = {"nvls": "nccl"}
#: formats that switches add up
SUMMED = ("bf16", "fp16", "fp32")
#: where fits set out from are estimates; those of sums in the switch are near NCCL's on 8 H100
#: (all of `share`, 47 us), that of eager calls vLLM's on them (18.5 us), both in AIConfigurator's
#: tables
COEFS = (
    Coef("share", 0.75, 0.005, 1.2, "share of the link that long messages reach"),
    Coef("short", 0.35, 0.02, 1.0, "share of that with flags in the data"),
    Coef("in_switch", 0.85, 0.3, 1.5, "share of that when the switch adds up"),
    Coef("across", 0.7, 0.02, 8.0, "share of the network port that long messages reach"),
    Coef("start_s", 5e-6, 0.3e-6, 500e-6, "time of an empty call, s"),
    Coef("step_s", 0.8e-6, 0.02e-6, 50e-6, "one hop, s"),
    Coef("long_s", 6e-6, 0.1e-6, 1e-3, "what synchronised chunks take more to start, s"),
    Coef("in_switch_s", 40e-6, 0.1e-6, 1e-3, "what summing in the switch takes more to start, s"),
    Coef("eager_s", 18e-6, 0.05e-6, 100e-6, "start outside a graph, more, s"),
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


def n_nodes(x: Rows, s: Sheet) -> np.ndarray:
    """Nodes that a group's devices sit in, float64 [N]: at least as many as must hold them."""
    return np.fmax(x.get("n_nodes"), np.ceil(x.get("n_gpus") / s.per_node))


def link(x: Rows, s: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """(bytes/s in one direction, latency in s) between a group's devices of one node, float64 [N]
    each; NaN where the data sheet names no such link."""
    group, bridged = _group(x, s), _beyond_a_bridge(x, s)
    peers = np.where(s.topology == "mesh", np.maximum(1, s.per_node - 1), 1)
    rate = s.link_bytes_per_s * np.minimum(1, (group - 1) / peers)
    return (
        np.where(bridged, s.host_bytes_per_s, rate),
        np.where(bridged, s.host_latency_s, s.link_latency_s),
    )


def _group(x: Rows, s: Sheet) -> np.ndarray:
    """Devices of a group in one node, at least two, float64 [N]."""
    return np.maximum(2, np.ceil(x.get("n_gpus") / n_nodes(x, s)))


def _beyond_a_bridge(x: Rows, s: Sheet) -> np.ndarray:
    """Rows of more devices in a node than a bridge joins, bool [N]."""
    return (s.topology == "pairs") & (_group(x, s) > 2)


def _in_switch(x: Rows, s: Sheet) -> np.ndarray:
    """Rows that a switch may add up, bool [N]."""
    summed = (x.words("op") == "all_reduce") & _is_float(x)
    return summed & (s.adds_up > 0) & (x.get("n_gpus") > 2) & ~_is_custom(x)


def _is_float(x: Rows) -> np.ndarray:
    return np.isin(x.words("dtype").astype(str), SUMMED)


def _is_custom(x: Rows) -> np.ndarray:
    """Rows of kernels that share memory, bool [N]."""
    return np.array([w.startswith("custom") for w in x.words("impl")], dtype=bool)


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: libraries start slower than kernels that share memory, and hosts'
    buses are slower to answer than links between devices."""
    custom, latency = _is_custom(x), link(x, s)[1]
    bus = _beyond_a_bridge(x, s) | (s.link_bytes_per_s < 100e9)
    return {
        "start_s": np.where(custom, 3e-6, 6e-6) * np.where(bus, 3.0, 1.0),
        "step_s": np.maximum(0.5e-6, latency),
        "share": np.where(bus, 0.55, 0.75),
    }


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]; 0 for a group of one."""
    n, S, op, sent = x.get("n_gpus"), x.get("bytes"), x.words("op"), wire(x)
    far = n_nodes(x, s) > 1
    near = link(x, s)[0] * c["share"]
    port = np.where(far, s.network_bytes_per_s * c["across"], near)
    rate = np.where(far, np.minimum(port, near), near)
    hops = np.where(op == "all_reduce", 2 * (n - 1), np.where(op == "send_recv", 1, n - 1))
    begin = c["start_s"] + np.where(x.get("graphs") > 0, 0.0, c["eager_s"])
    step = c["step_s"] + np.where(far, np.nan_to_num(s.network_latency_s), 0.0)
    # with a switch, or in flags, hops overlap: they count by the logarithm
    deep = np.where(s.topology == "switch", 2 * np.ceil(np.log2(np.maximum(n, 2))), hops)
    several = np.where(op == "all_reduce", (n - 1) * S, sent)
    ways = (
        begin + step + several / rate,
        begin + deep * step + sent / (rate * c["short"]),
        begin + c["long_s"] + hops * step + sent / rate,
        np.where(
            _in_switch(x, s) & ~far,
            begin + c["in_switch_s"] + 2 * step + (1 + 1 / n) * S / (rate * c["in_switch"]), np.inf,
        ),
    )  # fmt: skip
    least = np.minimum.reduce(ways)
    smooth = least * sum((way / least) ** -SHARP for way in ways) ** (-1 / SHARP)
    return np.where(n > 1, smooth, 0.0) + 1e-12


def shared(x: Rows, s: Sheet) -> np.ndarray:
    """Groups of one node, bool [N]: a network is its cluster's, not on a device's data sheet."""
    return n_nodes(x, s) == 1


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far a collective is from its link's rate anywhere."""
    n, sent = x.get("n_gpus"), wire(x)
    return {
        "latencies": np.log2(sent / link(x, s)[0] / 5e-6 + 1e-6),
        "message": np.log2(x.get("bytes")),
        "n": n,
        "switched": (s.topology == "switch").astype(float),
        "kind": code(x, ("op",)),
        "custom": _is_custom(x).astype(float),
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """What libraries look at when they choose an algorithm."""
    n, S = x.get("n_gpus"), x.get("bytes")
    return {
        "nodes": n_nodes(x, s), "part": np.log2(S / n), "graphs": x.get("graphs"),
        "float": _is_float(x).astype(float), "key": code(x, KEYS),
    }  # fmt: skip
