"""Second moments: against the obvious computation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.calibration import statistics
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.projections.moments import SITES, Moments
from tests.calibration import tiny
from tests.calibration.whole_model import collect_moments
from tests.tiny_models import write_model

FLOAT32_TOLERANCE: Final = 2e-5
"""A float32 model of two layers against the same in float64, relative to the largest entry:
some hundred roundings of 6e-8 follow one another."""

FLOAT64_TOLERANCE: Final = 1e-6
"""The model in float64: transformers still computes the RoPE tables and norms in float32."""

SUM_TOLERANCE: Final = 1e-6
"""The same float32 activations summed in another order, and by other matrix kernels."""


def assert_close(found: Moments, expected: Moments, tolerance: float) -> None:
    assert found.tokens == expected.tokens
    for site in SITES:
        right = getattr(expected, site)
        difference = np.abs(getattr(found, site) - right).max() / np.abs(right).max()
        assert difference < tolerance, (site, difference)


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_qwen2])
def test_moments_are_those_of_the_obvious_computation(
    make: Callable[[], PreTrainedModel],
) -> None:
    model, tokens = make(), tiny.sequences(3, 7)
    found = collect_moments(model, tiny.layout(model), tokens, batch_size=2)
    assert_close(found, tiny.obvious_moments(model, tokens), FLOAT32_TOLERANCE)


def test_a_float64_model_gives_float64_products() -> None:
    model, tokens = tiny.tiny_llama(), tiny.sequences(3, 7)
    expected = tiny.obvious_moments(model, tokens)
    found = collect_moments(model.double(), tiny.layout(model), tokens)
    assert_close(found, expected, FLOAT64_TOLERANCE)


def test_the_sums_are_float64_whatever_the_model_is() -> None:
    model = tiny.tiny_llama().bfloat16()
    found = collect_moments(model, tiny.layout(model), tiny.sequences(1, 5))
    assert all(getattr(found, site).dtype == np.float64 for site in SITES)


def test_the_batch_size_does_not_matter() -> None:
    model, tokens = tiny.tiny_llama(), tiny.sequences(5, 6)
    sizes = tiny.layout(model)
    together = collect_moments(model, sizes, tokens, batch_size=5)
    for batch_size in (1, 2, 8):
        found = collect_moments(model, sizes, tokens, batch_size=batch_size)
        assert_close(found, together, SUM_TOLERANCE)


@pytest.mark.parametrize("block", [1, 5, 24])
def test_computing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    model, tokens = tiny.tiny_llama(), tiny.sequences(2, 6)
    whole = collect_moments(model, tiny.layout(model), tokens)
    monkeypatch.setattr(statistics, "BLOCK", block)
    found = collect_moments(model, tiny.layout(model), tokens)
    assert_close(found, whole, SUM_TOLERANCE)
    for site in SITES:
        moments = getattr(found, site)
        assert_symmetric_but_for_rounding(moments)


def assert_symmetric_but_for_rounding(moments: NDArray[np.float64]) -> None:
    difference = np.abs(moments - np.swapaxes(moments, -1, -2)).max()
    assert difference <= SUM_TOLERANCE * np.abs(moments).max()


def test_moments_of_two_texts_add_up() -> None:
    model, tokens = tiny.tiny_llama(), tiny.sequences(4, 6)
    sizes = tiny.layout(model)
    parts = collect_moments(model, sizes, tokens[:1])
    rest = collect_moments(model, sizes, tokens[1:])
    for site in SITES:
        setattr(parts, site, getattr(parts, site) + getattr(rest, site))
    parts.tokens += rest.tokens
    assert_close(parts, collect_moments(model, sizes, tokens), SUM_TOLERANCE)


def test_hidden_moments_have_trace_hidden_size_per_token() -> None:
    model = tiny.tiny_llama()
    sizes = tiny.layout(model)
    found = collect_moments(model, sizes, tiny.sequences(2, 8))
    traces = np.trace(found.hidden_attention, axis1=-2, axis2=-1)
    np.testing.assert_allclose(traces, found.tokens * sizes.hidden_size, rtol=1e-4)


def test_no_sequences_give_empty_moments() -> None:
    model = tiny.tiny_llama()
    found = collect_moments(model, tiny.layout(model), tiny.sequences(0, 8))
    assert found.tokens == 0
    assert not any(getattr(found, site).any() for site in SITES)


def test_progress_counts_sequences() -> None:
    model = tiny.tiny_llama()
    steps: list[tuple[int, int]] = []
    collect_moments(
        model,
        tiny.layout(model),
        tiny.sequences(5, 4),
        progress=lambda done, total: steps.append((done, total)),
        batch_size=2,
    )
    assert steps == [(2, 5), (4, 5), (5, 5)]


def test_the_head_is_not_run() -> None:
    model = tiny.tiny_llama()
    calls: list[int] = []
    model.get_submodule("lm_head").register_forward_hook(lambda *_: calls.append(1))
    collect_moments(model, tiny.layout(model), tiny.sequences(1, 4))
    assert not calls


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_no_hook_is_left_after_the_pass_nor_after_an_error() -> None:
    model = tiny.tiny_llama()
    sizes = tiny.layout(model)
    before = hooks(model)
    collect_moments(model, sizes, tiny.sequences(1, 4))
    assert hooks(model) == before

    def interrupt(_done: int, _total: int) -> None:
        assert hooks(model) == before + 4 * sizes.num_layers
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_moments(model, sizes, tiny.sequences(1, 4), progress=interrupt)
    assert hooks(model) == before


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("model.layers.1.input_layernorm", "layer 1: the input of model.layers.1.input_layernorm"),
        ("model.layers.0.mlp.down_proj", "layer 0: the input of model.layers.0.mlp.down_proj"),
        ("model.layers.1.self_attn.o_proj", "the input of model.layers.1.self_attn.o_proj"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_no_number_is_named(module: str, where: str, value: float) -> None:
    model = tiny.tiny_llama()

    def spoil(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        spoilt = inputs[0].clone()
        spoilt[0, 2, 5] = value
        return (spoilt,)

    model.get_submodule(module).register_forward_pre_hook(spoil)
    with pytest.raises(ResqError, match=where):
        collect_moments(model, tiny.layout(model), tiny.sequences(1, 4))


def test_where_the_basis_lies_behind_the_gains_they_are_in_the_hidden_moments(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path, "gemma3", tied=True)
    tokens, layout = tiny.sequences(3, 7), ModelSource(tmp_path, "gemma").layout
    found = collect_moments(model, layout, tokens).hidden_mlp[1]
    read: list[torch.Tensor] = []
    norm = model.get_submodule(layout.module(1, "mlp_norm"))
    norm.register_forward_hook(lambda _module, _inputs, output: read.append(output))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens))
    rows = read[0].flatten(0, 1).double().numpy()
    assert np.abs(found - rows.T @ rows).max() < FLOAT32_TOLERANCE * np.abs(found).max()
