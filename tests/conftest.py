"""What every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces and measurements, which does not ship with the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of shared measurements (../shared/data) is not here")
    return SHARED_DATA
