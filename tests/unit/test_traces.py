"""Reading and writing traces."""

import gzip
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_files import AZURE, AZURE_ROWS, CODE, CONV, MOONCAKE, csv, put, refused, some

from forerun.errors import TraceError
from forerun.spec import traces
from forerun.spec.requests import Requests
from forerun.spec.traces._columns import same

# formats --------------------------------------------------------------------------------------


def test_each_format_is_told_by_its_content(tmp_path):
    lines = {
        "azure_llm": AZURE + AZURE_ROWS[0],
        "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log",
        "mooncake": '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}',
        "splitwise": "request_id,request_type,application_id,arrival_timestamp,batch_size,"
        "prompt_size,token_size\n0,2,0,0.1,1,10,20",
        "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,20",
        "vllm_bench": "input_toks,output_toks,arrival_time_ns\n10,20,5000",
        "plain": "time,prompt_tokens,completion_tokens\n1.5,10,20",
    }
    for name, text in lines.items():
        path = put(tmp_path / "any-name.txt", text + "\n")
        assert traces.detect(path) == name
        assert traces.read(path).meta["format"] == name
    assert set(lines) | {"servegen"} == set(traces.formats())


def test_lengths_and_times_are_what_the_file_says(tmp_path):
    path = put(tmp_path / "a.csv", AZURE + "\n".join(AZURE_ROWS))
    requests = traces.read(path)
    assert requests.isl.tolist() == [4808, 3180, 110]
    assert requests.osl.tolist() == [10, 8, 27]
    # 18:17:03.9799600 -> 18:17:04.0319600 -> 18:17:05.0000001
    np.testing.assert_allclose(requests.arrival_s, [0, 0.052, 1.0200401], rtol=0, atol=1e-12)
    assert requests.meta["start"] == "2023-11-16T18:17:03.979960000"


def test_azure_2024_zones_are_read(tmp_path):
    rows = "2024-05-10 00:00:00.009930+00:00,10,2\n2024-05-10 02:00:01.009930+02:00,10,2\n"
    requests = traces.read(put(tmp_path / "a.csv", AZURE + rows))
    assert requests.arrival_s.tolist() == [0.0, 1.0]


def test_real_traces_are_read_whole(shared_data):
    sizes = {CONV: 19366, CODE: 8819, MOONCAKE: 12031, "vidur_run/trace-cl34-2000.csv": 2000}
    for file in (shared_data / "vllm_bench/workloads").iterdir():
        sizes[f"vllm_bench/workloads/{file.name}"] = 300
    for name, n in sizes.items():
        requests = traces.read(shared_data / name)
        assert len(requests) == n == requests.meta["n_rows"]
        assert requests.meta["skipped"] == {}


def test_vidur_times_are_kept_as_they_stand(shared_data):
    requests = traces.read(shared_data / "vidur_run/trace-cl34-500.csv")
    assert requests.arrival_s[0] == 0.5100301436374005
    assert (requests.isl[0], requests.osl[0]) == (395, 112)


def test_vllm_results_and_json_lines_are_read(tmp_path):
    result = {"input_lens": [5, 6], "output_lens": [7, 8], "start_times": [100.5, 101.0]}
    requests = traces.read(put(tmp_path / "r.json", json.dumps(result)))
    assert requests.arrival_s.tolist() == [0, 0.5]
    assert requests.isl.tolist() == [5, 6]
    rows = '{"prompt": "hi", "prompt_len": 3, "output_len": 4}\n' * 2
    requests = traces.read(put(tmp_path / "r.jsonl", rows))
    assert requests.osl.tolist() == [4, 4]
    assert requests.meta["arrivals"] == "absent"


def test_raw_conversations_are_refused_because_they_hold_no_token_counts(tmp_path):
    text = json.dumps([{"id": "a", "conversations": [{"from": "human", "value": "hello"}]}])
    assert "without token counts" in refused(put(tmp_path / "s.json", text))


def test_burstgpt_sessions_and_models_are_kept(tmp_path):
    header = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type"
    rows = ["1,7,ChatGPT,4,5,9,x", "2,7,GPT-4,4,5,9,x", "3,9,GPT-4,4,5,9,x"]
    requests = traces.read(csv(tmp_path / "b.csv", *rows, header=header))
    assert requests.session.tolist() == [7, 7, 9]
    assert requests.meta["models"] == {"ChatGPT": 1, "GPT-4": 2}


def test_plain_optional_columns_are_read(tmp_path):
    header = "timestamp_ms;input_tokens;output_tokens;session_id;user;priority;deadline_s"
    rows = ["1000;5;6;abc;u1;2;inf", "1500;5;6;xyz;u1;-1;3.5", "1600;5;6;abc;u2;0;1"]
    requests = traces.read(csv(tmp_path / "p.csv", *rows, header=header))
    assert requests.arrival_s.tolist() == [1.0, 1.5, 1.6]
    assert requests.session.tolist() == [0, 1, 0]
    assert requests.tenant.tolist() == [0, 0, 1]
    assert requests.priority.tolist() == [2, -1, 0]
    assert requests.deadline_s.tolist() == [math.inf, 3.5, 1.0]


def test_a_request_without_a_session_says_none(tmp_path):
    for name in ("abc", "7"):
        rows = [f"0,5,6,{name}", "1,5,6,", f"2,5,6,{name}"]
        path = csv(tmp_path / "p.csv", *rows, header="arrival_s,isl,osl,session")
        session = traces.read(path).session
        assert session[1] == -1
        assert session[0] == session[2] >= 0


def test_clocks_are_counted_from_the_first_row_whatever_their_form(tmp_path):
    for a, b in [
        ("1700000000.25", "1700000001.75"),
        ("2023-11-16T00:00:00", "2023-11-16T00:00:01.5"),
    ]:
        path = csv(tmp_path / "p.csv", f"{a},5,6", f"{b},5,6", header="timestamp,isl,osl")
        assert traces.read(path).arrival_s.tolist() == [0.0, 1.5]


def test_milliseconds_since_1970_are_not_taken_for_seconds(tmp_path):
    path = csv(tmp_path / "p.csv", "1700000000250,5,6", header="timestamp,isl,osl")
    assert "timestamp_ms" in refused(path)


# what reads back ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", traces.writable())
@pytest.mark.parametrize("end", ["", ".gz"])
def test_what_is_written_reads_back_the_same(tmp_path, format, end):
    requests = some()
    path = tmp_path / f"t{end}"
    assert traces.convert(requests, path, format) == ()
    back = traces.read(path)
    assert back.meta["format"] == format
    assert same(back, requests)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 2**32))
def test_any_requests_read_back_within_the_formats_resolution(tmp_path_factory, times, seed):
    rng = np.random.default_rng(seed)
    n = len(times)
    arrival = np.sort(times) - min(times)
    requests = Requests(arrival, rng.integers(1, 2**31, n), rng.integers(1, 2**31, n))
    resolution_s = {"azure_llm": 1e-7, "mooncake": 1e-9, "vllm_bench": 1e-9}
    for format in traces.writable():
        path = tmp_path_factory.getbasetemp() / f"any.{format}"
        traces.convert(requests, path, format)
        back = traces.read(path, format=format)
        assert same(back, requests, time_tol_s=resolution_s.get(format, 0.0) + 1e-10)


def test_plain_keeps_every_column_but_hashes(tmp_path):
    n = 20
    rng = np.random.default_rng(1)
    extra = {"priority": rng.integers(-3, 3, n), "session": rng.integers(-1, 5, n)}
    extra |= {"tenant": rng.integers(0, 9, n), "deadline_s": rng.exponential(9, n)}
    requests = some(n, **extra)
    for name in ("t.csv", "t.csv.gz", "t.parquet"):
        assert traces.convert(requests, tmp_path / name, "plain") == ()
        assert same(traces.read(tmp_path / name), requests)


def test_what_a_format_cannot_hold_is_said(tmp_path):
    requests = some(3, session=np.zeros(3, dtype=int))
    said = traces.convert(requests, tmp_path / "t", "azure_llm")
    assert said == ("azure_llm holds no session: left out",)


def test_prefix_blocks_survive_mooncake_and_nothing_else(shared_data, tmp_path):
    requests = traces.read(shared_data / MOONCAKE)
    assert traces.convert(requests, tmp_path / "m.jsonl", "mooncake") == ()
    assert same(traces.read(tmp_path / "m.jsonl"), requests)
    assert len(traces.convert(requests, tmp_path / "m.csv", "plain")) == 1


def test_the_azure_trace_is_written_as_it_was(shared_data, tmp_path):
    traces.convert(traces.read(shared_data / CODE), tmp_path / "code.csv", "azure_llm")
    original = gzip.decompress((shared_data / CODE).read_bytes()).decode()
    assert (tmp_path / "code.csv").read_text().split() == original.split()


def test_a_format_that_is_only_read_is_not_written(tmp_path):
    with pytest.raises(TraceError, match="read, not written"):
        traces.convert(some(), tmp_path / "t", "servegen")


def test_unwritable_output_is_said(tmp_path):
    for name in ("no/such/folder.csv", "no/such/folder.parquet"):
        with pytest.raises(TraceError, match="cannot be written"):
            traces.convert(some(), tmp_path / name, "plain")
