"""What can be wrong with a node, and what its refusal has to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from resq_onnx.functions import MatMulForm
from resq_onnx.recipe import BitSplit
from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node
from tests.functions.attention_cases import Shape


def matmul() -> Node:
    """K = 14 + 2, N = 5, X (2, 3, 16)."""
    return matmul_cases.node_of(
        MatMulForm(BitSplit(14, 2), bias=True, residual=True), 2, 3, outputs=5
    )


def hadamard() -> Node:
    """Parts of 3 * 4 and 1 * 4, gate_up (2, 3, 32)."""
    return hadamard_cases.node_of("both parts", 2, 3)


def attention() -> Node:
    """H = 4, G = 2, d = 16, R = 15, S = 3 of 8 tokens, batch 2; position_ids end at 7."""
    return attention_cases.node_of(
        attention_cases.form_of(qk_norm=True), Shape(batch=2, new=3, total=8, capacity=5)
    )


NODES: Final[dict[str, Callable[[], Node]]] = {
    "MixedPrecisionMatMul": matmul,
    "GatedHadamard": hadamard,
    "MixedPrecisionAttention": attention,
}

Change = Mapping[str, Any]
"""By name: an attribute, or an array, its shape (filled with ones of the usual type), or None."""

Case = tuple[str, str, Change, tuple[str, ...]]
"""Operator, what is wrong, what to change, and what the message has to say besides the node."""

MATMUL: Final[list[tuple[str, Change, tuple[str, ...]]]] = [
    ("X without a dimension", {"X": ()}, ("X",)),
    ("too few columns", {"X": (2, 3, 15), "residual": (2, 3, 5)}, ("X", "15", "16")),
    ("too many columns", {"X": (2, 3, 17), "residual": (2, 3, 5)}, ("X", "17", "16")),
    ("X of integers", {"X": np.ones((2, 3, 16), np.int64)}, ("X",)),
    ("X of doubles", {"X": np.ones((2, 3, 16))}, ("X",)),
    ("too few low scales", {"S_low": (4,)}, ("S_low", "4", "5")),
    ("too many high scales", {"S_high": (6,)}, ("S_high", "6", "5")),
    ("scales of rank 2", {"S_low": (5, 1)}, ("S_low",)),
    ("scales of doubles", {"S_low": np.ones(5)}, ("S_low",)),
    ("a bias too short", {"bias": (4,)}, ("bias", "4", "5")),
    ("a bias of rank 2", {"bias": (1, 5)}, ("bias",)),
    ("parts of unlike rows", {"W_high": (6, 2), "S_high": (6,)}, ("W_high", "6", "5")),
    ("weights of rank 1", {"W_low": (70,)}, ("W_low",)),
    ("weights of rank 3", {"W_high": (5, 2, 1)}, ("W_high",)),
    ("weights of another type", {"W_low": np.ones((5, 14), np.int8)}, ("W_low",)),
    ("weights of floats", {"W_high": np.ones((5, 2), np.float32)}, ("W_high",)),
    ("low weights without scales", {"S_low": None}, ("S_low",)),
    ("high weights without scales", {"S_high": None}, ("S_high",)),
    ("low scales without weights", {"W_low": None}, ("S_low", "W_low")),
    ("high scales without weights", {"W_high": None}, ("S_high", "W_high")),
    ("groups that are no integer", {"num_groups": 2.0}, ("num_groups", "FLOAT", "INT")),
    ("an epsilon that is an integer", {"norm_epsilon": 1}, ("norm_epsilon", "INT", "FLOAT")),
    ("a clip of nothing", {"low_clip": 0.0}, ("low_clip", "0", "1")),
    ("a clip beyond the range", {"low_clip": 1.5}, ("low_clip", "1.500000", "1")),
    ("no weights at all", dict.fromkeys(("W_low", "S_low", "W_high", "S_high")), ("W_low",)),
    ("no groups", {"num_groups": 0}, ("num_groups", "0")),
    ("less than no groups", {"num_groups": -2}, ("num_groups", "-2")),
    ("groups that do not divide", {"num_groups": 7}, ("num_groups", "7", "2")),
    ("a norm over groups", {"num_groups": 2, "norm_epsilon": 1e-5}, ("num_groups", "2", "1")),
    ("five bits", {"low_bits": 5}, ("low_bits", "5", "4", "8")),
    ("bits that are not the weights'", {"low_bits": 8}, ("W_low",)),
    ("a high part of four bits", {"high_bits": 4}, ("W_high", "INT4")),
    ("a residual of another width", {"residual": (2, 3, 4)}, ("residual", "4", "5")),
    ("a residual of another rank", {"residual": (6, 5)}, ("residual",)),
    ("a residual to broadcast", {"residual": (1, 1, 5)}, ("residual",)),
    ("a residual of another type", {"residual": np.ones((2, 3, 5), np.float16)}, ()),
]

HADAMARD: Final[list[tuple[str, Change, tuple[str, ...]]]] = [
    ("gate_up without a dimension", {"gate_up": ()}, ("gate_up",)),
    ("an odd width", {"gate_up": (2, 31)}, ("gate_up", "31", "32")),
    ("another width", {"gate_up": (2, 30)}, ("gate_up", "30", "32")),
    ("gate_up of integers", {"gate_up": np.ones((2, 32), np.int64)}, ("gate_up",)),
    ("a factor that is not square", {"low_outer": (3, 2)}, ("low_outer", "3", "2")),
    ("a factor of rank 1", {"high_inner": (4,)}, ("high_inner",)),
    ("half a pair of factors", {"low_inner": None}, ("low_inner",)),
    ("the other half", {"high_outer": None}, ("high_outer",)),
    ("another activation", {"activation": "gelu"}, ("activation", "gelu", "silu", "gelu_tanh")),
    ("a high part unlike its factors", {"high_rank": 5}, ("high_rank", "5", "4")),
    ("a high part less than nothing", {"high_rank": -1}, ("high_rank", "-1")),
]

ATTENTION: Final[list[tuple[str, Change, tuple[str, ...]]]] = [
    ("QKV of rank 2", {"QKV": (3, 128)}, ("QKV",)),
    ("QKV of another width", {"QKV": (2, 3, 127)}, ("QKV", "127", "128")),
    ("QKV of integers", {"QKV": np.ones((2, 3, 128), np.int64)}, ("QKV",)),
    ("a record of another size", {"past_key": (2, 2, 5, 14)}, ("past_key", "14", "15")),
    ("a value record too long", {"past_value": (2, 2, 5, 16)}, ("past_value", "16", "15")),
    ("a past of another batch", {"past_value": (3, 2, 5, 15)}, ("past_value", "3", "2")),
    ("a past of other heads", {"past_key": (2, 4, 5, 15)}, ("past_key", "4", "2")),
    ("a past of rank 3", {"past_key": (2, 5, 15)}, ("past_key",)),
    ("a past of floats", {"past_key": np.ones((2, 2, 5, 15), np.float32)}, ("past_key",)),
    ("pasts of unlike length", {"past_value": (2, 2, 6, 15)}, ("past_value", "6", "5")),
    (
        "pasts too short",
        {"past_key": (2, 2, 4, 15), "past_value": (2, 2, 4, 15)},
        ("past_key", "4", "5"),
    ),
    (
        "no past at all",
        {"past_key": (2, 2, 0, 15), "past_value": (2, 2, 0, 15)},
        ("past_key", "0", "5"),
    ),
    ("a mask shorter than S", {"attention_mask": (2, 2)}, ("attention_mask", "2", "3")),
    ("a mask of another batch", {"attention_mask": (1, 8)}, ("attention_mask", "1", "2")),
    ("a mask of rank 1", {"attention_mask": (8,)}, ("attention_mask",)),
    ("a mask of int32", {"attention_mask": np.ones((2, 8), np.int32)}, ("attention_mask",)),
    ("too few positions", {"position_ids": (2, 2)}, ("position_ids", "2", "3")),
    ("positions of another batch", {"position_ids": (1, 3)}, ("position_ids", "1", "2")),
    (
        "a position beyond the tables",
        {"position_ids": np.full((2, 3), 320)},
        ("position_ids", "320", "319", "cos_cache"),
    ),
    ("a far position", {"position_ids": np.full((2, 3), 2**62)}, ("position", str(2**62), "319")),
    ("a position before 0", {"position_ids": np.full((2, 3), -1)}, ("position", "-1", "319")),
    (
        "slots beyond the tables",
        {"position_ids": None, "cos_cache": (7, 8), "sin_cache": (7, 8)},
        ("7", "8"),
    ),
    ("tables of another width", {"cos_cache": (320, 7)}, ("cos_cache", "7", "8")),
    ("tables of unlike length", {"sin_cache": (319, 8)}, ("sin_cache", "319", "320")),
    ("a table of rank 1", {"sin_cache": (320,)}, ("sin_cache",)),
    ("a projection of other heads", {"key_projection": (1, 16, 16)}, ("key_projection", "1", "2")),
    ("a projection that is not square", {"key_projection": (2, 16, 15)}, ("key_projection", "15")),
    ("a projection of rank 2", {"key_projection": (16, 16)}, ("key_projection",)),
    ("a gain too short", {"q_norm": (15,)}, ("q_norm", "15", "16")),
    ("a gain too long", {"k_norm": (17,)}, ("k_norm", "17", "16")),
    ("gains without an epsilon", {"norm_epsilon": None}, ("norm_epsilon",)),
    ("heads not said", {"num_heads": None}, ("num_heads",)),
    ("no heads", {"num_heads": 0}, ("num_heads", "0")),
    ("no kv heads", {"kv_num_heads": 0}, ("kv_num_heads", "0")),
    ("kv heads less than nothing", {"kv_num_heads": -2}, ("kv_num_heads", "-2")),
    ("kv heads that do not divide", {"num_heads": 5}, ("num_heads", "5", "2")),
    ("an odd rotary_dim", {"rotary_dim": 7}, ("rotary_dim", "7")),
    ("no rotary_dim", {"rotary_dim": 0}, ("rotary_dim", "0")),
    (
        "a rotary_dim beyond the head",
        {"rotary_dim": 18, "cos_cache": (320, 9), "sin_cache": (320, 9)},
        ("rotary_dim", "18", "16"),
    ),
    ("a window of nothing", {"local_window": 0}, ("local_window", "0")),
    ("a window before -1", {"local_window": -2}, ("local_window", "-2")),
    ("a cap below 0", {"softcap": -1.0}, ("softcap", "-1", "0")),
    ("a cap beyond all numbers", {"softcap": float("inf")}, ("softcap", "inf")),
    ("a high part beyond the head", {"high_rank": 18}, ("high_rank", "18", "16")),
    ("a high part less than nothing", {"high_rank": -2}, ("high_rank", "-2")),
    ("half a byte too many", {"high_rank": 3}, ("high_rank", "3")),
    ("five bits", {"low_bits": 5}, ("low_bits", "5", "4", "8")),
]

CASES: Final[list[Case]] = [
    (operator, *case)
    for operator, cases in zip(NODES, (MATMUL, HADAMARD, ATTENTION), strict=True)
    for case in cases
]

CONSTANTS: Final = [
    (operator, name)
    for operator, names in {
        "MixedPrecisionMatMul": ("W_low", "S_low", "W_high", "S_high", "bias"),
        "GatedHadamard": ("low_outer", "low_inner", "high_outer", "high_inner"),
        "MixedPrecisionAttention": (
            *("cos_cache", "sin_cache", "key_projection", "q_norm", "k_norm"),
        ),
    }.items()
    for name in names
]
