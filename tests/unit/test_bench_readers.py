"""Results of load generators are read for what they say, and what they lack is named."""

import gzip
import json

import numpy as np
import pytest

from forerun.errors import SpecError
from forerun.measure import bench
from forerun.measure.bench import rebuild

VLLM = {
    "date": "20260914-101500", "endpoint_type": "vllm", "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B", "request_rate": 4.0, "burstiness": 1.0,
    "max_concurrency": None, "duration": 2.0, "completed": 2, "total_input_tokens": 30,
    "total_output_tokens": 5, "request_throughput": 1.0, "output_throughput": 2.5,
    "mean_ttft_ms": 60.0, "median_ttft_ms": 60.0, "p99_ttft_ms": 70.0, "mean_tpot_ms": 9.0,
}  # fmt: skip
DETAILED = VLLM | {
    "input_lens": [20, 10], "output_lens": [3, 2], "ttfts": [0.05, 0.07],
    "itls": [[0.01, 0.02], [0.008]], "start_times": [100.5, 100.0], "errors": ["", ""],
}  # fmt: skip


def written(folder, data, name="result.json"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def only(path):
    (run,) = bench.read(path)
    return run


def test_a_detailed_vllm_result_gives_every_request_in_the_order_sent(tmp_path):
    run = only(written(tmp_path, DETAILED))
    assert run.tool == "vllm bench serve"
    assert (run.model, run.engine, run.date) == ("meta-llama/Llama-3.1-8B", "vllm", "2026-09-14")
    assert run.isl.tolist() == [10, 20]
    assert run.osl.tolist() == [2, 3]
    assert run.start_s.tolist() == [0.0, 0.5]
    assert run.ttft_s.tolist() == [0.07, 0.05]
    assert run.e2el_s == pytest.approx([0.078, 0.08])  # ttft + sum of the gaps
    assert run.tpot_s == pytest.approx([0.008, 0.015])
    assert (run.rate_per_s, run.concurrency) == (4.0, None)


def test_a_summary_gives_figures_in_seconds_and_means(tmp_path):
    run = only(written(tmp_path, VLLM))
    assert run.ttft_s is None
    assert run.figures["ttft_s_mean"] == pytest.approx(0.06)
    assert run.figures["ttft_s_p50"] == pytest.approx(0.06)
    assert (run.mean_isl, run.mean_osl) == (15.0, 2.5)
    assert any("--save-detailed" in note for note in run.notes)


def test_failed_requests_are_left_out_and_counted(tmp_path):
    data = DETAILED | {"output_lens": [3, 0], "ttfts": [0.05, 0.0], "itls": [[0.01, 0.02], []]}
    run = only(written(tmp_path, data))
    assert run.n == 1
    assert run.notes == ("1 of 2 requests failed and are left out",)


def test_unknown_keys_are_left_alone_and_missing_ones_are_named(tmp_path):
    assert only(written(tmp_path, VLLM | {"rtfx": 0.0, "new_thing": [1]})).n == 2
    less = {k: v for k, v in VLLM.items() if k not in ("total_input_tokens", "total_output_tokens")}
    with pytest.raises(SpecError, match="has no total_input_tokens, total_output_tokens"):
        bench.read(written(tmp_path, less))


def test_appended_results_are_runs_of_one_file(tmp_path):
    lines = "\n".join(json.dumps(VLLM | {"max_concurrency": c}) for c in (1, 8))
    assert [r.concurrency for r in bench.read(written(tmp_path, lines))] == [1, 8]


def test_a_gzipped_result_is_the_same(tmp_path):
    path = tmp_path / "result.json.gz"
    path.write_bytes(gzip.compress(json.dumps(DETAILED).encode()))
    assert only(path).isl.tolist() == [10, 20]


def test_sglang_lines_are_told_from_vllms(tmp_path):
    one = {
        "backend": "sglang", "request_rate": float("inf"), "max_concurrency": 16, "completed": 2,
        "total_input_tokens": 30, "total_output_tokens": 5, "total_output_tokens_retokenized": 5,
        "mean_e2e_latency_ms": 500.0, "mean_ttft_ms": 60.0, "output_throughput": 2.5,
        "server_info": {"model_path": "meta-llama/Llama-3.1-8B", "version": "0.5.3"},
    }  # fmt: skip
    run = only(written(tmp_path, json.dumps(one), "online.jsonl"))
    assert (run.tool, run.engine, run.engine_version) == ("sglang.bench_serving", "sglang", "0.5.3")
    assert (run.rate_per_s, run.concurrency) == (None, 16)
    assert run.figures["e2el_s_mean"] == pytest.approx(0.5)
    details = {"input_lens": [20, 10], "output_lens": [3, 2], "ttfts": [0.05, 0.07],
               "itls": [[0.01, 0.02], [0.008]]}  # fmt: skip
    assert only(written(tmp_path, one | details)).e2el_s == pytest.approx([0.08, 0.078])


GUIDE = {
    "metadata": {"guidellm_version": "0.5.0"},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": kind, **load}, "backend": {"model": "llama-3.1-8b"}},
            "requests": {
                "successful": [
                    {"prompt_tokens": 10, "output_tokens": 3, "time_to_first_token_ms": 50.0,
                     "request_latency": 0.08, "request_start_time": 7.0},
                ]
            },
        }
        for kind, load in (("concurrent", {"streams": 8}), ("poisson", {"rate": 3.0}))
    ],
}  # fmt: skip


def test_each_benchmark_of_a_guidellm_report_is_a_run(tmp_path):
    runs = bench.read(written(tmp_path, GUIDE))
    assert [(r.concurrency, r.rate_per_s) for r in runs] == [(8, None), (None, 3.0)]
    assert runs[0].ttft_s.tolist() == [0.05]
    assert runs[0].model == "llama-3.1-8b"


def test_a_guidellm_report_may_be_yaml(tmp_path):
    text = """metadata: {guidellm_version: 0.3.0}
benchmarks:
- args: {strategy: {type_: synchronous}}
  requests:
    successful:
    - {prompt_tokens: 10, output_tokens: 2, time_to_first_token_ms: 50, start_time: 1.0,
       end_time: 1.06}
"""
    run = only(written(tmp_path, text, "report.yaml"))
    assert run.concurrency == 1
    assert run.e2el_s == pytest.approx([0.06])


def record(start_ns, **metrics):
    units = {"input_sequence_length": "tokens", "output_sequence_length": "tokens"}
    return {
        "metadata": {"request_start_ns": start_ns, "benchmark_phase": "profiling"},
        "metrics": {k: {"value": v, "unit": units.get(k, "ms")} for k, v in metrics.items()},
        "error": None,
    }


def test_aiperf_records_are_read_with_the_load_beside_them(tmp_path):
    good = {"input_sequence_length": 550, "output_sequence_length": 9, "time_to_first_token": 255.0,
            "request_latency": 297.0}  # fmt: skip
    lines = [record(10**9 * i, **good) for i in (3, 1)]
    lines.append({"metadata": {"was_cancelled": True, "request_start_ns": 5}, "metrics": None,
                  "error": {"code": 499}})  # fmt: skip
    path = written(tmp_path, "\n".join(map(json.dumps, lines)), "profile_export.jsonl")
    run = only(path)
    assert run.start_s.tolist() == [0.0, 2.0]
    assert run.ttft_s.tolist() == [0.255, 0.255]
    assert run.concurrency is None
    beside = {"input_config": {"loadgen": {"concurrency": 4}, "endpoint": {"model_names": ["m"]}}}
    written(tmp_path, beside, "profile_export_aiperf.json")
    assert (only(path).concurrency, only(path).model) == (4, "m")


def test_an_aiperf_summary_is_read_and_a_raw_export_refused(tmp_path):
    def metric(unit, avg):
        return {"unit": unit, "avg": avg, "p99": 2 * avg}

    one = {
        "input_config": {"loadgen": {"request_rate": 2.0}},
        "request_count": metric("requests", 12), "input_sequence_length": metric("tokens", 100.0),
        "output_sequence_length": metric("tokens", 10.5), "request_latency": metric("ms", 300.0),
        "time_to_first_token": metric("ms", 50.0), "inter_token_latency": metric("ms", 25.0),
    }  # fmt: skip
    run = only(written(tmp_path, one))
    assert (run.n, run.mean_osl, run.rate_per_s) == (12, 10.5, 2.0)
    assert run.figures["ttft_s_p99"] == pytest.approx(0.1)
    del one["request_latency"]
    with pytest.raises(SpecError, match="has no request_latency"):
        bench.read(written(tmp_path, one))
    with pytest.raises(SpecError, match="without token counts"):
        bench.read(written(tmp_path, {"experiments": [{"requests": []}]}))


def series(name, values, **labels):
    points = [[60.0 * i, str(v)] for i, v in enumerate(values)]
    return {"metric": {"__name__": name, "model_name": "m", **labels}, "values": points}


def dump(*found):
    return {"status": "success", "data": {"resultType": "matrix", "result": list(found)}}


def test_a_prometheus_dump_is_its_increases_and_survives_a_restart(tmp_path):
    # 10 requests in 120 s: 6 before the restart, 4 after it
    counts = (4, 10, 4)
    data = dump(
        series("vllm:e2e_request_latency_seconds_count", counts),
        series("vllm:e2e_request_latency_seconds_sum", (8, 20, 8)),
        series("vllm:prompt_tokens_total", (400, 1000, 400)),
        series("vllm:generation_tokens_total", (40, 100, 40)),
        series("vllm:time_to_first_token_seconds_count", counts),
        series("vllm:time_to_first_token_seconds_sum", (0.4, 1.0, 0.4)),
        series("vllm:time_to_first_token_seconds_bucket", (2, 5, 2), le="0.1"),
        series("vllm:time_to_first_token_seconds_bucket", counts, le="0.2"),
        series("vllm:time_to_first_token_seconds_bucket", counts, le="+Inf"),
        series("vllm:num_requests_running", (1, 2, 3)),
    )
    run = only(written(tmp_path, data))
    assert (run.n, run.mean_isl, run.mean_osl, run.engine) == (10, 100.0, 10.0, "vllm")
    assert run.rate_per_s == pytest.approx(10 / 120)
    assert run.figures["e2el_s_mean"] == pytest.approx(2.0)
    assert run.figures["ttft_s_mean"] == pytest.approx(0.1)
    # 5 of 10 within 0.1 s: the median is there, and p90 at 8/10 of the way to 0.2
    assert run.figures["ttft_s_p50"] == pytest.approx(0.1)
    assert run.figures["ttft_s_p90"] == pytest.approx(0.18)
    assert run.figures["running"] == pytest.approx(2.0)
    several = {"a": dump(*data["data"]["result"][:4]), "b": dump(*data["data"]["result"][4:])}
    assert only(written(tmp_path, several)).figures == run.figures


def test_a_prometheus_dump_without_tokens_names_what_to_query(tmp_path):
    data = dump(series("sglang:e2e_request_latency_seconds_count", (1, 5)))
    with pytest.raises(SpecError, match="sglang:prompt_tokens_total"):
        bench.read(written(tmp_path, data))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ('{"completed": 3, ', "is damaged JSON"),
        ('{"a": 1}', "no result of a load generator"),
        ("[1, 2]", "no result of a load generator"),
        ("a: [", "neither JSON nor YAML"),
    ],
)
def test_a_file_that_is_none_of_them_says_so(tmp_path, text, what):
    with pytest.raises(SpecError, match=what):
        bench.read(written(tmp_path, text))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(SpecError, match="cannot be read"):
        bench.read(tmp_path / "nothing.json")


def test_a_closed_loop_keeps_its_concurrency_and_an_open_one_its_times(tmp_path):
    closed, _ = rebuild(only(written(tmp_path, DETAILED | {"request_rate": "inf",
                                                           "max_concurrency": 2})))  # fmt: skip
    assert closed.meta["concurrency"] == 2
    opened, said = rebuild(only(written(tmp_path, DETAILED)))
    assert opened.arrival_s.tolist() == [0.0, 0.5]
    assert said == ()


def test_what_a_summary_does_not_hold_is_drawn_and_said(tmp_path):
    many = VLLM | {"completed": 400, "total_input_tokens": 40_010, "total_output_tokens": 8001}
    requests, said = rebuild(only(written(tmp_path, many)), seed=3)
    assert len(requests) == 400
    assert requests.isl.mean() == pytest.approx(100, rel=0.02)
    assert requests.duration_s == pytest.approx(100, rel=0.2)  # 4 requests a second
    assert len(said) == 2
    again, _ = rebuild(only(written(tmp_path, many)), seed=3)
    assert np.array_equal(again.arrival_s, requests.arrival_s)
    equal = VLLM | {"completed": 400, "total_input_tokens": 40_000, "total_output_tokens": 8000}
    requests, said = rebuild(only(written(tmp_path, equal)))
    assert set(requests.osl.tolist()) == {20}
    assert "one length" in said[0]


WHOLE = {
    "vllm": {
        "date": "20260914-101500", "backend": "vllm", "model_id": "m", "request_rate": 2.0,
        "burstiness": 1.0, "max_concurrency": None, "completed": 2, "total_input_tokens": 300,
        "total_output_tokens": 40, "mean_ttft_ms": 100.0, "request_throughput": 1.0,
        "input_lens": [100, 200], "output_lens": [20, 20], "ttfts": [0.1, 0.2],
        "itls": [[0.01] * 19, [0.01] * 19], "start_times": [0.0, 1.0],
    },
    "sglang": {
        "backend": "sglang", "request_rate": 2.0, "completed": 2, "total_input_tokens": 300,
        "total_output_tokens": 40, "mean_e2e_latency_ms": 300.0, "server_info": {"version": "1"},
    },
    "guidellm": {
        "metadata": {"guidellm_version": "0.5"},
        "benchmarks": [{
            "config": {"strategy": {"type_": "poisson", "rate": 2.0}, "backend": {"model": "m"}},
            "requests": {"successful": [{
                "prompt_tokens": 100, "output_tokens": 20, "time_to_first_token_ms": 100.0,
                "request_latency": 0.5, "request_start_time": 1.0,
            }]},
        }],
    },
    "aiperf": {
        "input_config": {"loadgen": {"request_rate": 2.0, "concurrency": 4}},
        "request_count": {"unit": "requests", "avg": 2},
        "input_sequence_length": {"unit": "tokens", "avg": 100},
        "output_sequence_length": {"unit": "tokens", "avg": 20},
        "time_to_first_token": {"unit": "ms", "avg": 100}, "request_latency": {"unit": "ms",
                                                                               "avg": 500},
    },
    "prometheus": {"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {"__name__": f"vllm:{name}", "model_name": "m"},
         "values": [[1e9, "0"], [1e9 + 60, "1000"]]}
        for name in ("e2e_request_latency_seconds_count", "e2e_request_latency_seconds_sum",
                     "prompt_tokens_total", "generation_tokens_total", "num_requests_running")
    ]}},
}  # fmt: skip
STRANGE = (None, "x", -1, 0, [], {}, float("nan"), 1e300, True, [None], [1], "1", {"a": 1})


def _places(value, at=()):
    yield at
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield from _places(value[key], (*at, key))


def _with(whole, at, value):
    if not at:
        return value
    copy = dict(whole) if isinstance(whole, dict) else list(whole)
    copy[at[0]] = _with(whole[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("tool", WHOLE)
def test_any_value_of_another_kind_is_a_sentence_or_changes_nothing_that_counts(tmp_path, tool):
    path = tmp_path / "run.json"
    refused = []
    for at in _places(WHOLE[tool]):
        for value in STRANGE:
            path.write_text(json.dumps(_with(WHOLE[tool], at, value)))
            try:
                runs = bench.read(path)
            except SpecError as error:
                refused += error.problems
                continue
            for run in runs:
                assert run.n >= 1
                assert run.mean_isl >= 1
                assert run.mean_osl >= 1
                assert all(0 <= v < 1e13 for v in run.figures.values())
                rebuild(run)
    assert len(refused) > 20
    assert all(str(path) in p.where and p.what and p.fix for p in refused)
