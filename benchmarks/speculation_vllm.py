"""Speculation as LLM-Inference-Bench measured it: Llama-2-7B with a 68M draft, vLLM of 2024, A100.

    python benchmarks/speculation_vllm.py ../shared/data/llm_inference_bench/speculative.csv.gz

The file says neither how often proposals were right nor what the engine's host took.  Both are
fitted to the two shortest rows with speculation (one request, 64 requests); the others, and all
without speculation, are predictions.  Every request has as many output as input tokens, and all
come at once.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tempfile
from pathlib import Path

import forerun

DRAFTS = {
    "JackFram/llama-68m": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 2, "num_attention_heads": 12,
        "num_key_value_heads": 12, "vocab_size": 32000, "max_position_embeddings": 2048,
        "torch_dtype": "float16", "tie_word_embeddings": False, "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    },
}  # fmt: skip
MODELS = {"meta-llama/Llama-2-7b-hf": "llama-2-7b", "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b"}
ROUNDS = 9  # of a bisection


def rows_of(path: str) -> list[dict[str, str]]:
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)  # noqa: SIM115
    with opened as file:
        return [row for row in csv.DictReader(file) if row["Model"] in MODELS]


def latency_s(row: dict[str, str], alpha: float, host_seq_s: float, folder: Path) -> float:
    """What the row's batch takes from first to last."""
    n, length = int(row["Num of Hardware"]), int(row["Input Output Length"])
    # the file says no version; all of 2024 are before 0.14
    engine: dict[str, object] = {"runtime": "vllm 0.6", "max_model_len": 2048}
    if name := row["speculative model"]:
        config = folder / f"{Path(name).name}.json"
        config.write_text(json.dumps(DRAFTS[name]))
        engine["speculation"] = {
            "kind": "draft", "draft": str(config), "k": int(float(row["num speculative tokens"])),
            "acceptance": alpha, "tp": 1, "host_seq_s": f"{host_seq_s * 1e6} us",
        }  # fmt: skip
    case = {
        "model": MODELS[row["Model"]], "fleet": {"a100-sxm-40gb": n},
        "traffic": {
            "arrivals": "at_once", "n_requests": int(row["Batch Size"]), "isl": length,
            "osl": length,
        },
        "deployment": {"device": "a100-sxm-40gb", "tp": n, "engine": engine},
    }  # fmt: skip
    log = forerun.simulate(forerun.load(case), bootstrap=False).log
    return float(log.requests["done_ps"].max()) / 1e12


def fitted(rows: list[dict[str, str]], folder: Path) -> tuple[float, float]:
    """(alpha, host_seq_s) at which the shortest rows of one request and of most agree."""
    with_draft = [r for r in rows if r["speculative model"] and "7b" in r["Model"]]
    shortest = min(with_draft, key=lambda r: int(r["Input Output Length"]))["Input Output Length"]
    of = {int(r["Batch Size"]): r for r in with_draft if r["Input Output Length"] == shortest}
    one, many = of[min(of)], of[max(of)]

    def alpha_at(host_seq_s: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            late = latency_s(one, middle, host_seq_s, folder) > float(one["Latency"])
            low, high = (middle, high) if late else (low, middle)
        return (low + high) / 2

    low, high = 0.0, 2e-3
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        late = latency_s(many, alpha_at(middle), middle, folder) > float(many["Latency"])
        low, high = (low, middle) if late else (middle, high)
    return alpha_at((low + high) / 2), (low + high) / 2


def main(path: str) -> None:
    rows = rows_of(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alpha, host_seq_s = fitted(rows, folder)
        print(f"fitted: acceptance {alpha:.2f}, host {host_seq_s * 1e6:.0f} us a request and step")
        print("model         tokens  batch  draft  measured s  predicted s   error")
        for row in rows:
            if "70b" in row["Model"]:
                continue
            said = latency_s(row, alpha, host_seq_s, folder)
            measured = float(row["Latency"])
            print(
                f"{MODELS[row['Model']]:13s} {row['Input Output Length']:>6s} "
                f"{row['Batch Size']:>6s} {'yes' if row['speculative model'] else 'no':>6s} "
                f"{measured:11.2f} {said:12.2f} {100 * (said / measured - 1):+6.0f} %"
            )


if __name__ == "__main__":
    main(sys.argv[1])
