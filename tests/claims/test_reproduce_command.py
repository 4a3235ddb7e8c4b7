"""`forerun reproduce` as a newcomer meets it: lists, statuses, exit codes, JSON, mistakes."""

from __future__ import annotations

import json

import pytest
from refresh_guide import shown

from forerun import claims
from forerun.cli import main


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Runs the command without anybody's folder of measurements; (exit code, stdout, stderr)."""
    monkeypatch.setenv("FORERUN_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("FORERUN_MEASUREMENTS", raising=False)

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main(["reproduce", *map(str, args)])
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return run


def test_without_a_paper_it_lists_them(call):
    code, out, _ = call()
    assert code == 0
    for key in claims.names():
        assert key in out


def test_a_list_of_a_papers_claims_runs_none(call):
    code, out, _ = call("sarathi-serve", "--list", "--json")
    assert code == 0
    assert [c["claim"] for c in json.loads(out)["claims"]] == [
        c.name for c in claims.load("sarathi-serve").claims
    ]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["sarathi"], "did you mean sarathi-serve"),
        (["sarathi-serve", "--claim", "falcon"], "did you mean falcon-180b"),
        (["sarathi-serve", "--expect", "reproducd"], "did you mean reproduced"),
        (["sarathi-serve", "--data", "/no/such/folder"], "there is no folder"),
    ],
)
def test_mistakes_are_told_with_the_nearest_name_and_exit_2(call, args, hint):
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert hint in err


def test_any_status_is_an_answer_and_an_expected_one_gates(call):
    falcon = ("sarathi-serve", "--claim", "falcon-180b")
    assert call(*falcon)[0] == 0
    assert call(*falcon, "--expect", "not-reproducible-here")[0] == 0
    code, _, err = call(*falcon, "--expect", "reproduced")
    assert code == 4
    assert "not reproduced: falcon-180b" in err


def test_without_the_measurements_it_says_what_is_missing_and_what_stood_in(call):
    code, out, _ = call("sarathi-serve", "--quick", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["schema_version"] == 1
    assert answer["counts"]["not-reproducible-here"] == 5
    by_name = {claim["claim"]: claim for claim in answer["claims"]}
    mistral = by_name["mistral-7b-strict"]
    assert "chat_lengths_sharegpt_8k.csv.gz" in mistral["reasons"][0]
    assert mistral["value"] > 1
    assert mistral["ablation"]["holds"] is True
    assert by_name["hybrid-batch"]["value"] is None


def test_the_guide_shows_what_the_command_says(call, shared_data):
    """Whole and as it is now; if a change is right: python tests/claims/refresh_guide.py FOLDER"""
    code, out, _ = call("sarathi-serve", "--data", shared_data)
    assert code == 0
    assert shown().strip() == out.strip()
