"""Tables in and out: what is read is what was written, and a damaged file is said to be one."""

import gzip
import io

import numpy as np
import polars
import pytest

from forerun.errors import SpecError
from forerun.spec.columns import as_csv, read_columns, write_columns

TABLE = {"row_id": ["7", "8"], "m": [4096, 1], "note": ["a, b", 'say "x"']}


def _read(tmp_path, data, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_columns(path)


def _said(tmp_path, data, name="t.csv"):
    with pytest.raises(SpecError) as caught:
        _read(tmp_path, data, name)
    return caught.value.problems


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_what_is_written_is_read_again(tmp_path, name):
    path = tmp_path / name
    write_columns(path, TABLE)
    table = read_columns(path)
    assert table.names == ("row_id", "m", "note")
    assert table.n == 2
    assert table.cells["note"].tolist() == ["a, b", 'say "x"']
    assert table.number("m")[0].tolist() == [4096.0, 1.0]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_the_same_table_is_the_same_bytes(tmp_path, name):
    write_columns(tmp_path / name, TABLE)
    once = (tmp_path / name).read_bytes()
    write_columns(tmp_path / name, TABLE)
    assert (tmp_path / name).read_bytes() == once


def test_the_kind_is_told_by_the_content_not_by_the_name(tmp_path):
    assert _read(tmp_path, gzip.compress(b"m\n1\n", mtime=0), "t.csv").n == 1
    body = io.BytesIO()
    polars.DataFrame({"m": [1, 2, 3]}).write_parquet(body)
    assert _read(tmp_path, body.getvalue(), "t.csv").n == 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    table = _read(tmp_path, delimiter.join("abc") + "\n" + delimiter.join("123") + "\n")
    assert table.names == ("a", "b", "c")
    assert table.number("c")[0].tolist() == [3.0]


def test_spreadsheets_byte_order_mark_and_line_ends_are_no_part_of_a_cell(tmp_path):
    table = _read(tmp_path, b"\xef\xbb\xbfop,m\r\ngemm,1\r\n\r\ngemm, 2 \r\n")
    assert table.names == ("op", "m")
    assert table.number("m")[0].tolist() == [1.0, 2.0]


def test_a_row_knows_its_line_below_blank_lines_and_cells_of_two_lines(tmp_path):
    table = _read(tmp_path, 'a,b\n1,2\n\n3,"x\ny"\n5,6\n')
    assert [table.place(i) for i in range(3)] == [":2", ":4", ":6"]
    path = tmp_path / "t.parquet"
    write_columns(path, TABLE)
    assert read_columns(path).place(1) == " row 2"


def test_an_empty_cell_is_not_given_and_a_word_is_no_number(tmp_path):
    values, bad = _read(tmp_path, "m,x\n,1\n12e3,1\nten,1\nnan,1\n").number("m")
    assert values[1] == 12000.0
    assert np.isnan(values[[0, 2, 3]]).all()
    assert bad.tolist() == [False, False, True, False]


def test_a_column_that_is_not_there_is_not_given_anywhere(tmp_path):
    table = _read(tmp_path, "m\n1\n2\n")
    assert table.text("op").tolist() == ["", ""]
    assert np.isnan(table.number("n")[0]).all()


def test_names_have_single_spaces_and_may_be_put_in_lower_case(tmp_path):
    table = _read(tmp_path, 'device\n"H100\t SXM"\n')
    assert table.words("device").tolist() == ["H100 SXM"]
    assert table.words("device", lower=True).tolist() == ["h100 sxm"]
    assert table.text("device").tolist() == ["H100\t SXM"]  # copied through as it is


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8"),
        ("gerät,m\n1,2\n".encode("latin-1"), "is not UTF-8"),
        (gzip.compress(b"a,b\n1,2\n" * 900, mtime=0)[:-30], "is damaged gzip"),
        (b"\x1f\x8b not gzip at all", "is damaged gzip"),
        (b"PAR1 not parquet at all", "is damaged Parquet"),
        (b"a,b,a\n1,2,3\n", "column 'a' stands there twice"),
        (b'a,b\n1,"' + b"x" * 200_000 + b'"\n', "is not CSV"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, data, sentence):
    (problem,) = _said(tmp_path, data)
    assert sentence in problem.what
    assert "t.csv" in problem.where
    assert problem.fix
    assert "\n" not in problem.what


def test_a_damaged_parquet_file_is_one_sentence_wherever_it_is_cut(tmp_path):
    body = io.BytesIO()
    polars.DataFrame({"m": list(range(500)), "op": ["gemm"] * 500}).write_parquet(body)
    whole = body.getvalue()
    for cut in (5, 40, len(whole) // 2, len(whole) - 1):
        (problem,) = _said(tmp_path, whole[:cut], "t.parquet")
        assert "is damaged Parquet" in problem.what
        assert "\n" not in problem.what


def test_every_row_of_another_length_is_named_with_its_line(tmp_path):
    problems = _said(tmp_path, "a,b\n1\n1,2\n\n1,2,3\n")
    assert [(p.where[-2:], p.what) for p in problems] == [
        (":2", "has 1 cells under 2 names"), (":5", "has 3 cells under 2 names"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9])
def test_a_long_file_is_read_in_parts_as_if_it_were_one(tmp_path, monkeypatch, n):
    monkeypatch.setattr("forerun.spec.columns.PART", 4)
    rows = [f"{i},x{i}\n\n" for i in range(n)]
    table = _read(tmp_path, "a,b\n" + "".join(rows))
    assert table.n == n
    assert table.text("b").tolist() == [f"x{i}" for i in range(n)]
    assert list(table.lines) == [2 + 2 * i for i in range(n)]
    rows[-1] = "1,2,3\n"
    (problem,) = _said(tmp_path, "a,b\n" + "".join(rows))
    assert (problem.where, problem.what) == (
        f"{tmp_path / 't.csv'}:{2 * n}", "has 3 cells under 2 names"
    )  # fmt: skip


def test_a_file_or_folder_that_cannot_be_read_is_said(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(SpecError, match="cannot be read"):
            read_columns(path)


def test_numbers_keep_nine_digits_and_what_is_not_known_is_an_empty_cell():
    text = as_csv({"time_s": np.array([1 / 3, np.nan]), "n": [1, None], "why": ["", "x"]})
    assert text == "time_s,n,why\n0.333333333,1,\n,,x\n"


def test_what_is_not_known_is_null_in_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    write_columns(path, {"time_s": np.array([1.5, np.nan])})
    assert polars.read_parquet(path)["time_s"].to_list() == [1.5, None]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(SpecError, match="cannot be written"):
        write_columns(tmp_path / "no" / "t.csv", TABLE)
