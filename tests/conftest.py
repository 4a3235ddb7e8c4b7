"""What every test may use."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# calibrations and devices of the person who runs the tests are not of the package
os.environ["FORERUN_DATA_DIR"] = tempfile.mkdtemp(prefix="forerun-tests-")
atexit.register(shutil.rmtree, os.environ["FORERUN_DATA_DIR"], ignore_errors=True)

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces and measurements, which does not ship with the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of shared measurements (../shared/data) is not here")
    return SHARED_DATA


@pytest.fixture
def run(tmp_path):
    """Runs one command in an empty folder, with no settings and no variables but a test's own."""
    from forerun.paths import cache_dir

    env = {k: v for k, v in os.environ.items() if not k.startswith(("FORERUN_", "XDG_"))}
    # compiled code is shared with the other tests: compiling takes longer than most commands
    env |= {"HOME": str(tmp_path / "home"), "NO_COLOR": "1", "FORERUN_CACHE_DIR": str(cache_dir())}

    def call(*args, stdin=None, **extra):
        return subprocess.run(
            [sys.executable, "-c", "from forerun.cli import main; main()", *map(str, args)],
            capture_output=True, text=True, cwd=tmp_path, env=env | extra, input=stdin,
            timeout=120, check=False,
        )  # fmt: skip

    return call


@pytest.fixture
def few_trees(monkeypatch):
    """Fits of a moment: what is tested holds for any number of trees."""
    from forerun.calibrate import operators, solve

    monkeypatch.setitem(operators.OWN, "n_trees", 40)
    monkeypatch.setitem(operators.GENERAL, "n_trees", 20)
    monkeypatch.setitem(solve.FIXED, "num_threads", 1)
