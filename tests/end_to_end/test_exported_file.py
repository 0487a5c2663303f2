"""The exported file of a tiny model: what lies beside it, what is in it, and what it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import resq_onnx
from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.graph.inspection import inspect_model
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import BufferedDecoder, Decoder, create_session
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import contents
from tests.end_to_end.tiny import Exported, quantisation_divergence
from tests.end_to_end.tiny_text import WINDOW, prefill, token_ids, torch_logits
from tests.tiny_models import SIZES

COMPANIONS: Final = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "resq.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_beside_the_model_lies_what_one_needs_to_run_it(exported: Exported) -> None:
    models = {
        f"{path.name}{end}" for path in (exported.out, exported.rotated) for end in ("", ".data")
    }
    assert {path.name for path in exported.out.parent.iterdir()} == COMPANIONS | models
    for name in COMPANIONS - {"README.md", "resq.json"}:
        assert (exported.out.parent / name).read_bytes() == (exported.model / name).read_bytes()


def test_resq_json_says_what_was_done(exported: Exported) -> None:
    said = json.loads((exported.out.parent / "resq.json").read_text())
    recipe = Recipe(samples=4, sequence_length=64, bos=False, tuning_steps=0)
    assert said["recipe"] == recipe.to_json()
    assert said["model"] == exported.model.name
    assert said["versions"]["resq-onnx"] == resq_onnx.__version__
    assert said["versions"]["torch"] == torch.__version__
    assert said["parity"]["float"]["relative_error"] < FLOAT_TOLERANCE
    assert said["parity"]["decode"].keys() == said["parity"]["float"].keys()
    assert said["bytes"]["graph"] == exported.out.stat().st_size
    assert said["bytes"]["data"] == exported.data.stat().st_size
    assert said["bytes"]["total"] == said["bytes"]["graph"] + said["bytes"]["data"]
    tensors = {id(p): p.numel() for p in exported.original.parameters()}
    assert said["bytes"]["source_float32"] == 4 * sum(tensors.values())


def test_a_layer_of_the_file_is_six_nodes(exported: Exported) -> None:
    """Once a runtime has folded what is constant: the Cast of U_C, the tables of RoPE."""
    operators, layers = inspect_model(exported.out).operators, SIZES["num_hidden_layers"]
    ours = {name: count for name, count in operators.items() if name.startswith("ai.resq.")}
    shared = exported.source.tied  # then a norm and a product come before lm_head
    assert ours == {
        "ai.resq.MixedPrecisionGather": 1,
        "ai.resq.MixedPrecisionMatMul": 4 * layers + 1,  # lm_head is one more
        "ai.resq.MixedPrecisionAttention": layers,
        "ai.resq.GatedHadamard": layers,
    }
    around = {"RMSNormalization": 1, "MatMul": 1} if shared else {}
    folded = {"Cast": layers + 1 + shared, "Range": 1, "Unsqueeze": 1, "Mul": 1, "Cos": 1, "Sin": 1}
    assert operators == ours | around | folded


def test_no_file_names_the_machine_it_was_made_on(exported: Exported) -> None:
    for name, content in contents(exported.out.parent).items():
        assert str(exported.model.parent).encode() not in content, name
        assert str(Path(resq_onnx.__file__).parent).encode() not in content, name


def test_a_plain_session_runs_the_file_with_its_packed_cache(exported: Exported) -> None:
    """Neither a library of ours nor an option: prefill, then one token with the cache."""
    onnx.checker.check_model(exported.out)
    session = onnxruntime.InferenceSession(exported.out, providers=["CPUExecutionProvider"])
    kinds = {entry.name: entry.type for entry in session.get_inputs()}
    heads, head_dim = SIZES["num_key_value_heads"], SIZES["head_dim"]
    record = (head_dim - 2) // 2 + 2 + 6  # low values, high values, scales and zero points
    empty = np.zeros((1, heads, 0, record), np.uint8)
    caches = {name: empty for name in kinds if name.startswith("past_key_values")}
    assert {kinds[name] for name in caches} == {"tensor(uint8)"}
    assert len(caches) == 2 * SIZES["num_hidden_layers"]

    ids = token_ids(exported.out.parent)[:1]
    names = ["logits", *(name.replace("past_key_values", "present") for name in caches)]
    _, *presents = session.run(names, feeds(ids[:, :-1], 0) | caches)
    caches = dict(zip(caches, presents, strict=True))
    logits, *_ = session.run(names, feeds(ids[:, -1:], WINDOW - 1) | caches)

    one_pass = prefill(exported.out, ids)
    divergence = compare(one_pass[:, -1:], logits, ids[:, -1:]).kl_divergence
    assert divergence < quantisation_divergence(exported, ids, one_pass)


def feeds(ids: NDArray[np.int64], past: int) -> dict[str, NDArray[Any]]:
    total = past + ids.shape[1]
    return {
        "input_ids": ids,
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(past, total)[None],
    }


def test_cached_decode_agrees_with_prefill(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    decoder = Decoder(create_session(exported.out))
    one_pass, _ = decoder.run(ids)
    divergence = compare(one_pass, decode_logits(decoder, ids), ids).kl_divergence
    assert divergence < quantisation_divergence(exported, ids, one_pass)


@pytest.mark.parametrize("kernels", [False, True], ids=["functions", "kernels"])
@pytest.mark.parametrize("file", ["out", "rotated"])
def test_a_fixed_buffer_gives_what_concatenation_gives(
    exported: Exported, file: str, kernels: bool
) -> None:
    """Packed records and float caches; whole prompts, portions of them, single tokens."""
    session = create_session(getattr(exported, file), threads=1, kernels=kernels)
    ids = token_ids(exported.out.parent, windows=2)
    buffered, plain, state = BufferedDecoder(session, 2 * WINDOW, batch=2), Decoder(session), None
    for start, end in ((0, 20), (20, 21), (21, 22), (22, 30), (30, 32)):
        found = buffered.run(ids[:, start:end])
        logits, state = plain.run(ids[:, start:end], state)
        np.testing.assert_array_equal(found, logits[:, -1])


def test_the_quantised_model_is_near_the_original(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    expected = torch_logits(exported.original, ids)
    found = prefill(exported.out, ids)
    correlation = np.corrcoef(expected.ravel(), found.ravel())[0, 1]
    assert correlation > 0.9  # random weights have no redundancy; a wrong fold gives about 0
    assert not np.array_equal(expected, found)


def test_the_rotated_model_has_the_logits_of_the_original(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    expected = torch_logits(exported.original, ids)
    assert compare(expected, prefill(exported.rotated, ids), ids).relative_error < FLOAT_TOLERANCE
