"""The short names: each is a flag `--rate`, a variable `FORERUN_RATE` and a key of the case.

Words are those of vLLM and its neighbours where they have one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One value of a case with a short name."""

    name: str
    path: str  # in the case; `deployment.tp` is of its one pool
    help: str
    aliases: tuple[str, ...] = ()
    bare: str = ""  # the unit of a bare number, where the field's tools agree on one
    example: str = ""

    @property
    def variable(self) -> str:
        return "FORERUN_" + self.name.upper().replace("-", "_")


_ENGINE = "deployment.engine."

#: in the order of the help text
SETTINGS: tuple[Setting, ...] = (
    Setting("model", "model", "Model: catalog name or path of a config.json.", (), "", "NAME"),
    Setting("fleet", "fleet", "Devices that may be used.", ("gpu",), "", "H100:8,L4:4"),
    Setting("trace", "traffic.trace", "Bundled workload or trace file.", (), "", "NAME|FILE"),
    Setting("arrivals", "traffic.arrivals", "How requests arrive.", (), "", "poisson|trace|..."),
    Setting(
        "rate", "traffic.rate_per_s", "Request rate.", ("request-rate",), "req/s", "'4 req/s'"
    ),
    Setting(
        "concurrency", "traffic.concurrency", "Requests always in flight (closed loop).",
        ("max-concurrency",), "", "N",
    ),
    Setting("n-requests", "traffic.n_requests", "Requests in all.", ("num-prompts",), "", "N"),
    Setting("duration", "traffic.duration_s", "Length of the traffic.", (), "", "'10 min'"),
    Setting("isl", "traffic.isl", "Input tokens of a request.", (), "", "N"),
    Setting("osl", "traffic.osl", "Output tokens of a request.", (), "", "N"),
    Setting("ttft", "slo.ttft_s", "SLO: time to first token.", (), "", "'500 ms'"),
    Setting("tpot", "slo.tpot_s", "SLO: time per output token.", (), "", "'50 ms'"),
    Setting("itl", "slo.itl_s", "SLO: longest gap between tokens.", (), "", "'100 ms'"),
    Setting("e2e", "slo.e2el_s", "SLO: end-to-end latency.", ("e2el",), "", "'30 s'"),
    Setting("attainment", "slo.attainment", "Share of requests that must be good.", (), "", "0.99"),
    Setting("tp", "deployment.tp", "Tensor parallel size.", ("tensor-parallel-size",), "", "N"),
    Setting("pp", "deployment.pp", "Pipeline parallel size.", ("pipeline-parallel-size",), "", "N"),
    Setting("ep", "deployment.ep", "Expert parallel size.", (), "", "N"),
    Setting("dp", "deployment.dp", "Attention data parallelism in a replica.", (), "", "N"),
    Setting("replicas", "deployment.replicas", "Replicas.", (), "", "N"),
    Setting("dtype", "deployment.dtype", "Weight format.", ("quantization",), "", "bf16|fp8|..."),
    Setting("kv-dtype", "deployment.kv_dtype", "KV format.", ("kv-cache-dtype",), "", "bf16|fp8"),
    Setting("max-num-seqs", _ENGINE + "max_num_seqs", "Sequences in a step at most.", (), "", "N"),
    Setting(
        "max-num-batched-tokens", _ENGINE + "max_num_batched_tokens", "Tokens in a step at most.",
        (), "", "N",
    ),
    Setting("max-model-len", _ENGINE + "max_model_len", "Longest sequence served.", (), "", "N"),
    Setting(
        "gpu-memory-utilization", _ENGINE + "gpu_memory_utilization",
        "Share of device memory the engine may use.", (), "", "0.9",
    ),
    Setting("batch", _ENGINE + "batch", "Batch policy.", (), "", "chunked|prefill_first|..."),
    Setting("order", _ENGINE + "order", "Queue order.", ("scheduling-policy",), "", "fcfs|..."),
    Setting(
        "calibration", _ENGINE + "calibration", "Host terms and factors of `forerun calibrate`.",
        (), "", "FILE",
    ),
    Setting("route", "deployment.route", "Router.", (), "", "least_outstanding|..."),
    Setting("seed", "seed", "Seed of every random draw.", (), "", "N"),
)  # fmt: skip

SETTING_BY_NAME = {setting.name: setting for setting in SETTINGS}
