"""Collectives by topology and library: which link a group has, and which way it goes."""

from dataclasses import replace

import numpy as np
import pytest

from forerun.catalog import device, devices
from forerun.cost.calibration import Calibration, Errors, Origin, Store, save, store
from forerun.cost.chosen import starting
from forerun.cost.collectives import wires
from forerun.cost.costs import Costs
from forerun.cost.efficiency import LINK, PCIE_LINK
from forerun.cost.families import collective
from forerun.cost.operators import predict
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.ops.collectives import Collective

LARGE = 2.0**28


def asked(n_gpus, **more):
    base = dict(op="all_reduce", n_gpus=n_gpus, bytes=LARGE, device="h100-sxm", impl="nccl")
    return rows(**base | more).filled(collective.DEFAULTS)


def rate(n_gpus, **more):
    """Bytes/s of the link that a group has."""
    x = asked(n_gpus, **more)
    return float(collective.link(x, sheet(x))[0][0])


def seconds(n_gpus, **more):
    """Before any measurement."""
    x = asked(n_gpus, **more)
    s = sheet(x)
    return float(collective.physics(x, s, starting(x, s, collective))[0])


@pytest.mark.parametrize(
    ("name", "pair", "host"), [("h100-nvl", 300e9, 64e9), ("a40", 56.25e9, 32e9)]
)
def test_a_bridge_joins_two_and_more_go_over_the_host(name, pair, host):
    assert rate(2, device=name) == pytest.approx(pair, rel=0.05)
    assert rate(3, device=name) == pytest.approx(host, rel=0.05)
    assert rate(4, device=name) == rate(8, device=name) == rate(3, device=name)
    # of two nodes each holds a pair
    assert rate(4, device=name, n_nodes=2) == rate(2, device=name)


def test_four_cards_bridged_in_pairs_take_as_long_as_four_without_bridges():
    assert seconds(4, device="a40") == pytest.approx(seconds(4, device="l40s"), rel=1e-6)
    assert seconds(2, device="a40") < 0.7 * seconds(2, device="l40s")


def test_a_group_of_a_mesh_has_the_links_between_its_members():
    whole = rate(8, device="mi300x")
    assert rate(2, device="mi300x") == pytest.approx(whole / 7)
    assert rate(4, device="mi300x") == pytest.approx(whole * 3 / 7)
    # behind a switch every group has all of them
    assert rate(2) == rate(8)


@pytest.mark.parametrize("name", [n for n in devices() if device(n).devices_per_node > 1])
def test_a_row_of_a_table_and_a_model_have_the_same_link(name):
    levels = wires(device(name))
    for n in (2, 3, 4, 8, 16, 72):
        level = levels.level(n)
        if n <= levels.domain and level is not None:
            share = level.bytes_per_s / rate(n, device=name)
            assert round(share, 6) in (LINK, PCIE_LINK), n


def test_a_switch_that_adds_up_takes_large_floats_of_more_than_two():
    shorter = {n: seconds(n, dtype="bf16") / seconds(n, dtype="int8") for n in (2, 4, 8)}
    assert shorter[2] == 1
    assert shorter[8] < shorter[4] < 1
    assert shorter[8] < 0.85
    # what is small is not worth its start
    assert seconds(8, bytes=2.0**16) == pytest.approx(seconds(8, bytes=2.0**16, dtype="int8"), 1e-3)
    for other in (dict(impl="custom"), dict(device="a100-sxm-80gb"), dict(op="all_gather"),
                  dict(device="mi300x"), dict(n_nodes=2)):  # fmt: skip
        assert seconds(8, **other) == seconds(8, dtype="int8", **other), other


def test_a_library_whose_name_begins_like_a_kernels_is_a_library():
    assert seconds(2, bytes=64.0, impl="oneccl") == seconds(2, bytes=64.0, impl="nccl")
    assert seconds(2, bytes=64.0, impl="custom") < seconds(2, bytes=64.0, impl="nccl")


def known(folder, name, on, engine, key):
    coefs = {c.name: c.start for c in collective.COEFS}
    own = Calibration(
        family="collective", device=on, engine=engine, version="", keys=(key,),
        names=tuple(coefs), coefs=np.array([list(coefs.values())]), ranges={},
        spread=dict.fromkeys(("under_20us", "bandwidth", "compute"), (-0.1, 0.1)),
        errors=Errors(9, 0.1, 0.2, "x"), origins=(Origin(name, "me", "MIT", 10),), date="d",
    )  # fmt: skip
    save(own, folder)
    return Store(folder)


def test_summing_in_the_switch_is_asked_of_the_library_that_does_it(tmp_path):
    of = known(tmp_path, "t", "h100-sxm", "nccl", "all_reduce|nccl")
    got = predict(asked(8, impl="nvls", runtime="vllm"), of)
    assert got.source[0].startswith("fitted: h100-sxm nccl")
    assert got.time_s[0] == predict(asked(8, runtime="vllm"), of).time_s[0]


@pytest.mark.parametrize(
    ("name", "source"),
    [("h200-sxm", "scaled: h100-sxm nccl"), ("h20", "scaled: h100-sxm nccl"),
     ("h100-nvl", "across devices"), ("h800", "across devices"), ("mi300x", "across devices")],
)  # fmt: skip
def test_devices_of_the_same_links_stand_for_each_other_not_those_of_a_chip(tmp_path, name, source):
    known(tmp_path, "g", "", "", "")
    of = known(tmp_path, "t", "h100-sxm", "nccl", "all_reduce|nccl")
    assert predict(asked(4, device=name, runtime="sglang"), of).source[0].startswith(source)


def of_a_model(name, n, message, **more):
    """Seconds inside a model that a vLLM of the installed calibrations runs, [K]."""
    on = device(name)
    costs = replace(Costs(on, wires(on), store=store()), **more)
    return costs.by_tokens(Collective("all_reduce", n, 1.0), np.asarray(message, dtype=float))


@pytest.mark.parametrize("name", ["h100-nvl", "mi300x", "b200", "a100-sxm-80gb", "h100-sxm"])
def test_a_models_collective_takes_what_a_row_of_a_table_does(name):
    library = {"mi300x": "rccl"}.get(name, "nccl")
    got = of_a_model(name, 4, [LARGE])[0]
    row = predict(asked(4, device=name, impl=library, runtime="vllm"), store()).time_s[0]
    assert got == pytest.approx(row, rel=0.02)


def test_kernels_that_share_memory_do_not_run_over_a_host_bus_beyond_two():
    message, short = 2.0**20, dict(bytes=2.0**20, runtime="vllm")
    for n, impl in ((2, "custom"), (4, "nccl")):
        got = of_a_model("l40s", n, [message])[0]
        row = predict(asked(n, device="l40s", impl=impl, **short), store()).time_s[0]
        assert got == pytest.approx(row, rel=0.05), n
    # on this one a table has them
    got = of_a_model("arc-pro-b60", 4, [message])[0]
    row = predict(asked(4, device="arc-pro-b60", impl="custom", **short), store()).time_s[0]
    assert got == pytest.approx(row, rel=0.05)


def test_what_no_table_speaks_for_goes_by_its_wires():
    on = device("tpu-v5p")
    m = Costs(on, wires(on), store=store())
    point = m.point(Collective("all_reduce", 4, 1.0), LARGE)
    assert point.source.startswith("roofline")
    # nor a group whose members are apart, which a row cannot say
    h100 = device("h100-sxm")
    m = Costs(h100, wires(h100), store=store())
    assert m.point(Collective("all_reduce", 2, 1.0, stride=4), LARGE).source.startswith("roofline")
    assert m.point(Collective("all_reduce", 2, 1.0), LARGE).source.startswith("fitted")
    beyond = m.point(Collective("all_reduce", 16, 1.0), LARGE)
    assert beyond.source.startswith("roofline")


def test_both_16_bit_formats_take_alike_where_one_was_measured():
    sizes = 2.0 ** np.arange(8, 30)
    found = [
        predict(asked(8, op=["all_reduce"] * 22, bytes=sizes, dtype=dtype, runtime="vllm"), store())
        for dtype in ("bf16", "fp16", "int8")
    ]
    assert found[0].source[0].startswith("fitted")
    assert found[0].time_s.tolist() == found[1].time_s.tolist()
    assert found[0].time_s[-1] < 0.85 * found[2].time_s[-1]
