"""Published serving runs: which of them say what load a worker had."""

import pytest

from forerun.measure.runs.aiconfigurator import SPLIT, SUSPECT, read

pytest.importorskip("polars", reason="tables are read with polars")

PLAIN = {
    "id": "a", "backend": "trtllm", "backend_version": "1", "model_path": "Qwen/Qwen3-32B",
    "system": "h100_sxm", "mode": "agg", "isl": 1000, "osl": 100, "gemm_quant_mode": "bfloat16",
    "moe_quant_mode": "", "batch_size": 4, "tp_size": 2, "pp_size": 1, "attention_dp_size": 1,
    "moe_tp_size": 1, "moe_ep_size": 1, "silicon_ttft_ms": 100, "silicon_tpot_ms": 10,
    "concurrency": 4,
}  # fmt: skip
POOLS = ("batch_size", "num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size",
         "moe_ep_size")  # fmt: skip


def note_of(tmp_path, **change):
    row = {f"{phase}_{name}": "" for phase in ("prefill", "decode") for name in POOLS}
    row |= PLAIN | change
    path = tmp_path / "silicon.csv"
    path.write_text(",".join(row) + "\n" + ",".join(str(v) for v in row.values()) + "\n")
    return read(path).note.tolist()


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({}, ""),
        ({"concurrency": 8}, SPLIT),
        ({"concurrency": 8, "attention_dp_size": 2}, ""),
        ({"concurrency": 4, "attention_dp_size": 0}, ""),
        ({"concurrency": 448, "batch_size": 14, "attention_dp_size": ""}, SPLIT),
        ({"concurrency": ""}, SUSPECT),
        ({"concurrency": "", "backend": "vllm"}, ""),
        ({"concurrency": 8, "mode": "disagg"}, ""),
    ],
)
def test_a_run_whose_concurrency_is_not_its_batches_stands_apart(tmp_path, change, note):
    assert note_of(tmp_path, **change) == [note]


def test_runs_that_stand_apart_contradict_themselves(shared_data):
    """Serving two at once is never slower than one after the other; of the GB200 runs it was."""
    runs = read(shared_data / "aiconfigurator_e2e/silicon_h100_gb200.csv.gz")
    text = runs.table.text
    mine = (runs.note == SPLIT) | (text("concurrency") == "1.0")
    mine &= (text("device") == "gb200") & (text("runtime") == "trtllm")
    for isl in ("2000", "4000"):
        tpot = {
            text("concurrency")[i]: runs.tpot_s[i] for i in range(runs.n)
            if mine[i] and text("isl")[i] == isl and text("model")[i] == "Qwen/Qwen3-32B"
        }  # fmt: skip
        assert tpot["2.0"] > 2.5 * tpot["1.0"]
