"""Models whose channels have the sizes that training gives: the bits must lie where they count.

At 8 bits throughout nothing but a wrong place for the rounding costs a model its predictions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from resq_onnx.evaluation.distance import compare
from tests.command_line import QUICK, run_successfully
from tests.end_to_end.tiny_text import prefill, token_ids, torch_logits
from tests.tiny_models import write_model

KINDS: Final = {
    "llama": True,
    "qwen2": False,
    "qwen3": True,
    "mistral": False,
    "smollm3": True,
    "phi3": False,
    "phi3_longrope": True,
    "gemma2": True,
    "gemma3": False,
    "gemma3_vl": True,
    "qwen2_vl": True,
}
"""One of each family, and whether the embedding is tied."""

NEAR: Final = 0.1
"""Divergence from the original, in nats a token: rounding in the right places costs a third of it,
and before the gains of Gemma's norms instead of behind them it costs more than 5."""


@pytest.mark.parametrize("kind", KINDS)
def test_at_8_bits_a_model_with_outliers_predicts_as_the_original(
    kind: str, tmp_path: Path
) -> None:
    original = write_model(tmp_path / "model", kind, tied=KINDS[kind], lifelike=True)
    out = tmp_path / "out" / "a.onnx"
    run_successfully("export", tmp_path / "model", out, *QUICK, "--low-bits", 8)
    ids = token_ids(out.parent)
    ids[:, 0] = 1  # BOS
    found = compare(torch_logits(original, ids), prefill(out, ids), ids)
    assert found.kl_divergence < NEAR
