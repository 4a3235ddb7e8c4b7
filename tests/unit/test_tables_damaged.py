"""Published tables that were damaged on their way: read as they are, or refused with the place."""

import io

import polars
import pytest

from forerun.errors import SpecError
from forerun.measure.tables import read_tables

LLAMA = "meta-llama/Llama-3.1-8B"
#: format -> files that are damaged in turn; the first is what the folder is known by
GOOD = {
    "aiconfigurator": {
        "h100_sxm/vllm-0.24.0/gemm_perf.parquet":
            "op_name,kernel_source,gemm_dtype,m,n,k,latency\n"
            "gemm,x,bfloat16,4096,4096,4096,0.2\ngemm,x,fp8,4096,4096,8192,0.2\n",
        "h100_sxm/vllm-0.24.0/generation_attention_perf.parquet":
            "op_name,kernel_source,attn_dtype,kv_cache_dtype,batch_size,num_heads,"
            "num_key_value_heads,head_dim,window_size,step,latency\n"
            "generation_attention,x,bfloat16,bfloat16,16,32,8,128,0,4096,0.2\n"
            "generation_attention,x,bfloat16,fp8,32,32,8,128,0,4096,0.3\n",
        "h100_sxm/nccl-2.29/nccl_perf.parquet":
            "op_name,kernel_source,nccl_dtype,num_gpus,message_size,latency\n"
            "all_reduce,NCCL,half,8,268435456,2.68\nalltoall,NCCL,half,8,268435456,1.4\n",
    },
    "neusight": {
        "bmm.parquet": "OPName,Device,B,M,N,K,Latency\n"
                       "bmm,Tesla T4,16,512,64,256,0.5\nbmm,Tesla T4,16,512,64,512,0.9\n",
        "ln.parquet": "OPName,Device,B,H,Latency\nln,Tesla T4,4096,1024,0.4\n"
                      "ln,Tesla T4,8192,1024,0.8\n",
    },
    "infersim": {
        "gemm/h20/data.csv": "m,k,n,latency_us\n4096,7168,2048,950\n4096,7168,4096,1900\n",
        "gdn/decode/h20/4-16-128-32-128.csv": "batchsize,conv,gdn_update\n64,20,90\n128,30,160\n",
    },
    "vidur": {
        "compute/a100/meta-llama/Llama/mlp.csv":
            "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,"
            "num_tensor_parallel_workers,time_stats.mlp_up_proj.median\n"
            "32,8,4096,14336,True,1024,2,0.6\n32,8,4096,14336,True,2048,2,1.2\n",
        "network/a100_pairwise_nvlink/all_reduce.csv":
            "num_workers,size,devices_per_node,collective,time_stats.all_reduce.median\n"
            "4,1048576,4,all_reduce,0.5\n4,2097152,4,all_reduce,0.9\n",
    },
    "vllm_layers": {
        f"RTXPRO6000/{LLAMA}/bf16/tp2/dense.csv":
            "layer,tokens,time_us\nqkv_proj,512,90\nlayernorm,512,6\n",
        f"RTXPRO6000/{LLAMA}/bf16/tp2/attention.csv":
            "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
            "512,1024,0,0,80\n0,0,16,2047,60\n",
    },
    "vllm_layers_v0": {
        f"A6000/{LLAMA}/tp1/layers.csv":
            "layer_name,input,kv_cache,latency(ns)\no_proj,1024,0,400000\no_proj,2048,0,800000\n",
        f"A6000/{LLAMA}/tp1/attention.csv":
            "time_stats.attn_prefill.median,n_embd,n_q_head,n_kv_head,batch_size,"
            "prefill_chunk_size,kv_cache_size,num_tensor_parallel_workers\n"
            "0.5,4096,32,8,1,1024,2048,1\n0.9,4096,32,8,1,2048,2048,1\n",
    },
    "llmcompass": {
        "matmul_A100.csv": "m,k,n,latency_ms\n64,12288,4096,0.19\n128,12288,4096,0.2\n",
        "softmax_A100.csv": "rows,cols,gelem_per_s\n4096,512,100\n8192,512,100\n",
    },
    "deepbench": {
        "train_NV_V100.csv":
            "sheet,c0,c1,c2,c3,c4,c5,c6,c8\nFP32,Precision,Float,,,,,,\n"
            "FP32,Dense Matrix Multiplication,,M,N,K,A,B,ms\n"
            "FP32,,Speech,1760,7000,1760,N,T,3.4\nFP32,,Speech,1760,128,1760,N,N,0.1\n",
    },
}  # fmt: skip
CASES = [(form, name) for form, files in GOOD.items() for name in files]


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".parquet":
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    elif text:
        polars.read_csv(io.StringIO(text)).write_parquet(path)
    else:
        path.write_bytes(b"")


def _read(folder, form, changed=()):
    """(rows read, rows counted as left out), or the problems."""
    for name, text in {**GOOD[form], **dict(changed)}.items():
        _write(folder / name, text)
    try:
        tables = read_tables(folder, form)
    except SpecError as error:
        return error.problems
    lost = sum(n for t in tables for why, n in t.n_dropped.items() if not why.startswith("of th"))
    return sum(t.rows.n for t in tables), lost


def _cells(text):
    head, *rows = (line.split(",") for line in text.splitlines())
    return head, rows


def _text(head, rows):
    return "".join(",".join(line) + "\n" for line in (head, *rows))


def _refused(found, name):
    assert isinstance(found, tuple)
    for problem in found:
        assert name.rpartition("/")[2] in problem.where
        assert problem.what
        assert problem.fix
        assert "\n" not in problem.what


@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_column_that_was_cut_off_is_named_with_its_file(tmp_path, form, name):
    head, rows = _cells(GOOD[form][name])
    whole, _ = _read(tmp_path, form)
    for j, column in enumerate(head):
        text = _text(head[:j] + head[j + 1 :], [r[:j] + r[j + 1 :] for r in rows])
        found = _read(tmp_path, form, {name: text})
        if hasattr(found[0], "where"):
            _refused(found, name)
            assert column in found[0].what + found[0].fix or "medians" in found[0].what
        else:  # a column that says nothing of the time
            assert column in ("op_name", "kv_cache", "kernel_source")
            assert found == (whole, 0)


@pytest.mark.parametrize("cell", ["word", "", "nan", "-1", "0", "1e300"])
@pytest.mark.parametrize(("form", "name"), CASES)
def test_of_a_damaged_cell_no_row_is_lost_without_a_word(tmp_path, form, name, cell):
    head, rows = _cells(GOOD[form][name])
    whole, _ = _read(tmp_path, form)
    last = len(rows) - 1
    for j in range(1 if form == "deepbench" else 0, len(head)):
        if form == "deepbench" and head[j] == "c0" and cell:
            continue  # there the next block begins
        damaged = [[*r[:j], cell if i == last else r[j], *r[j + 1 :]] for i, r in enumerate(rows)]
        if damaged == rows:
            continue
        found = _read(tmp_path, form, {name: _text(head, damaged)})
        if hasattr(found[0], "where"):
            _refused(found, name)
        else:
            assert sum(found) == whole


@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_file_that_is_empty_or_a_header_alone_is_refused(tmp_path, form, name):
    for text in ("", GOOD[form][name].splitlines()[0] + "\n"):
        _refused(_read(tmp_path, form, {name: text}), name)


@pytest.mark.parametrize(("form", "name"), [c for c in CASES if c[1].endswith(".csv")])
def test_marks_of_other_systems_change_nothing_and_other_separators_are_said(tmp_path, form, name):
    text = GOOD[form][name]
    whole = _read(tmp_path, form)
    assert _read(tmp_path, form, {name: b"\xef\xbb\xbf" + text.encode()}) == whole
    assert _read(tmp_path, form, {name: text.replace("\n", "\r\n").encode()}) == whole
    _refused(_read(tmp_path, form, {name: text.replace(",", ";")}), name)
    _refused(_read(tmp_path, form, {name: text.encode() + b"\xff\xfe\n"}), name)


def test_a_cell_of_words_is_told_by_its_line_and_column(tmp_path):
    text = GOOD["infersim"]["gemm/h20/data.csv"].replace("4096,1900", "4096,slow")
    (problem,) = _read(tmp_path, "infersim", {"gemm/h20/data.csv": text})
    assert problem.where == f"{tmp_path}/gemm/h20/data.csv:3 latency_us"
    assert problem.what == "'slow' is not a number"


def test_a_row_of_several_operators_is_told_by_the_line_it_stands_on(tmp_path):
    """Each line of it is a convolution and an update; the second update takes a second."""
    name = "gdn/decode/h20/4-16-128-32-128.csv"
    text = "batchsize,conv,gdn_update\n64,20,90\n128,30,1e6\n"
    (problem,) = _read(tmp_path, "infersim", {name: text})
    assert problem.where == f"{tmp_path}/{name}:3"


def test_a_file_of_two_kinds_is_not_read_as_the_first_of_them(tmp_path):
    name = "network/a100_pairwise_nvlink/all_reduce.csv"
    text = GOOD["vidur"][name].replace("4,2097152,4,all_reduce", "4,2097152,4,send_recv")
    (problem,) = _read(tmp_path, "vidur", {name: text})
    assert problem.what == "is all_reduce, send_recv"


def test_layers_that_are_not_known_are_counted(tmp_path):
    name = f"RTXPRO6000/{LLAMA}/bf16/tp2/dense.csv"
    text = GOOD["vllm_layers"][name] + "new_layer,512,6\n"
    whole, _ = _read(tmp_path, "vllm_layers")
    assert _read(tmp_path, "vllm_layers", {name: text}) == (whole, 1)


def test_names_that_should_say_sizes_and_do_not_are_refused(tmp_path):
    text = "batchsize,conv,gdn_update\n64,20,90\n"
    (problem,) = _read(tmp_path, "infersim", {"gdn/decode/h20/x-16.csv": text})
    assert "has a name that does not say its sizes" in problem.what
    layers = GOOD["vllm_layers_v0"][f"A6000/{LLAMA}/tp1/layers.csv"]
    (problem,) = _read(tmp_path, "vllm_layers_v0", {f"A6000/{LLAMA}/tpx/layers.csv": layers})
    assert "is no degree of tensor parallelism" in problem.what
