"""What share of its peak a card sustains within its power limit."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from forerun import catalog
from forerun.calibrate.operators import _residual_of
from forerun.cost.calibration import Calibration, Errors, Store, save
from forerun.cost.chosen import coefs_across, coefs_scaled, starting, takes_residual
from forerun.cost.families import family
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.cost.sustained import FULL, sustained

GEMM = family("gemm")
NAMES = tuple(c.name for c in GEMM.COEFS)


def _general(**change):
    made = Calibration(
        family="gemm", device="", engine="", version="", keys=("",), names=NAMES,
        coefs=np.ones((1, len(NAMES))), ranges={}, spread={}, errors=Errors(0, 0.0, 0.0, ""),
        origins=(), date="2026-11-21",
    )  # fmt: skip
    return replace(made, **change)


def _asked(*runtimes, device="l40s", dtype="bf16"):
    x = rows(len(runtimes), op="gemm", device=device, m=512.0, n=512.0, k=512.0,
             runtime=np.array(runtimes, dtype=object), dtype=dtype)  # fmt: skip
    x = x.filled(GEMM.DEFAULTS)
    return x, sheet(x)


def test_every_card_sustains_a_share_of_its_peak():
    for name in catalog.devices():
        device = catalog.device(name)
        for used in device.peak_flop_per_s:
            share = sustained(device, used)
            assert share is None or 0 < share <= FULL, (name, used)


def test_a_lower_power_limit_never_sustains_more():
    card = catalog.device("l4")
    shares = [sustained(card.model_copy(update={"tdp_w": w}), "bf16") for w in (50, 72, 120, 300)]
    assert shares == sorted(shares)
    assert shares[-1] == FULL


def test_a_card_with_power_to_spare_keeps_its_clock_where_a_wider_one_does_not():
    # the same architecture: 0.94 and 0.74 were measured (RTX 3090, RTX A6000), 0.93 and 0.8 (H20,
    # H100)
    for spare, short in (("rtx-3090", "rtx-a6000"), ("h20", "h100-sxm")):
        free, held = (sustained(catalog.device(n), "bf16") for n in (spare, short))
        assert free == FULL
        assert held == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("name", "mamf"),
    [("a100-sxm-80gb", 0.859), ("h100-sxm", 0.801), ("b200", 0.776), ("mi250x-gcd", 0.767)],
)
def test_large_products_reach_nearly_the_published_achievable_rate(name, mamf):
    # stas00/ml-engineering, compute/accelerator, "Maximum Achievable Matmul FLOPS", bf16
    assert sustained(catalog.device(name), "bf16") == pytest.approx(0.95 * mamf, rel=0.03)


def test_a_device_without_a_clock_on_its_sheet_has_what_its_architecture_has():
    card = catalog.device("l40s").model_copy(update={"clock_hz": None})
    assert sustained(card, "bf16") is None


def test_a_sibling_is_moved_by_what_both_sheets_say():
    own = _general(device="rtx-a6000", engine="vllm", keys=("bf16|",))
    own = replace(own, coefs=np.array([[0.7, 0.9, 1.3, 3e-6, 2e-6, 1e-8, 3.0]]))
    x, s = _asked("vllm", device="rtx-3090")
    moved = coefs_scaled(x, s, GEMM, own, "bf16|")
    ratio = [sustained(catalog.device(n), "bf16") for n in ("rtx-3090", "rtx-a6000")]
    assert moved["compute"][0] == pytest.approx(0.7 * ratio[0] / ratio[1])
    assert moved["stream"][0] == pytest.approx(0.9)
    assert moved["compute"][0] <= 1.1  # the end of its range


def test_an_engine_starts_its_kernels_alike_on_every_device():
    at = NAMES.index("launch_s")
    slow = np.ones((2, len(NAMES)))
    slow[1, at] = 8.0
    general = _general(keys=("", "vllm|bf16"), coefs=slow)
    x, s = _asked("vllm 0.24.0", "trtllm 1.3.0", "")
    factor = coefs_across(x, s, GEMM, general)["launch_s"] / starting(x, s, GEMM)["launch_s"]
    assert factor.tolist() == pytest.approx([8.0, 1.0, 1.0])
    x, s = _asked("vllm 0.24.0", dtype="fp8")
    factor = coefs_across(x, s, GEMM, general)["launch_s"] / starting(x, s, GEMM)["launch_s"]
    assert factor.tolist() == pytest.approx([1.0])


def test_a_residual_is_for_the_engines_it_was_found_right_for(tmp_path):
    _, s = _asked("torch 2.1", "vllm 0.24.0", "sglang")
    for told, wanted in (
        (("*",), [True, True, True]),
        (("torch", "not *"), [True, False, False]),
        (("not torch", "*"), [False, True, True]),
        (("torch", "not vllm", "*"), [True, False, True]),
    ):
        general = _general(residual_of=told)
        assert takes_residual(general, s).tolist() == wanted
        save(general, tmp_path)
        found = Store(tmp_path).general("gemm")
        assert found is not None
        assert found.residual_of == told


@pytest.mark.parametrize(("n_devices", "wanted"), [(3, "not *"), (4, "*")])
def test_a_residual_of_three_devices_is_used_for_nobody(n_devices, wanted):
    """However right it was for each of them: it was learnt from the other two."""
    machine = np.array([f"d{i}" for i in range(n_devices)], dtype=object)
    rows = SimpleNamespace(
        machine=machine, s=SimpleNamespace(engine=np.array([f"e{i}" for i in range(n_devices)])),
        time_s=np.ones(n_devices),
    )  # fmt: skip
    right, wrong = np.ones(n_devices), np.full(n_devices, 2.0)
    assert _residual_of(rows, right, wrong, np.ones(n_devices)) == (wanted,)
