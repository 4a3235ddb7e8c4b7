"""Measured tables of one's own: read into SI units; what cannot be is refused in sentences."""

import gzip

import pytest

from forerun.errors import SpecError
from forerun.measure.tables import formats, read_all, read_tables

HEAD = "device,op,dtype,m,n,k,time_us\n"
#: 4096**3 products: 139 us at the whole peak of an H100
GOOD = "h100-sxm,gemm,bf16,4096,4096,4096,200\n"


def _own(tmp_path, text, name="own.csv"):
    path = tmp_path / name
    path.write_text(text)
    (table,) = read_tables(path)
    return table


def _problems(path, form=None):
    with pytest.raises(SpecError) as caught:
        read_tables(path, form)
    return caught.value.problems


def _refused(tmp_path, text, name="own.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return _problems(path)


# -- a table of one's own --------------------------------------------------------------------------


def test_an_own_table_is_read_in_any_unit_of_time(tmp_path):
    for column, value in (("time_s", 2e-4), ("latency_ms", 0.2), ("time_us", 200)):
        table = _own(tmp_path, HEAD.replace("time_us", column) + GOOD.replace("200", str(value)))
        assert table.time_s == pytest.approx([2e-4])
    assert table.rows.get("m").tolist() == [4096.0]
    assert table.rows.words("op").tolist() == ["gemm"]
    assert not table.n_dropped


def test_names_mean_the_same_in_capitals(tmp_path):
    table = _own(tmp_path, HEAD + GOOD.replace("gemm,bf16", "GEMM,BF16"))
    assert table.rows.words("op").tolist() == ["gemm"]
    assert table.rows.words("dtype").tolist() == ["bf16"]


def test_a_table_is_told_again_by_its_content_wherever_it_lies(tmp_path):
    a, b = _own(tmp_path, HEAD + GOOD, "a.csv"), _own(tmp_path, HEAD + GOOD, "b.csv")
    other = _own(tmp_path, HEAD + GOOD.replace("200", "201"), "c.csv")
    digest = [table.name.split("#")[1] for table in (a, b, other)]
    assert digest[0] == digest[1] != digest[2]
    assert str(tmp_path) not in a.name  # where it lies is nobody's business


def test_rows_without_a_time_are_left_out_and_counted(tmp_path):
    times = ("200", "0", "", "nan", "-3", "inf")
    rows = "".join(GOOD.replace("200", t).replace("4096", str(4096 + i), 1)
                   for i, t in enumerate(times))  # fmt: skip
    table = _own(tmp_path, HEAD + rows)
    assert table.rows.n == 1
    assert dict(table.n_dropped) == {
        "no time": 2, "time of 0": 1, "negative or endless time": 2
    }  # fmt: skip


def test_repeated_rows_are_their_median_and_contradictions_are_counted(tmp_path):
    three = "".join(GOOD.replace("200", t) for t in ("190", "240", "200"))
    two = "".join(GOOD.replace("4096", "8192", 1).replace("200", t) for t in ("400", "1300"))
    table = _own(tmp_path, HEAD + two + three)
    assert table.rows.get("m").tolist() == [8192.0, 4096.0]  # in the order of the file
    assert table.time_s == pytest.approx([850e-6, 200e-6])
    assert dict(table.n_dropped) == {
        "repeated, median taken": 3, "of these, repeats more than 3 times apart": 1,
    }  # fmt: skip


def test_rows_that_differ_in_any_column_are_not_repeats(tmp_path):
    text = HEAD.replace("dtype", "dtype,impl,batch,runtime")
    rows = [f"h100-sxm,gemm,{x},4096,4096,4096,2000\n" for x in (
        "bf16,,1,", "fp16,,1,", "bf16,a,1,", "bf16,,2,", "bf16,,,", "bf16,,1,vllm"
    )]  # fmt: skip
    table = _own(tmp_path, text + "".join(rows))
    assert table.rows.n == 6


MISTAKES = {
    "columns that are not there": ("device,m\nl4,1\n", [("", "lacks the columns op, time_s")]),
    "a time twice": (HEAD.replace("k,", "k,time_s,") + GOOD.replace("200", "1,200"),
                     [("", "holds more than one time: time_s, time_us")]),
    "nothing": ("", [("", "is empty")]),
    "a header only": (HEAD, [("", "has a header and no row below it")]),
    "another encoding": ((HEAD + GOOD).encode("utf-16"), [("", "is not UTF-8")]),
    "words for numbers": (
        HEAD + GOOD.replace("4096,4096", "x,1e") + GOOD + GOOD.replace("200", "fast"),
        [(":2 m", "'x' is not a number"), (":2 n", "'1e' is not a number"),
         (":4 time_us", "'fast' is not a number")],
    ),
    "devices and formats that are not known": (
        HEAD + GOOD.replace("h100-sxm", "h999") * 3 + GOOD.replace("h100-sxm", "")
        + GOOD.replace("bf16", "bf17"),
        [(":2 and 2 more", "device 'h999': is not in the catalog"), (":5", "no device is given"),
         (":6", "dtype 'bf17' is none of fp64")],
    ),
    "an operator that is not known": (
        HEAD + GOOD + GOOD.replace("gemm", "gem") * 2, [(":3 and 1 more", "op 'gem' is not known")],
    ),
    "a size that no row gives": (
        "device,op,m,k,time_us\nh100-sxm,gemm,1,1,9\n", [("", "lacks n of every row of gemm")]
    ),
    "sizes that cannot be": (
        HEAD + GOOD + GOOD.replace("4096", "", 1) + GOOD.replace("4096", "-1", 1)
        + GOOD.replace("4096", "inf", 1),
        [(":3", "m must be given for gemm"), (":4", "m = -1: must be finite and at least 1"),
         (":5", "m = inf: must be finite")],
    ),
    "only rows without a time": (
        HEAD + GOOD.replace("200", "0") + GOOD.replace("200", ""),
        [("", "holds no row that can be used (1 no time, 1 time of 0)")],
    ),
    "microseconds called seconds": (
        HEAD.replace("_us", "_s") + GOOD, [(":2", "times what the data sheet says, 200 s")]
    ),
    "milliseconds called microseconds": (
        HEAD + GOOD.replace("200", "0.2"), [(":2", "would run at 695 times the peak of h100-sxm")]
    ),
    "another device": (
        HEAD + GOOD.replace("h100-sxm", "l4"), [(":2", "times the peak of l4; so do 1 of 1 rows")]
    ),
    "cells without a name": (HEAD + GOOD + "1,2\n", [(":3", "has 2 cells under 7 names")]),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_a_table_that_cannot_be_is_refused_in_a_sentence_for_each_mistake(tmp_path, what):
    text, expected = MISTAKES[what]
    found = _refused(tmp_path, text)
    assert len(found) == len(expected)
    for problem, (place, sentence) in zip(found, expected, strict=True):
        assert problem.where.endswith("own.csv" + place)
        assert sentence in problem.what
        assert problem.fix
        assert "\n" not in str(problem.what)


@pytest.mark.parametrize("command", [["accuracy"], ["calibrate", "ops", "-o", "out"]])
def test_the_commands_say_every_mistake_of_every_table_at_once(run, tmp_path, command):
    names = []
    for i, (text, _) in enumerate(MISTAKES.values()):
        names.append(f"t{i}.csv")
        (tmp_path / names[-1]).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut")
    done = run(*command, *names, "cut.parquet")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout == ""
    expected = [sentence for _, found in MISTAKES.values() for _, sentence in found]
    expected += ["cut.parquet: is damaged Parquet"]
    for sentence in expected:
        assert sentence in done.stderr
    assert f"{len(expected)} problems" in done.stderr
    assert not (tmp_path / "out").exists()


def test_of_many_mistakes_of_one_kind_the_first_are_told_and_the_rest_counted(tmp_path):
    found = _refused(tmp_path, HEAD + GOOD + GOOD.replace("4096", "-1", 1) * 50)
    assert len(found) == 21
    assert found[-1].what == "and 30 more rows like these"
    found = _refused(tmp_path, HEAD + GOOD.replace("4096", "x", 1) * 50)
    assert len(found) == 21
    assert found[-1].what == "and 30 more cells like these"


UNITS = {
    # read and written at 0.8 of an H100's memory: 32 MiB in 12.5 us
    "norm": "h100-sxm,norm,,8192,1024,,12.5",
    # 1 GiB in 2.7 ms: 351 GB/s on the bus
    "all_reduce": "h100-sxm,all_reduce,8,,,536870912,2680",
    # small rows are all start: 6 us for 8 KiB
    "rope": "h100-sxm,rope,,4,512,,6",
}


@pytest.mark.parametrize("op", UNITS)
@pytest.mark.parametrize("times", [1e-3, 1.0, 1e3])
def test_units_are_checked_against_memory_links_and_the_start_of_a_kernel(tmp_path, op, times):
    head = "device,op,n_gpus,n_tokens,width,bytes,time_us\n"
    *cells, time_us = UNITS[op].split(",")
    text = head + ",".join([*cells, f"{float(time_us) * times:g}"]) + "\n"
    if times == 1.0:
        assert _own(tmp_path, text).rows.n == 1
        return
    (problem,) = _refused(tmp_path, text)
    assert problem.where.endswith("own.csv:2")
    assert problem.fix == "the unit may be off by 1,000"


def test_a_slow_network_is_not_another_unit(tmp_path):
    """1 GiB over 16 devices at 5 GB/s: 350 times what memory takes, 10 times what the port does."""
    head = "device,op,n_gpus,n_nodes,bytes,time_ms\n"
    assert _own(tmp_path, head + "h100-sxm,all_reduce,16,2,1073741824,420\n").rows.n == 1
    (problem,) = _refused(tmp_path, head + "h100-sxm,all_reduce,16,2,1073741824,420000\n")
    assert problem.fix == "the unit may be off by 1,000"


def test_a_few_rows_above_the_peak_are_boost_clocks_and_many_are_another_device(tmp_path):
    rows = [GOOD.replace("4096", str(4096 + i), 1) for i in range(200)]
    high = GOOD.replace("200", "100").replace("4096", "4000", 1)  # 1.36 times the peak
    assert _own(tmp_path, HEAD + "".join(rows) + high).rows.n == 201
    (problem,) = _refused(
        tmp_path, HEAD + "".join(rows) + (high + high.replace("4096", "4095")) * 5
    )
    assert "peak of h100-sxm; so do 10 of 210 rows" in problem.what
    assert problem.fix == "another device, or its dtype"


def test_a_path_or_format_that_is_not_known_is_said(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "notes.csv").write_text("a,b\n1,2\n")
    assert "there is no such file" in _problems(tmp_path / "none")[0].what
    assert "holds no table of a known format" in _problems(tmp_path)[0].what
    (problem,) = _problems(tmp_path, "neusigt")
    assert problem.fix.startswith("did you mean neusight")
    for form in formats():
        if form != "plain":
            assert f"no table of the format {form}" in _problems(tmp_path, form)[0].what


def test_tables_are_found_in_a_folder_and_two_below(tmp_path):
    for place in ("a.csv", "x/b.csv", "x/y/c.csv.gz"):
        path = tmp_path / "all" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        body = (HEAD + GOOD).encode()
        path.write_bytes(gzip.compress(body) if place.endswith("gz") else body)
    assert len(read_tables(tmp_path / "all" / "x")) == 1
    assert len(read_tables(tmp_path / "all" / "x" / "y")) == 1
    assert len(read_all([tmp_path / "all" / "x", tmp_path / "all" / "a.csv"])) == 2
