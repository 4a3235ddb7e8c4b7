"""A simulated run as `vllm bench serve --save-detailed` would have written it.

For comparing with tools that read such files, and for trying a calibration on a known engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.measure.bench._bench import summary
from forerun.metrics import latency


def vllm_result(
    rows: np.ndarray,
    *,
    model_id: str,
    request_rate: float | None = None,
    max_concurrency: int | None = None,
    date: str = "",
) -> dict[str, Any]:
    """The JSON object of finished requests (rows of dtype DONE), all gaps of one taken equal."""
    done = rows[latency.finished(rows)]
    ttft, e2el, tpot = latency.ttft_s(done), latency.e2el_s(done), latency.tpot_s(done)
    osl = done["n_out"].astype(int)
    span = float(done["done_ps"].max() - done["arrival_ps"].min()) * latency.PS
    out: dict[str, Any] = {
        "date": date, "endpoint_type": "openai", "backend": "openai", "model_id": model_id,
        "num_prompts": len(rows), "request_rate": request_rate or "inf", "burstiness": 1.0,
        "max_concurrency": max_concurrency, "duration": span, "completed": len(done),
        "total_input_tokens": int(done["isl"].sum()), "total_output_tokens": int(osl.sum()),
        "request_throughput": len(done) / span, "output_throughput": float(osl.sum()) / span,
        "input_lens": done["isl"].tolist(), "output_lens": osl.tolist(), "ttfts": ttft.tolist(),
        "itls": [[float(t)] * (n - 1) if n > 1 else [] for t, n in zip(tpot, osl, strict=True)],
        "start_times": (done["arrival_ps"] * latency.PS).tolist(), "errors": [""] * len(done),
    }  # fmt: skip
    for name, value in summary(ttft, tpot, e2el).items():
        what, figure = name.removesuffix("_" + name.rpartition("_")[2]), name.rpartition("_")[2]
        words = {"mean": "mean", "p50": "median"}.get(figure, figure)
        out[f"{words}_{what.removesuffix('_s')}_ms"] = 1e3 * value
    return out
