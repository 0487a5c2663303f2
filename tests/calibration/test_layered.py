"""A model run with one layer in memory computes what transformers computes, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError
from tests.calibration.whole_model import load_in
from tests.tiny_models import KINDS, write_model

TOKENS = np.random.default_rng(0).integers(3, 64, (3, 12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layer_by_layer_the_logits_are_those_of_the_whole_model(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    whole = write_model(tmp_path, kind, tied=kind != "llama", dtype=dtype)
    with open_model(tmp_path) as source, torch.inference_mode():
        model = LayeredModel(source)
        hidden = model.embed(TOKENS)
        for layer, call in enumerate(model.calls(*TOKENS.shape)):
            with model.layer(layer) as module:
                hidden, _ = call.run(module, hidden)
                assert all(weight.device.type == "cpu" for weight in module.parameters())
            assert all(weight.is_meta for weight in module.parameters())
        found = np.zeros((TOKENS.size, source.layout.vocab_size), np.float32)
        model.logits(hidden.flatten(0, 1).numpy(), found)
        expected = whole(input_ids=torch.from_numpy(TOKENS)).logits.flatten(0, 1).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_the_layers_are_those_of_a_model_in_bfloat16(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, kind, tied=True)
    whole = load_in(tmp_path, kind, torch.bfloat16)
    with open_model(tmp_path) as source, torch.inference_mode():
        model = LayeredModel(source)
        expected = whole(input_ids=torch.from_numpy(TOKENS), output_hidden_states=True)
        hidden = model.embed(TOKENS, torch.bfloat16)
        batch, tokens = TOKENS.shape
        for layer, call in enumerate(model.calls(batch, tokens, torch.bfloat16)):
            assert torch.equal(hidden, expected.hidden_states[layer])
            with model.layer(layer) as module:
                hidden, _ = call.run(module.to(torch.bfloat16), hidden)
        assert hidden.dtype == torch.bfloat16
        # Nothing of it stays for those who compute in float32 afterwards.
        assert model.embed(TOKENS).dtype == torch.float32


def test_lm_head_may_be_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resq_onnx.calibration.layered.HEAD_BYTES", 4 * 64 * 10)
    monkeypatch.setattr("resq_onnx.calibration.layered.LOGITS_BYTES", 4 * 64 * 5)
    whole = write_model(tmp_path, "llama", tied=False)
    hidden = np.random.default_rng(1).standard_normal((12, whole.config.hidden_size)).astype("f4")
    with open_model(tmp_path) as source, torch.inference_mode():
        found = np.zeros((12, source.layout.vocab_size), np.float32)
        LayeredModel(source).logits(hidden, found)
        norm, head = whole.get_decoder().norm, whole.lm_head
        expected = head(norm(torch.from_numpy(hidden))).numpy()
    # A product of a matrix with fewer columns may add in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "llama", tied=True)
    with open_model(tmp_path) as source:
        model = LayeredModel(source)
        del source.weights._tensors["model.layers.1.mlp.up_proj.weight"]
        with pytest.raises(ResqError, match=r"no tensor model\.layers\.1\.mlp\.up_proj"):  # noqa: SIM117
            with model.layer(1):
                pass
