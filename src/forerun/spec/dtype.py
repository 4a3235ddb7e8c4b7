"""Number formats: how many bytes an element takes, scales included."""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal[
    "fp64", "fp32", "tf32", "bf16", "fp16",
    "fp8", "fp8_block", "int8", "int8_wo", "int4_wo", "nvfp4", "mxfp4", "mxfp8",
]  # fmt: skip

DTYPES: tuple[str, ...] = get_args(Dtype)

#: bytes an element of a weight takes, block scales included
WEIGHT_BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,  # stored as fp32, multiplied as 19 bits
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,  # one scale a tensor
    "fp8_block": 1.0 + 4 / (128 * 128),  # one fp32 scale a 128 x 128 block (DeepSeek-V3)
    "mxfp8": 1.0 + 1 / 32,  # OCP MX: one 8-bit scale for 32 elements
    "int8": 1.0,
    "int8_wo": 1.0,
    "int4_wo": 0.5 + 2 / 128,  # one fp16 scale for 128 elements (AWQ and GPTQ default)
    "nvfp4": 0.5 + 1 / 16,  # one fp8 scale for 16 elements
    "mxfp4": 0.5 + 1 / 32,  # OCP MX: one 8-bit scale for 32 elements
}


def bits(dtype: str) -> int:
    """Bits of an element without its scales."""
    return int(8 * WEIGHT_BYTES[dtype])


#: the format whose peak a matrix product in this format runs at
MATH: dict[str, str] = {
    "fp8_block": "fp8",
    "mxfp8": "fp8",
    "int8_wo": "bf16",  # weight-only: multiplied after dequantising
    "int4_wo": "bf16",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}

#: the format in which activations travel when weights have this format
ACTIVATION: dict[str, str] = {
    "fp8": "fp8", "fp8_block": "fp8", "mxfp8": "fp8", "int8": "int8", "nvfp4": "nvfp4",
    "fp32": "fp32", "tf32": "fp32", "fp64": "fp64",
}  # fmt: skip
