"""What every test may use."""

import atexit
import os
import shutil
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
