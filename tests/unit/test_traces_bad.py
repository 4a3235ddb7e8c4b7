"""Traces with mistakes: bad rows are named and counted, damaged files refused."""

import gzip
import json
import sys

import numpy as np
import pytest
from trace_files import AZURE, AZURE_ROWS, csv, put, refused, some

from forerun.errors import MissingDependency, TraceError
from forerun.spec import traces

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
