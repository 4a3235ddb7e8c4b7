"""Products of narrow formats: their activations are scaled and converted on the way."""

import numpy as np
import pytest

from forerun.cost.families import gemm
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.measure.tables import read_all

BARE = dict(
    compute=1.0, stream=1.0, cached=1.0, launch_s=1e-9, split_s=1e-9, step_s=1e-12, sharp=12.0
)


def _asked(dtype, device="h100-sxm", runtime="vllm 0.24.0", m=16384.0, n=128.0, k=8192.0):
    return rows(1, op="gemm", device=device, runtime=runtime, dtype=dtype, m=m, n=n, k=k, batch=1.0)


def _seconds(x):
    return float(gemm.physics(x, sheet(x), BARE)[0])


def _beyond_the_product(dtype, device="h100-sxm"):
    """What an engine's table holds beyond a tool's that times the product alone, seconds."""
    return _seconds(_asked(dtype, device)) - _seconds(_asked(dtype, device, "infersim"))


@pytest.mark.parametrize(("dtype", "narrow_bytes"), [("fp8", 1.0), ("fp8_block", 1.0)])
def test_narrow_activations_are_read_for_their_scale_read_again_and_written(dtype, narrow_bytes):
    moved = 16384 * 8192 * (2 + 2 + narrow_bytes)  # 671 MB at 3.35 TB/s: 200 us
    assert _beyond_the_product(dtype) == pytest.approx(moved / 3.35e12, rel=0.01)


@pytest.mark.parametrize(("dtype", "device"), [
    ("bf16", "h100-sxm"), ("int4_wo", "h100-sxm"), ("fp8", "a100-sxm-80gb"),
])  # fmt: skip
def test_nothing_is_converted_where_the_product_is_of_sixteen_bits(dtype, device):
    assert _beyond_the_product(dtype, device) == 0
    x = _asked(dtype, device)
    assert gemm.start(x, sheet(x))["launch_s"] == sheet(x).launch_s


def test_an_engine_s_narrow_product_takes_longer_than_its_conversion(shared_data):
    """TensorRT-LLM on H100 times both kernels of the conversion by themselves, too."""
    folder = shared_data / "aiconfigurator_ops/h100_sxm/trtllm-1.3.0rc20"
    names = ("gemm_perf", "computescale_perf", "scale_matrix_perf")
    product, *first = read_all([folder / f"{name}.parquet" for name in names])
    x = product.rows
    mine = (x.words("dtype") == "fp8") & (x.get("k") == 8192) & (x.get("n") == 128)
    alone = {m: t for m, t in zip(x.get("m")[mine], product.time_s[mine], strict=True)}
    converted = dict.fromkeys(alone, 0.0)
    for table in first:
        at = table.rows.get("width") == 8192
        for m, t in zip(table.rows.get("n_tokens")[at], table.time_s[at], strict=True):
            if m in converted:
                converted[m] += t
    long = [m for m in alone if m >= 2048]
    assert len(long) > 5
    assert all(0.6 * alone[m] < converted[m] < alone[m] for m in long)
    assert np.isfinite(list(alone.values())).all()
