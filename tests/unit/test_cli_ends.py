"""How a command ends: exit codes, interrupts, readers that stop; and the Python API beside it."""

import json
import signal
import subprocess
import sys
import time

import pytest

import forerun
from forerun.api._simulate import SLICE
from forerun.errors import ForerunError, Infeasible, MissingDependency

SMALL = ["llama-3.1-8b", "--gpu", "h100:1", "--isl", "300", "--osl", "20", "--rate", "5"]
SMALL += ["--n-requests", "40"]


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Infeasible.one("a", "b"), 3),
        (MissingDependency.one("a", "b", "pip install 'forerun[tables]'"), 5),
        (ForerunError.one("a", "b"), 2),
        (RuntimeError("boom"), 1),
    ],
)
def test_each_end_has_its_exit_code(error, code, capsys):
    from forerun.cli._errors import exit_code

    assert exit_code(error) == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    if code == 1:
        assert "mistake in Forerun, not in your input" in printed


def test_debug_shows_the_stack(run):
    assert "Traceback" in run("schema", "nothing", FORERUN_DEBUG="1").stderr


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_stops_early_is_no_error(reader):
    command = f"{sys.executable} -c 'from forerun.cli import main; main()' schema | {reader}"
    done = subprocess.run(
        ["bash", "-c", command + "; echo ${PIPESTATUS[0]}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_an_interrupt_while_waiting_exits_130(tmp_path):
    code = (
        "import sys; from forerun.cli import main; print('up', file=sys.stderr, flush=True); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "simulate", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        # a test run started in the background of a shell has the signal ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "up\n"
    time.sleep(0.5)  # into reading its input, most likely; anywhere in `main` will do
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip() == "interrupted"


def _many(n):
    traffic = {"isl": 10, "osl": 2, "rate_per_s": "1000 /s", "n_requests": n}
    return forerun.load({"model": "llama-3.1-8b", "fleet": "h100:1", "traffic": traffic}, env={})


def test_an_interrupt_keeps_what_is_known_so_far():
    n = 3 * SLICE
    seen = []

    def stop(done, total):
        seen.append((done, total))
        raise KeyboardInterrupt

    result = forerun.simulate(_many(n), log="requests", progress=stop, bootstrap=False)
    assert seen == [(SLICE, n)]
    assert result.provenance["interrupted"]
    counts = result.metrics.counts
    assert SLICE / 2 < counts.finished < 2 * SLICE
    assert counts.n == counts.finished + counts.unfinished  # those that have arrived, no others


def test_looking_at_the_keyboard_changes_nothing(monkeypatch):
    case = _many(500)
    whole = forerun.simulate(case).log
    monkeypatch.setattr("forerun.api._simulate.SLICE", 7)
    sliced = forerun.simulate(case).log
    assert sliced.requests.tobytes() == whole.requests.tobytes()
    assert sliced.leaps.tobytes() == whole.leaps.tobytes()
    assert sliced.end_ps == whole.end_ps


def test_the_python_api_is_the_command_line(run):
    """forerun.simulate of the same case gives the same figures as the process."""
    answer = json.loads(run("simulate", *SMALL, "--json").stdout)
    case = forerun.load(
        {
            "model": "llama-3.1-8b",
            "fleet": "h100:1",
            "traffic": {"isl": 300, "osl": 20, "rate_per_s": "5 /s", "n_requests": 40},
        },
        env={},
    )
    result = forerun.simulate(case)
    assert result.metrics.ttft_s.p99 == answer["latency"]["ttft_s"]["p99"]
    assert result.provenance["spec_hash"] == answer["provenance"]["spec_hash"]
    assert "<pre>" in result._repr_html_()
    assert result.to_polars().height == 40


def test_every_public_name_is_there():
    for name in forerun.__all__:
        assert getattr(forerun, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        forerun.nothing  # noqa: B018


def test_a_prediction_loads_no_library_of_matrices_and_policies_may_still_use_one(tmp_path):
    pytest.importorskip("scipy")
    code = f"""
import sys
from forerun.cli import group
assert not group.main(["predict", *{SMALL!r}], "forerun", standalone_mode=False)
assert "numba" in sys.modules and "scipy.linalg" not in sys.modules
import numba, numpy as np
print(numba.njit(lambda a, b: np.dot(a, b))(np.array([1.0, 2.0]), np.array([3.0, 4.0])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "11.0"
