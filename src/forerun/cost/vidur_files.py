"""Vidur's files: a resolved configuration (`config-*.json`) and the operator tables beside it.

A folder holds `ops/linear-*.csv`, `ops/attention-*.csv` and, with tensor parallelism,
`ops/all_reduce-*.csv`; which are meant is told by device, model shape and parallel degree in their
names and, where they have such columns, inside them.  Times are medians in milliseconds.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import SpecError, TraceError

Columns = tuple[np.ndarray, ...]
GIB = 2**30

# operators of a layer that see the step's tokens only
LINEAR = (
    "attn_pre_proj", "attn_post_proj", "attn_rope", "mlp_up_proj", "mlp_act", "mlp_down_proj",
    "input_layernorm", "post_attention_layernorm", "add",
)  # fmt: skip


@dataclass(frozen=True)
class Replica:
    """One replica as a Vidur configuration describes it."""

    model: str
    device: str
    network: str
    tp: int
    n_layers: int
    n_q_heads: int
    n_kv_heads: int
    embedding_dim: int
    mlp_hidden_dim: int
    use_gated_mlp: bool
    post_attn_norm: bool
    vocab_size: int
    memory_gib: float
    memory_margin: float
    block_tokens: int
    scheduler: str
    scheduler_knobs: Mapping[str, Any] = field(repr=False)
    n_replicas: int = 1
    router: str = "round_robin"
    max_tokens: int = 4096  # longest request the run's generator makes
    max_request_tokens: int = 4096  # longest context the predictor knows
    granularity: int = 64
    decode_overhead: float = 0.0
    prefill_overhead: float = 0.0
    nccl_launch_ms: float = 0.0
    nccl_skew_ms: float = 0.0

    @property
    def max_requests_in_memory(self) -> int:
        """Requests of the longest length whose keys and values fit beside the weights.

        Vidur counts two bytes a number, no embeddings, and keys and values of `max_tokens` each.
        """
        head = self.embedding_dim // self.n_q_heads
        q_heads, kv_heads = self.n_q_heads // self.tp, -(-self.n_kv_heads // self.tp)
        matrices = 3 if self.use_gated_mlp else 2
        weights = self.embedding_dim * head * (2 * q_heads + 2 * kv_heads)
        weights += matrices * self.embedding_dim * self.mlp_hidden_dim // self.tp
        free = self.memory_gib * GIB * (1 - self.memory_margin) - 2 * weights * self.n_layers
        kv_bytes = 2 * 2 * head * kv_heads * self.max_tokens * self.n_layers
        return int(free // kv_bytes)

    @property
    def n_blocks(self) -> int:
        """KV blocks of a replica: those given, else worst-case requests times their blocks."""
        given = self.scheduler_knobs.get("num_blocks")
        return int(given) if given else self.max_blocks_a_request * self.max_requests_in_memory

    @property
    def max_blocks_a_request(self) -> int:
        return self.max_tokens // self.block_tokens


@dataclass(frozen=True)
class Samples:
    """Measured medians in ms."""

    linear: Mapping[str, Columns]  # by operator: tokens, ms
    decode: Columns  # batch, cached tokens of each, ms
    prefill: Columns  # cached tokens, chunk, ms
    kv_save: Columns  # tokens, ms; empty where it was not measured
    all_reduce: Columns  # bytes, ms; empty without tensor parallelism


def read_config(path: Path) -> Replica:
    """The replica of a resolved configuration.

    Raises SpecError where it is not one, or asks for what is not covered here.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        replica = _replica(config)
    except KeyError as error:
        raise SpecError.one(
            str(path), f"has no {error.args[0]!r}", "give Vidur's own resolved config.json"
        ) from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise SpecError.one(str(path), f"is not a Vidur configuration: {error}") from error
    _check(path, config, replica)
    return replica


def _replica(config: Mapping[str, Any]) -> Replica:
    cluster, predictor = config["cluster_config"], config["execution_time_predictor_config"]
    device, knobs = cluster["replica_config"], cluster["replica_scheduler_config"]
    model = device["model_config"]
    grouped = int(model["num_q_heads"] > model["num_kv_heads"])  # overheads are for GQA only
    generator = config.get("request_generator_config", {})
    longest = int(predictor["prediction_max_tokens_per_request"])
    return Replica(
        model=str(device["model_name"]),
        device=str(device["device"]),
        network=str(device["network_device"]),
        tp=int(device["tensor_parallel_size"]),
        n_layers=int(model["num_layers"]),
        n_q_heads=int(model["num_q_heads"]),
        n_kv_heads=int(model["num_kv_heads"]),
        embedding_dim=int(model["embedding_dim"]),
        mlp_hidden_dim=int(model["mlp_hidden_dim"]),
        use_gated_mlp=bool(model["use_gated_mlp"]),
        post_attn_norm=bool(model["post_attn_norm"]),
        vocab_size=int(model["vocab_size"]),
        memory_gib=float(device["device_config"]["total_memory_gb"]),
        memory_margin=float(device["memory_margin_fraction"]),
        block_tokens=int(knobs["block_size"]),
        scheduler=str(knobs["name"]),
        scheduler_knobs=knobs,
        n_replicas=int(cluster["num_replicas"]),
        router=str(cluster["global_scheduler_config"]["name"]),
        max_tokens=int(generator.get("max_tokens") or longest),
        max_request_tokens=longest,
        granularity=int(predictor["kv_cache_prediction_granularity"]),
        decode_overhead=grouped * float(predictor["attention_decode_batching_overhead_fraction"]),
        prefill_overhead=grouped * float(predictor["attention_prefill_batching_overhead_fraction"]),
        nccl_launch_ms=float(predictor["nccl_cpu_launch_overhead_ms"]),
        nccl_skew_ms=float(predictor["nccl_cpu_skew_overhead_per_device_ms"]),
    )


def _check(path: Path, config: Mapping[str, Any], replica: Replica) -> None:
    device = config["cluster_config"]["replica_config"]
    if int(device.get("num_pipeline_stages", 1)) > 1:
        raise SpecError.one(
            str(path), "has pipeline stages, whose send and receive tables are not read here",
            "compare a run with num_pipeline_stages = 1",
        )  # fmt: skip
    if not config["execution_time_predictor_config"].get("skip_cpu_overhead_modeling", True):
        raise SpecError.one(
            str(path), "charges CPU overhead, whose tables are not read here",
            "compare a run with skip_cpu_overhead_modeling = true",
        )  # fmt: skip
    if replica.n_blocks < 1:
        raise SpecError.one(str(path), f"{replica.model} does not fit in the memory it describes")


# -- operator tables -------------------------------------------------------------------------------


def read_samples(ops: Path, replica: Replica) -> Samples:
    """The tables under `ops` that belong to the replica.

    Raises SpecError or TraceError where one is missing or damaged.
    """
    if not ops.is_dir():
        raise SpecError.one(str(ops), "there is no folder of operator tables")
    linear = _read(_linear_file(ops, replica))
    attention = _read(_attention_file(ops, replica))
    linear = _only(
        linear, n_head=replica.n_q_heads, n_kv_head=replica.n_kv_heads,
        n_embd=replica.embedding_dim, n_expanded_embd=replica.mlp_hidden_dim,
        vocab_size=replica.vocab_size, num_tensor_parallel_workers=replica.tp,
    )  # fmt: skip
    attention = _only(
        attention, n_embd=replica.embedding_dim, n_q_head=replica.n_q_heads,
        n_kv_head=replica.n_kv_heads, block_size=replica.block_tokens,
        num_tensor_parallel_workers=replica.tp,
    )  # fmt: skip
    decoding = attention.numbers("prefill_chunk_size") == 0
    decode = attention.pick(decoding, "batch_size", "kv_cache_size", _ms("attn_decode"))
    prefill = attention.pick(~decoding, "kv_cache_size", "prefill_chunk_size", _ms("attn_prefill"))
    return Samples(
        linear=_linear(linear), decode=decode, prefill=prefill, kv_save=_kv_save(attention),
        all_reduce=_all_reduce(ops, replica),
    )  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A CSV file as text columns."""

    path: Path
    columns: Mapping[str, np.ndarray]

    def has(self, *names: str) -> bool:
        return any(name in self.columns for name in names)

    def numbers(self, *names: str) -> np.ndarray:
        """The first of the columns that is here, as float64; empty fields are nan."""
        found = [name for name in names if name in self.columns]
        if not found:
            raise TraceError.one(str(self.path), f"has no column {' or '.join(names)}")
        text = self.columns[found[0]]
        try:
            return np.array([float(t) if t else np.nan for t in text], dtype=np.float64)
        except ValueError as error:
            raise TraceError.one(str(self.path), f"column {found[0]}: {error}") from error

    def pick(self, rows: np.ndarray, *columns: str | tuple[str, ...]) -> Columns:
        """Some rows of some columns, without those that lack a number."""
        names = [(c,) if isinstance(c, str) else c for c in columns]
        picked = np.array([self.numbers(*name)[rows] for name in names])
        picked = picked[:, np.isfinite(picked).all(axis=0)]
        if picked.shape[1] == 0:
            raise TraceError.one(
                str(self.path), f"has no measurement of {names[-1][0]} for this configuration"
            )
        return tuple(picked)

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values())))


def _ms(operator: str) -> tuple[str, ...]:
    """The columns that may hold an operator's median."""
    return (f"{operator}_ms", f"time_stats.{operator}.median")


def _read(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError.one(str(path), f"cannot be read: {error}") from error
    if len(rows) < 2:
        raise TraceError.one(str(path), "has no rows")
    header, body = rows[0], [row for row in rows[1:] if row]
    short = [n for n, row in enumerate(body, start=2) if len(row) != len(header)]
    if short:
        raise TraceError.one(f"{path}:{short[0]}", f"does not have {len(header)} fields")
    distinct = list(dict.fromkeys(tuple(row) for row in body))  # as Vidur drops repeated rows
    return Table(path, {name: np.array(c) for name, c in zip(header, zip(*distinct, strict=True),
                                                             strict=True)})  # fmt: skip


def _only(table: Table, **wanted: int) -> Table:
    """The rows that are about this configuration, judged by the columns there are."""
    keep = np.ones(table.n_rows, dtype=bool)
    for name, value in wanted.items():
        if table.has(name):
            keep &= table.numbers(name) == value
    if not keep.any():
        raise TraceError.one(
            str(table.path), "has no row for "
            + ", ".join(f"{k} = {v}" for k, v in wanted.items() if table.has(k)),
        )  # fmt: skip
    return Table(table.path, {name: column[keep] for name, column in table.columns.items()})


def _linear(table: Table) -> dict[str, Columns]:
    tokens, everything = table.numbers("num_tokens"), np.ones(table.n_rows, dtype=bool)
    optional = {"post_attention_layernorm", "add", "input_layernorm"}  # 0 where not measured
    return {
        name: (tokens, np.zeros(len(tokens)))
        if name in optional and not table.has(*_ms(name))
        else (tokens, np.nan_to_num(table.numbers(*_ms(name))))
        if name in optional
        else table.pick(everything, "num_tokens", _ms(name))
        for name in LINEAR
    }


def _kv_save(table: Table) -> Columns:
    if not table.has(*_ms("attn_kv_cache_save")):
        return np.zeros(0), np.zeros(0)
    tokens = np.maximum(table.numbers("prefill_chunk_size"), table.numbers("batch_size"))
    return tokens, np.nan_to_num(table.numbers(*_ms("attn_kv_cache_save")))


def _all_reduce(ops: Path, replica: Replica) -> Columns:
    if replica.tp == 1:
        return np.zeros(0), np.zeros(0)
    table = _read(_one(ops, "all_reduce", replica.network, rf"(?:^|-)(?:tp)?{replica.tp}$"))
    table = _only(table, num_workers=replica.tp, devices_per_node=replica.tp)
    rows = np.ones(table.n_rows, dtype=bool)
    if table.has("collective"):
        rows = table.columns["collective"] == "all_reduce"
    return table.pick(rows, "size", _ms("all_reduce"))


def _linear_file(ops: Path, replica: Replica) -> Path:
    def is_model(text: str) -> bool:
        return bool(text) and (text in _plain(replica.model) or _plain(replica.model) in text)

    files = _files(ops, "linear", replica.device, rf"-tp{replica.tp}$")
    named = [f for f, middle in files if is_model(_plain(middle))]
    if named:
        return max(named, key=lambda f: len(f.stem))
    return _single(ops, "linear", [f for f, _ in files], f"{replica.model}, tp = {replica.tp}")


def _attention_file(ops: Path, replica: Replica) -> Path:
    shape = f"{replica.embedding_dim}x{replica.n_q_heads}x{replica.n_kv_heads}"
    files = _files(ops, "attention", replica.device, rf"-tp{replica.tp}$")
    named = [f for f, middle in files if middle == shape]
    named += [f for f, middle in files if "x" not in middle and _plain(middle)
              and _plain(middle) in _plain(replica.model)]  # fmt: skip
    return _single(ops, "attention", named, f"{replica.device}, {shape}, tp = {replica.tp}")


def _one(ops: Path, kind: str, device: str, tail: str) -> Path:
    files = [f for f, _ in _files(ops, kind, device, tail)]
    return _single(ops, kind, files, device)


def _files(ops: Path, kind: str, device: str, tail: str) -> list[tuple[Path, str]]:
    """Files `<kind>-<device>[-<middle>]<tail>.csv` with their middles."""
    found = []
    for path in sorted(ops.glob(f"{kind}-*.csv")):
        rest = path.stem[len(kind) + 1 :]
        end = re.search(tail, rest)
        if end and (rest == device or rest.startswith(f"{device}-")):
            found.append((path, rest[len(device) + 1 : end.start()]))
    return found


def _single(ops: Path, kind: str, found: list[Path], what: str) -> Path:
    if len(found) != 1:
        here = ", ".join(p.name for p in sorted(ops.glob(f"{kind}-*.csv"))) or "none"
        count = "no" if not found else "more than one"
        raise SpecError.one(str(ops), f"has {count} {kind} table for {what}", f"there is: {here}")
    return found[0]


def _plain(text: str) -> str:
    """Letters and digits of a name, small."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
