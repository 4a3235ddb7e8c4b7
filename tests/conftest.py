"""What every test may use."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real traces and measurements, which does not ship with the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of shared measurements (../shared/data) is not here")
    return SHARED_DATA
