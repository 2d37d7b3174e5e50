"""The chip in Amaranth. So far: its numeric primitives, each equal to `numerics` bit for bit.

Needs the extra `rtl`; importing this package alone does not import Amaranth.

    primitive("fp32_add").compute(a, b)              the numerics function
    simulate.build(primitive("fp32_add").create())   the hardware, run at a million vectors a second
    emit.verilog(primitive("fp32_add").create())     for anyone else's tools
"""

from __future__ import annotations

from importlib import import_module

from mellivora.rtl.primitive import Primitive

__all__ = ["PRIMITIVES", "Primitive", "primitive"]

PRIMITIVES: dict[str, str] = {
    "fp32_add": "fp32_add:FP32_ADD",
    "fp32_add_2": "fp32_add:FP32_ADD_2",
    "fp32_mul": "fp32_mul:FP32_MUL",
    "fp32_max": "fp32_max:FP32_MAX",
    "int_to_fp32": "int_to_fp32:INT_TO_FP32",
    "e8m0_expand": "e8m0:E8M0_EXPAND",
    "dot32": "dot32:DOT32",
    "sum32": "dot32:SUM32",
    "scale_dot": "scale_dot:SCALE_DOT",
    "matrix_column": "matrix_column:MATRIX_COLUMN",
    "table_exp2": "table_functions:EXP2",
    "table_log2": "table_functions:LOG2",
    "table_recip": "table_functions:RECIP",
    "table_rsqrt": "table_functions:RSQRT",
    "table_sin_turns": "table_functions:SIN_TURNS",
    "table_cos_turns": "table_functions:COS_TURNS",
    "to_f16": "narrow:TO_F16",
    "to_bf16": "narrow:TO_BF16",
    "to_int8": "narrow:TO_INT8",
    "from_f16": "widen:FROM_F16",
    "from_bf16": "widen:FROM_BF16",
    "mx_quantise": "mx_quantise:MX_QUANTISE",
    "secded_encode": "secded:SECDED_ENCODE",
    "secded_decode": "secded:SECDED_DECODE",
    "reduce_tree": "reduce_tree:REDUCE_SUM",
}
"""Name -> module:object, looked up when asked for."""


def primitive(name: str) -> Primitive:
    """The primitive of that name; KeyError if it is not in PRIMITIVES."""
    module, _, attribute = PRIMITIVES[name].partition(":")
    return getattr(import_module(f"mellivora.rtl.{module}"), attribute)
