"""Every knob of every policy is told of: what it is, and where its default is from."""

import importlib
import re
from pathlib import Path

import pytest

import forerun.sim.policies as policies

FOLDER = Path(policies.__file__).parent
KNOBS = [
    (f"{path.parent.name}.{path.stem}", knob)
    for path in sorted(FOLDER.glob("*/*.py"))
    for knob in getattr(
        importlib.import_module(f"forerun.sim.policies.{path.parent.name}.{path.stem}"),
        "PARAMS",
        {},
    )
]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_a_knob_stands_in_its_policys_docstring_with_a_source_or_as_an_estimate(name, knob):
    said = importlib.import_module(f"forerun.sim.policies.{name}").__doc__
    assert f"`{knob}`" in said, f"{name} does not say what {knob} is"
    assert re.search(r"\b[Ss]ource\b|\bestimates?\b|arXiv", said), f"{name}: where is it from?"


def test_there_are_knobs():
    assert len(KNOBS) > 40
