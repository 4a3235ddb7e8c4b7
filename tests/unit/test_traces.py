"""Reading, writing, describing and synthesising traces."""

import gzip
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.errors import MissingDependency, SpecError, TraceError
from forerun.spec import traces
from forerun.spec.requests import Requests
from forerun.spec.traces import bundled, synth
from forerun.spec.traces._columns import same, take
from forerun.spec.traces.describe import describe, prefix_hit_rate

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE_ROWS = [
    "2023-11-16 18:17:03.9799600,4808,10",
    "2023-11-16 18:17:04.0319600,3180,8",
    "2023-11-16 18:17:05.0000001,110,27",
]
CONV = "azure_llm_2023/conv.csv.gz"
CODE = "azure_llm_2023/code.csv.gz"
MOONCAKE = "mooncake_fast25/conversation_trace.jsonl.gz"


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def csv(path: Path, *rows: str, header: str = "arrival_s,isl,osl") -> Path:
    return put(path, "\n".join([header, *rows]) + "\n")


def refused(path: Path, **options) -> str:
    with pytest.raises(TraceError) as caught:
        traces.read(path, **options)
    return str(caught.value)


def some(n: int = 50, seed: int = 0, **columns) -> Requests:
    """Requests whose times stand on the coarsest grid that a format has (1 ms)."""
    rng = np.random.default_rng(seed)
    time_ms = np.sort(rng.integers(0, 60_000, n))
    arrival = (time_ms - time_ms[0]) / 1e3
    isl, osl = rng.integers(1, 5000, n), rng.integers(1, 900, n)
    return Requests(arrival_s=arrival, isl=isl, osl=osl, **columns)


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


# bad input ------------------------------------------------------------------------------------

BAD = {  # row -> (reason, words of the message)
    "abc,5,6": ("malformed", "'abc' is not a number"),
    "1_0,5,6": ("malformed", "'1_0' is not a number"),
    ",5,6": ("malformed", "an empty field is not a number"),
    "3,5": ("truncated", "2 of 3 fields"),
    "3,5,6,7": ("extra_fields", "4 fields under 3"),
    "nan,5,6": ("nan", "arrival is nan"),
    "inf,5,6": ("nan", "arrival is inf"),
    "-1,5,6": ("negative_time", "-1 s is negative"),
    "3,0,6": ("zero_tokens", "0 input tokens"),
    "3,5,0": ("zero_tokens", "0 output tokens"),
    "3,-5,6": ("negative_tokens", "-5 input tokens"),
    "3,5.5,6": ("not_whole", "5.5 input tokens"),
    "3,nan,6": ("nan", "nan input tokens"),
    "3,5,1e12": ("too_large", "1000000000000 output tokens"),
}


@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_named_with_its_line_and_counted_when_skipped(tmp_path, row):
    reason, words = BAD[row]
    path = csv(tmp_path / "t.csv", "1,5,6", "", row, "4,7,8")  # the blank line is no row
    message = refused(path)
    assert f"{path}:4: " in message
    assert words in message
    assert "--skip-bad" in message
    kept = traces.read(path, skip_bad=True)
    assert kept.isl.tolist() == [5, 7]
    assert kept.meta["skipped"] == {reason: 1}
    assert kept.meta["n_rows"] == 3


def test_no_row_is_lost_between_kept_and_counted(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{i},5,6" if rng.random() < 0.5 else rng.choice(list(BAD)) for i in range(500)]
    requests = traces.read(csv(tmp_path / "t.csv", *rows), skip_bad=True)
    assert len(requests) + sum(requests.meta["skipped"].values()) == 500 == requests.meta["n_rows"]


def test_twenty_faults_are_listed_and_the_rest_counted(tmp_path):
    path = csv(tmp_path / "t.csv", *(["1,0,6"] * 30 + ["x,1,1"] * 5))
    with pytest.raises(TraceError) as caught:
        traces.read(path)
    *listed, last = caught.value.problems
    assert [p.where for p in listed] == [f"{path}:{line}" for line in range(2, 22)]
    assert "35 of 35 rows" in last.what
    assert "5 malformed, 30 zero_tokens" in last.what
    assert "15 are not listed" in last.what


def test_unsorted_rows_are_refused_or_sorted_and_counted(tmp_path):
    path = csv(tmp_path / "t.csv", "3,30,1", "1,10,1", "2,20,1", "4,40,1")
    message = refused(path)
    assert f"{path}:3: arrives 2 s before" in message
    assert f"{path}:4: arrives 1 s before" in message
    assert "sort=True" in message
    for options in ({"sort": True}, {"skip_bad": True}):
        requests = traces.read(path, **options)
        assert requests.isl.tolist() == [10, 20, 30, 40]
        assert requests.meta["sorted"] == 2
        assert requests.meta["skipped"] == {}


def test_sorting_alone_does_not_forgive_bad_rows(tmp_path):
    assert "zero_tokens" in refused(csv(tmp_path / "t.csv", "3,30,1", "1,0,1"), sort=True)


def test_azure_rows_without_output_and_bad_clocks_are_named(tmp_path):
    bad = [
        "2023-11-16 18:18:00.0,5,0",
        "2023-13-40 00:00:00,5,6",
        "NaT,5,6",
        "yesterday,5,6",
        "7,5,6",
    ]
    path = put(tmp_path / "a.csv", AZURE + "\n".join(AZURE_ROWS + bad))
    message = refused(path)
    assert f"{path}:5: 0 output tokens" in message
    assert message.count("is not a date and time") == 4
    kept = traces.read(path, skip_bad=True)
    assert len(kept) == 3
    assert kept.meta["skipped"] == {"malformed": 4, "zero_tokens": 1}


def test_bad_json_rows_are_named(tmp_path):
    good = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
    rows = [
        json.dumps(good),
        '{"timestamp": 1, "input_length": 6',
        "[1, 2]",
        json.dumps({**good, "input_length": "many"}),
        json.dumps({**good, "hash_ids": [0, 1, 2]}),
        json.dumps({**good, "hash_ids": None}),
        json.dumps({**good, "output_length": 0}),
        json.dumps({k: v for k, v in good.items() if k != "timestamp"}),
        json.dumps({**good, "hash_ids": ["a"]}),
        json.dumps({**good, "timestamp": True}),
    ]
    path = put(tmp_path / "m.jsonl", "\n".join(rows))
    message = refused(path)
    for line, words in enumerate(
        ["cut short", "a list, not an object", '"many" is not a number', "3 hash_ids for 600",
         "no 'hash_ids'", "0 output tokens", "no 'timestamp'", "not a list of whole numbers",
         "true is not a number"], 2
    ):  # fmt: skip
        row = next(p for p in message.split("\n") if p.startswith(f"{path}:{line}: "))
        assert words in row
    kept = traces.read(path, skip_bad=True)
    assert len(kept) == 1
    assert sum(kept.meta["skipped"].values()) == 9


def test_two_broken_json_lines_that_would_mend_each_other_are_both_bad(tmp_path):
    good = '{"timestamp": 0, "input_length": 6, "output_length": 5}'
    path = put(
        tmp_path / "m.jsonl", good + '\n{"timestamp": 0, "input_length": 6\n"output_length": 5}'
    )
    assert "2 of 3 rows" in refused(path)


def test_a_batch_in_a_splitwise_row_is_refused(tmp_path):
    header = (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size"
    )
    path = csv(tmp_path / "s.csv", "0,2,0,0,1,5,6", "1,2,0,1,4,5,6", header=header)
    assert "batch_size 4" in refused(path)
    assert traces.read(path, skip_bad=True).meta["skipped"] == {"batch": 1}


def test_files_that_are_no_traces_are_refused_with_a_reason(tmp_path):
    (tmp_path / "folder").mkdir()
    put(tmp_path / "trace.csv", AZURE + AZURE_ROWS[0])
    whole = gzip.compress(("arrival_s,isl,osl\n" + "1,5,6\n" * 9999).encode())
    cases = {
        put(tmp_path / "empty.csv", ""): "empty",
        put(tmp_path / "blank.csv", "\n\n"): "empty",
        csv(tmp_path / "header.csv"): "no row below",
        put(
            tmp_path / "other.csv", "name,size\na,b\n"
        ): "no known trace format has the columns name, size",
        put(tmp_path / "other.jsonl", '{"a": 1}\n'): "no known trace format has records with a",
        tmp_path / "folder": "is a folder",
        tmp_path / "trase.csv": "did you mean trace.csv",
        tmp_path / "no" / "such": "no folder",
    }
    for name, data in {
        "utf16.csv": "arrival_s,isl,osl\n1,2,3\n".encode("utf-16"),
        "binary.csv": b"\x00\x01\x02" * 50,
        "latin.csv": b"arrival_s,isl,osl\n1,5,6\n2,5,\xe9\n",
        "cut.csv.gz": whole[: len(whole) // 2],
        "broken.parquet": b"PAR1 and nothing else",
    }.items():
        (tmp_path / name).write_bytes(data)
    cases |= {
        tmp_path / "utf16.csv": "UTF-16",
        tmp_path / "binary.csv": "binary",
        tmp_path / "latin.csv": "latin.csv:3: byte 0xe9",
        tmp_path / "cut.csv.gz": "ends early",
        tmp_path / "broken.parquet": "cannot be read",
    }
    for path, words in cases.items():
        assert words in refused(path), path


def test_a_file_of_only_bad_rows_is_refused_even_when_skipping(tmp_path):
    assert "none of 1 rows" in refused(csv(tmp_path / "t.csv", "1,0,0"), skip_bad=True)


def test_an_unknown_format_name_gets_the_nearest(tmp_path):
    assert "did you mean mooncake" in refused(csv(tmp_path / "t.csv", "1,2,3"), format="moncake")


def test_a_format_named_wrongly_says_which_columns_it_misses(tmp_path):
    assert "'contexttokens'" in refused(csv(tmp_path / "t.csv", "1,2,3"), format="azure_llm")


def test_an_ambiguous_arrival_column_is_refused(tmp_path):
    path = csv(tmp_path / "t.csv", "1,2,3,4", header="timestamp,arrival_s,isl,osl")
    assert "could all be the arrival" in refused(path)
    path = csv(tmp_path / "t.csv", "1,2,3,4", header="arrival_s,isl,isl,osl")
    assert "stands there twice" in refused(path)


def test_missing_polars_names_the_extra(tmp_path, monkeypatch):
    traces.convert(some(), tmp_path / "t.parquet", "plain")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingDependency, match=r"pip install 'forerun\[tables\]'"):
        traces.read(tmp_path / "t.parquet")


def test_missing_values_in_parquet_are_bad_rows(tmp_path):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"arrival_s": [0.0, 1.0, None], "isl": [5, None, 5], "osl": [1, 1, 1]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert "row 2: nan input tokens" in refused(tmp_path / "t.parquet")
    assert traces.read(tmp_path / "t.parquet", skip_bad=True).meta["skipped"] == {"nan": 2}


def test_quoted_fields_are_read(tmp_path):
    path = csv(tmp_path / "t.csv", '1,"5",6', '2,7,"8"')
    assert traces.read(path).isl.tolist() == [5, 7]


def test_long_files_are_read_in_blocks_with_true_line_numbers(tmp_path, monkeypatch):
    rows = [f"{i},5,6" for i in range(2000)]
    rows[1500] = "1500,0,6"
    path = csv(tmp_path / "t.csv", *rows)
    monkeypatch.setattr("forerun.spec.traces._source.BLOCK_BYTES", 100)
    assert f"{path}:1502: 0 input tokens" in refused(path)
    assert len(traces.read(path, skip_bad=True)) == 1999


DAMAGE = [
    b"nan",
    b"inf",
    b"-",
    b"\n\n",
    b",",
    b'"',
    b"1e999",
    b"null",
    b"\r",
    b"\x00",
    b"\xff",
    b"9" * 30,
]


@pytest.mark.parametrize("format", traces.writable())
def test_damaged_files_give_reasons_or_sound_requests_and_lose_no_row(tmp_path, format):
    """Random damage: either a TraceError, or requests that meet every promise of `Requests`."""
    rng = np.random.default_rng(0)
    traces.convert(some(15), tmp_path / "whole", format)
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "damaged"
    for _ in range(120):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            i, kind = rng.integers(len(data)), rng.integers(3)
            if kind == 0:
                data[i:i] = DAMAGE[rng.integers(len(DAMAGE))]
            elif kind == 1:
                del data[i : i + rng.integers(1, 40)]
            else:
                data[i : i + 1] = bytes([rng.integers(32, 127)])
        path.write_bytes(data)
        for options in ({}, {"skip_bad": True}):
            try:
                r = traces.read(path, **options)
            except TraceError:
                continue
            assert len(r) + sum(r.meta["skipped"].values()) == r.meta["n_rows"]
            assert options or not r.meta["skipped"]
            assert r.isl.min() >= 1
            assert r.osl.min() >= 1
            assert np.isfinite(r.arrival_s).all()
            assert (np.diff(r.arrival_s, prepend=0) >= 0).all()


# ServeGen -------------------------------------------------------------------------------------


def test_servegen_draws_at_the_clients_rate(shared_data):
    """The first window of deepseek-r1: its rates add up to 14.86 requests a second."""
    requests = traces.read(shared_data / "servegen/deepseek-r1", duration_s=600.0, seed=3)
    assert len(requests) == pytest.approx(14.8633 * 600, abs=73)  # < 1 a client
    assert (np.diff(requests.arrival_s) >= 0).all()
    assert requests.arrival_s[-1] < 600
    assert requests.isl.min() >= 1
    assert "pooled" in requests.meta["assumed"][0]


def test_servegen_repeats_by_seed_and_finds_its_pair_from_either_file(shared_data):
    folder = shared_data / "servegen"
    names = ["deepseek-r1", "deepseek-r1_client_rates.csv.gz", "deepseek-r1_length_pmfs.jsonl.gz"]
    first, *others = (traces.read(folder / name, duration_s=60.0) for name in names)
    assert all(same(first, other) for other in others)
    assert not same(first, traces.read(folder / names[0], duration_s=60.0, seed=1))
    assert "3 ServeGen pairs" in refused(folder)


def test_servegen_lengths_follow_each_clients_table(tmp_path):
    rates = ["client,t_start_s,rate_req_s,cv,dist,p0,p1"]
    rates += ["0,0,50,1,Gamma,0.5,1", "1,0,10,1,Weibull,0.7,1", "0,100,0,0,,0,0"]
    put(tmp_path / "w_client_rates.csv", "\n".join(rates))
    tables = [
        {
            "client": 0,
            "t_start_s": 0,
            "input_tokens": [[7, 0.25], [9, 0.75]],
            "output_tokens": [[3, 1]],
        },
        {"client": 1, "t_start_s": 0, "input_tokens": [[100, 1]], "output_tokens": [[4, 1]]},
    ]
    put(tmp_path / "w_length_pmfs.jsonl", "\n".join(map(json.dumps, tables)))
    requests = traces.read(tmp_path, duration_s=100.0)
    mine = requests.tenant == 0
    assert (mine.sum(), (~mine).sum()) == (5000, 1000)
    assert set(requests.isl[~mine]) == {100}
    # 5000 draws of probability 1/4: standard error 0.006
    assert (requests.isl[mine] == 7).mean() == pytest.approx(0.25, abs=0.03)
    assert "nobody sends" in refused(tmp_path, start_s=100.0)
    assert "shorter duration_s" in refused(
        put(tmp_path / "w_client_rates.csv", "\n".join(rates).replace("0,0,50", "0,0,5e9")).parent
    )
    put(tmp_path / "w_client_rates.csv", "\n".join(rates).replace("Weibull,0.7", "Pareto,0.7"))
    assert "w_client_rates.csv:3: dist 'Pareto'" in refused(tmp_path)
    assert traces.read(tmp_path, skip_bad=True, duration_s=9.0).meta["skipped"] == {"malformed": 1}
    (tmp_path / "w_length_pmfs.jsonl").unlink()
    assert "needs both files" in refused(tmp_path / "w_client_rates.csv")


# description ----------------------------------------------------------------------------------


def test_a_poisson_trace_has_cv_and_dispersion_one():
    rng = np.random.default_rng(0)
    n = 100_000
    one = np.ones(n, dtype=int)
    d = describe(Requests(np.cumsum(rng.exponential(0.1, n)), one, one))
    assert d.rate_per_s == pytest.approx(10, rel=0.02)
    assert d.interarrival_cv == pytest.approx(1, abs=0.02)
    assert d.dispersion_1s == pytest.approx(1, abs=0.06)  # se = sqrt(2 / 10000 windows) = 0.014
    assert d.dispersion_10s == pytest.approx(1, abs=0.18)  # 1000 windows: 0.045
    assert math.isnan(d.prefix_hit_rate)


def test_the_ideal_hit_rate_counts_leading_blocks_seen_before():
    # prompts AB, AC, AB, BA in blocks of 10: hits 0, 10, 20, 0 of 80 tokens.  The last begins with
    # B, which nobody began with, but a block's hash stands for its place too, so B is "seen".
    hashes = np.array([1, 2, 1, 3, 1, 2, 9, 1])
    starts = np.array([0, 2, 4, 6, 8])
    twenty = np.full(4, 20)
    requests = Requests(
        np.arange(4.0), twenty, twenty, block_hashes=hashes, block_starts=starts, hash_tokens=10
    )
    assert prefix_hit_rate(requests) == 30 / 80


def test_the_hit_rate_of_mooncake_agrees_with_a_plain_count(shared_data):
    requests = traces.read(shared_data / MOONCAKE)
    seen, saved = set(), 0
    starts = requests.block_starts
    for i in range(len(requests)):
        ids = requests.block_hashes[starts[i] : starts[i + 1]].tolist()
        k = next((k for k, h in enumerate(ids) if h not in seen), len(ids))
        saved += min(k * 512, int(requests.isl[i]))
        seen.update(ids)
    assert prefix_hit_rate(requests) == saved / requests.isl.sum()
    assert prefix_hit_rate(requests) == pytest.approx(0.374, abs=0.001)


def test_what_a_trace_cannot_say_is_left_out_of_the_rows(tmp_path):
    requests = traces.read(csv(tmp_path / "t.csv", "5,6", header="isl,osl"))
    names = {name for name, _, _ in describe(requests).rows()}
    assert "isl_mean" in names
    assert not names & {"rate_per_s", "dispersion_1s", "prefix_hit_rate", "n_sessions"}


# synthesiser ----------------------------------------------------------------------------------

BANDS = {  # largest deviation of the mean of five draws from the trace
    "rate_per_s": 0.02, "interarrival_cv": 0.18, "dispersion_1s": 0.1, "dispersion_10s": 0.2,
    "dispersion_60s": 0.2, "peak_per_min": 0.08,
    "isl_mean": 0.02, "isl_p50": 0.03, "isl_p90": 0.04, "isl_p99": 0.03,
    "osl_mean": 0.03, "osl_p50": 0.04, "osl_p90": 0.06, "osl_p99": 0.08, "prefix_hit_rate": 0.06,
}  # fmt: skip


@pytest.mark.parametrize("name", [CONV, CODE, MOONCAKE])
def test_drawn_traces_match_the_original(shared_data, tmp_path, name):
    trace = traces.read(shared_data / name)
    fitted = synth.fit(trace)
    seeds = [synth.compare(trace, fitted, seed=seed) for seed in range(5)]
    assert set(seeds[0]) >= set(BANDS) - {"prefix_hit_rate"}
    for key in seeds[0]:
        mean = np.mean([errors[key] for errors in seeds])
        assert abs(mean) <= BANDS[key], f"{key}: {mean:+.3f}"
    synth.save(fitted, tmp_path / "s.yaml")
    assert (tmp_path / "s.yaml").stat().st_size < 10_000
    assert synth.load(tmp_path / "s.yaml") == fitted


def test_lengths_stay_tied_to_each_other():
    rng = np.random.default_rng(0)
    n = 20_000
    isl = np.maximum(rng.lognormal(6, 1, n), 1).astype(int)
    osl = np.maximum(isl * rng.uniform(0.1, 0.3, n), 1).astype(int)
    trace = Requests(np.cumsum(rng.exponential(1, n)), isl, osl)
    drawn = synth.fit(trace).draw(n, seed=1)

    def rank_correlation(r: Requests) -> float:
        return float(
            np.corrcoef(np.argsort(np.argsort(r.isl)), np.argsort(np.argsort(r.osl)))[0, 1]
        )

    assert rank_correlation(drawn) == pytest.approx(rank_correlation(trace), abs=0.06)
    osl_given_long = drawn.osl[drawn.isl > np.quantile(isl, 0.9)].mean()
    assert osl_given_long == pytest.approx(osl[isl > np.quantile(isl, 0.9)].mean(), rel=0.1)


def test_sessions_are_synthesised_when_the_trace_has_them():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.exponential(2.0, 2000))
    turns = rng.geometric(0.25, 2000)  # 4 on average
    session = np.repeat(np.arange(2000), turns)
    first = np.repeat(np.cumsum(turns) - turns, turns)
    nth = np.arange(len(session)) - first
    t = np.repeat(starts, turns) + nth * 30.0
    order = np.argsort(t, kind="stable")
    n = len(t)
    trace = Requests((t - t.min())[order], np.full(n, 100), np.full(n, 10), session=session[order])
    own, drawn = describe(trace), describe(synth.fit(trace).draw(n, seed=2))
    assert drawn.requests_per_session == pytest.approx(own.requests_per_session, rel=0.15)


def test_a_poisson_trace_is_fitted_as_flat_and_memoryless():
    rng = np.random.default_rng(3)
    n = 20_000
    t = np.cumsum(rng.exponential(0.2, n))
    fitted = synth.fit(Requests(t, rng.integers(1, 9, n), rng.integers(1, 9, n)))
    assert max(fitted.arrivals.profile) < 1.25
    assert fitted.arrivals.gap_cv == pytest.approx(1, abs=0.1)
    assert sum(fitted.arrivals.level_var) < 0.05
    drawn = describe(fitted.draw(n, seed=1))
    assert drawn.interarrival_cv == pytest.approx(1, abs=0.06)
    assert drawn.dispersion_1s == pytest.approx(1, abs=0.1)  # 4000 windows: se 0.022, twice


def test_a_trace_without_times_is_fitted_without_arrivals(tmp_path):
    path = csv(tmp_path / "t.csv", *["5,6", "7,8"] * 50, header="isl,osl")
    fitted = synth.fit(traces.read(path))
    assert fitted.arrivals is None
    drawn = fitted.draw(10)
    assert drawn.meta["arrivals"] == "absent"
    assert set(drawn.isl) <= {5, 6, 7}
    synth.save(fitted, tmp_path / "s.yaml")
    assert synth.load(tmp_path / "s.yaml") == fitted
    with pytest.raises(SpecError, match="say n instead"):
        fitted.draw(duration_s=5.0)


def test_a_damaged_synth_file_names_all_that_is_wrong(shared_data, tmp_path):
    text = (Path(bundled.__file__).parents[2] / "catalog/workloads/chat.yaml").read_text()
    text = text.replace("gap_cv: ", "gap_cw: ").replace("bin_s: 20 s", "bin_s: 20")
    with pytest.raises(SpecError) as caught:
        synth.load(put(tmp_path / "s.yaml", text))
    message = str(caught.value)
    assert "gap_cw" in message
    assert "20 has no unit" in message.replace("'", "")
    with pytest.raises(SpecError, match="cannot be read"):
        synth.load(put(tmp_path / "s.yaml", "a: [1"))


# bundled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundled.names())
def test_a_bundled_workload_draws_the_same_again_and_says_whose_it_is(name):
    workload = bundled.load(name)
    assert workload.name == name
    assert "github.com" in workload.source
    assert workload.licence.startswith(("CC-BY-4.0", "Apache-2.0"))
    assert same(workload.draw(500, seed=4), workload.draw(500, seed=4))
    assert not same(workload.draw(500, seed=4), workload.draw(500, seed=5))


def test_a_shorter_draw_is_the_beginning_of_the_lengths_of_a_longer_one():
    chat = bundled.load("chat")
    long = chat.draw(1000)
    assert np.array_equal(chat.draw(200).isl, long.isl[:200])
    assert np.array_equal(chat.draw(1000, rate_scale=3).isl, long.isl)


def test_the_bundled_workloads_are_what_the_traces_fit_to(shared_data):
    for name, file in {"chat": CONV, "code": CODE, "long_context": MOONCAKE}.items():
        refit = synth.fit(traces.read(shared_data / file))
        bundle = bundled.load(name)
        assert refit.lengths == bundle.lengths
        assert refit.reuse == bundle.reuse
        assert refit.arrivals.profile == pytest.approx(bundle.arrivals.profile, abs=0.05)
        assert bundle.errors.keys() == refit.errors.keys()


def test_rate_scale_multiplies_the_rate():
    chat = bundled.load("chat")
    base = len(chat.draw(duration_s=chat.period_s))
    assert len(chat.draw(duration_s=chat.period_s, rate_scale=2.0)) / base == pytest.approx(
        2, rel=0.03
    )


def test_taking_requests_keeps_their_own_blocks():
    requests = bundled.load("long_context").draw(300)
    index = np.array([250, 3, 77])
    taken = take(requests, index)
    for k, i in enumerate(index):
        a, b = requests.block_starts[i : i + 2]
        c, d = taken.block_starts[k : k + 2]
        assert np.array_equal(requests.block_hashes[a:b], taken.block_hashes[c:d])
    assert np.array_equal(np.diff(requests.block_starts), -(-requests.isl // 512))
