"""Print the splits of the input of down_proj in real models, for a table of docs/quality.md.

    python -m scripts.down_splits

Bytes are those of down_proj's integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from resq_onnx.projections.hadamard import outer_order
from resq_onnx.projections.splits import down_rotation_cost, down_split, least_down_split
from resq_onnx.recipe import BitSplit, Recipe

MODELS: Final = {
    "SmolLM2-135M": 1536,
    "Llama-3.2-1B, 3B": 8192,
    "Llama-3-8B": 14336,
    "Llama-2-7B, Qwen2.5-3B, SmolLM3": 11008,
    "Llama-2-13B, Qwen2.5-14B": 13824,
    "Qwen2.5-0.5B": 4864,
    "Qwen2.5-1.5B": 8960,
    "Qwen2.5-7B": 18944,
}
"""Intermediate sizes by models."""


def table() -> Iterator[str]:
    """Lines of the table."""
    yield (
        "| model | size | an eighth | outer orders | chosen | outer orders | "
        "multiplications a token | bytes |"
    )
    yield "|---" * 8 + "|"
    for name, width in MODELS.items():
        least, chosen = least_down_split(Recipe(), width), down_split(Recipe(), width)
        before, after = down_rotation_cost(least), down_rotation_cost(chosen)
        more = chosen.mean_bits / least.mean_bits - 1
        same = chosen == least
        cells = [
            name,
            str(width),
            *_cells(least),
            *(("the same", "") if same else _cells(chosen)),
            f"{before:,}" if same else f"{before:,} → {after:,}",
            "" if same else f"+{more:.1%}".replace("%", " %"),
        ]
        yield f"| {' | '.join(cells)} |"


def _cells(split: BitSplit) -> tuple[str, str]:
    orders = outer_order(split.low), outer_order(split.high)
    return f"{split.low} + {split.high}", f"{orders[0]}, {orders[1]}"


if __name__ == "__main__":
    print(*table(), sep="\n")
