"""JSON whose shape is pinned; a row a request in CSV, JSONL and Parquet."""

import csv
import json
import sys

import numpy as np
import pytest
from handmade_logs import many_requests, three_requests
from test_report_table import result

from forerun.errors import MissingDependency, SpecError
from forerun.metrics.score import score
from forerun.report import jsonout
from forerun.report.result import Result
from forerun.spec.slo import Slo

#: every key of schema version 1, in order; a change here is a new version unless it only adds
QUANTILES = ["n", "mean", "min", "p50", "p90", "p95", "p99", "max", "source", "sampling"]
FIGURE = ["value", "low", "high", "unit", "source"]
KEYS = {
    "schema_version": None,
    "title": None,
    "provenance": ["forerun_version", "spec_hash", "policies", "seed", "host", "price_date",
                   "calibration_ids"],
    "setup": ["model"],
    "window": ["start_s", "end_s", "duration_s"],
    "n_devices": None,
    "slo": ["ttft_s", "tpot_s", "itl_s", "e2el_s", "attainment", "met", "binding", "failing"],
    "counts": ["n", "finished", "rejected", "aborted", "unfinished", "failed",
               "preemptions", "retries", "recomputed_tokens", "lost_tokens", "input_tokens",
               "output_tokens"],
    "latency": ["ttft_s", "tpot_s", "itl_s", "e2el_s", "queue_s"],
    "throughput": ["requests_per_s", "output_tokens_per_s", "total_tokens_per_s",
                   "output_tokens_per_s_per_device"],
    "goodput": ["attainment", "goodput_per_s"],
    "utilisation": ["busy", "hfu", "mfu", "mbu", "link_bytes_per_s", "kv_peak", "kv_mean",
                    "batch_mean"],
    "kv": ["kv_hit", "kv_moved_bytes_per_s", "kv_wait_s", "kv_wait_p99_s", "kv_hit_below",
           "kv_read_bytes_per_s", "kv_written_bytes_per_s", "kv_fetch_s"],
    "encoders": ["items_encoded", "items_per_s", "encoding", "embeddings_moved_bytes_per_s",
                 "embedding_hit", "encoder_saved_s"],
    "images": [
        "images_per_s", "frames_per_s", "denoising_step_s", "showing", "controlnets",
        "controlnets_added", "controlnet_hit", "controlnet_loads", "controlnet_wait_s",
        "energy_j_per_image", "usd_per_image", "energy_j_per_frame",
        "usd_per_frame",
    ],
    "streams": [
        "frame_p50_s", "frame_p99_s", "frames_in_time", "good_frames_per_s", "uneven_p99_s",
        "stream_fps",
    ],
    "models": ["turns", "weights_loaded_bytes", "loading", "draining"],
    "adapters": ["adapter_hit", "adapter_loads", "adapter_bytes", "adapter_wait_s",
                 "adapters_mean"],
    "tuning": ["tuned_tokens", "tuned_tokens_per_s", "tuning_alone", "tuning_beside"],
    "lanes": ["prompts_busy", "answers_busy", "lanes_overlap", "prompts_slowdown",
              "answers_slowdown", "share_switches"],
    "tenants": ["jain", "service_gap_tokens_per_s"],
    "energy": ["energy_j", "power_w", "energy_j_per_output_token"],
    "power": ["row_mean_w", "row_p99_w", "row_peak_w", "over_budget_s", "over_budget_longest_s",
              "over_budget_w", "slowed_s"],
    "money": ["usd", "usd_per_hour", "usd_per_million_output_tokens", "usd_per_million_tokens"],
    "carbon": ["gco2e", "gco2e_per_million_output_tokens"],
    "fleet": ["replicas_mean", "replicas_peak", "device_hours", "cold_share", "availability",
              "lost_s"],
    "by_replica": ["busy", "hfu", "mfu", "mbu", "link_bytes_per_s", "kv_peak", "kv_mean",
                   "batch_mean"],
    "model_band": ["level", "step_time_low_factor", "step_time_high_factor", "cost_sources"],
    "sampling_level": None,
    "notes": None,
    "reasons": None,
}  # fmt: skip


def test_the_keys_of_schema_version_1():
    out = jsonout.to_json(result())
    assert out["schema_version"] == 1
    assert list(out) == list(KEYS)
    for key, inner in KEYS.items():
        if inner is not None:
            assert list(out[key]) == inner, key
    assert all(list(q) == QUANTILES for q in out["latency"].values())
    groups = (
        "throughput",
        "goodput",
        "utilisation",
        "kv",
        "energy",
        "power",
        "money",
        "carbon",
        "fleet",
    )
    for group in groups:
        assert all(list(f) == FIGURE for f in out[group].values())


def test_values_are_those_of_the_metrics():
    out = jsonout.to_json(result())
    assert out["latency"]["ttft_s"]["p50"] == pytest.approx(3)
    assert out["utilisation"]["hfu"]["value"] == pytest.approx(1893 / 8000)
    assert out["slo"]["met"] is False
    assert out["slo"]["binding"] == "ttft_s"
    assert out["provenance"]["forerun_version"] == "1.2.3"
    assert out["provenance"]["seed"] == 0
    assert out["provenance"]["price_date"] is None


def test_the_same_result_gives_the_same_bytes_and_no_nan():
    for log in (three_requests(), three_requests(leaps=None, gaps=None), many_requests(120)):
        one, two = (jsonout.json_text(result(log)) for _ in range(2))
        assert one == two
        assert json.loads(one) == json.loads(two)


def test_numpy_values_in_provenance_are_plain(tmp_path):
    r = result(provenance={"z": np.int64(3), "a": np.array([1.5]), "policies": ("x", {"k": 1})})
    out = json.loads(jsonout.write_json(r, tmp_path / "out.json").read_text())
    assert out["provenance"]["z"] == 3
    assert out["provenance"]["a"] == [1.5]
    assert out["provenance"]["policies"] == ["x", {"k": 1}]


def test_csv_and_jsonl_and_parquet_say_the_same(tmp_path):
    polars = pytest.importorskip("polars")
    log, slo = three_requests(), Slo(ttft_s=3)
    rows = list(csv.DictReader(jsonout.requests_csv(log, tmp_path / "r.csv", slo).open()))
    lines = jsonout.requests_jsonl(log, tmp_path / "r.jsonl", slo).read_text().splitlines()
    frame = polars.read_parquet(jsonout.requests_parquet(log, tmp_path / "r.parquet", slo))
    assert [json.loads(line) for line in lines] == frame.to_dicts()
    assert [r["status"] for r in rows] == ["finished", "finished", "rejected"]
    assert [r["ttft_s"] for r in rows] == ["2.0", "4.0", ""]
    assert frame["tpot_s"].to_list() == [3.0, None, None]
    assert frame["good"].to_list() == [True, False, False]


def test_without_polars_the_message_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingDependency, match=r"pip install 'forerun\[tables\]'"):
        jsonout.requests_parquet(three_requests(), tmp_path / "r.parquet")


def test_an_unwritable_path_is_a_sentence_and_leaves_nothing(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    r = Result("t", score(three_requests()))
    for path in (tmp_path / "no" / "such" / "out.json", target):
        with pytest.raises(SpecError, match="cannot be written") as caught:
            jsonout.write_json(r, path)
        assert str(path) in str(caught.value)
    with pytest.raises(SpecError, match="cannot be written"):
        jsonout.requests_csv(three_requests(), tmp_path / "no" / "out.csv")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder"]
