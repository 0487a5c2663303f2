"""Every family through the whole line: from a tiny model directory to greedy text.

transformers' own class is what each exported file is compared with. Windows are shorter than the
text, and some layers have no RoPE, where a family knows such things.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import QUICK, run_successfully
from tests.end_to_end.tiny_text import WINDOW, prefill, token_ids, torch_logits
from tests.tiny_models import write_model

KINDS: Final = {
    "llama_with_wide_heads": False,
    "qwen2_yarn": True,
    "mistral": False,
    "mistral_without_window": True,
    "qwen3": True,
    "qwen3_with_windows": False,
    "smollm3": True,
    "phi3_partly_rotary": False,
    "phi3_longrope": True,
    "gemma2": True,
    "gemma3": False,
    "gemma3_vl": False,
    "qwen2_vl": True,
    "qwen2_5_vl": False,
}
"""By kind, whether the embedding is tied."""

PROMPT: Final = "A compound statement contains other statements; they affect"
"""Longer than the windows."""

NEW_TOKENS: Final = 8


@dataclass(frozen=True)
class Exported:
    """A tiny model, its file, and the float file beside it."""

    original: PreTrainedModel
    out: Path
    rotated: Path

    @property
    def ids(self) -> NDArray[np.int64]:
        return token_ids(self.out.parent)


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    original = write_model(folder / "model", request.param, tied=KINDS[request.param])
    out, rotated = folder / "out" / "a.onnx", folder / "out" / "b.onnx"
    run_successfully("export", folder / "model", out, *QUICK, "--save-rotated", rotated)
    return Exported(original, out, rotated)


def test_the_float_file_has_the_logits_of_transformers(exported: Exported) -> None:
    ids = exported.ids
    found = compare(torch_logits(exported.original, ids), prefill(exported.rotated, ids), ids)
    assert found.relative_error < FLOAT_TOLERANCE
    said = json.loads((exported.out.parent / "resq.json").read_text())
    assert said["parity"]["float"]["relative_error"] < FLOAT_TOLERANCE


def test_the_float_file_decodes_to_the_logits_of_transformers(exported: Exported) -> None:
    ids = exported.ids[:2]
    decoder = Decoder(create_session(exported.rotated))
    found = compare(torch_logits(exported.original, ids), decode_logits(decoder, ids), ids)
    assert found.relative_error < FLOAT_TOLERANCE


def test_the_quantised_file_is_near_the_original(exported: Exported) -> None:
    expected, found = torch_logits(exported.original, exported.ids), prefill(*_file(exported))
    correlation = np.corrcoef(expected.ravel(), found.ravel())[0, 1]
    assert correlation > 0.9  # random weights have no redundancy; a wrong fold gives about 0
    assert not np.array_equal(expected, found)


def _file(exported: Exported) -> tuple[Path, NDArray[np.int64]]:
    return exported.out, exported.ids


def test_prefill_and_token_by_token_have_equal_bits_with_kernels(exported: Exported) -> None:
    decoder = Decoder(create_session(exported.out))
    ids = exported.ids[:2]
    np.testing.assert_array_equal(decoder.run(ids)[0], decode_logits(decoder, ids))


def test_prefill_and_token_by_token_agree_without_kernels(exported: Exported) -> None:
    """Two draws of the same rounding noise, nearer to each other than to the float model."""
    decoder = Decoder(create_session(exported.out, kernels=False))
    ids = exported.ids
    one_pass = decoder.run(ids)[0]
    noise = compare(torch_logits(exported.original, ids), one_pass, ids).kl_divergence
    assert compare(one_pass, decode_logits(decoder, ids), ids).kl_divergence < noise


def test_a_fixed_buffer_gives_what_concatenation_gives(exported: Exported) -> None:
    session = create_session(exported.out, threads=1)
    buffered, plain, state = BufferedDecoder(session, 2 * WINDOW, batch=2), Decoder(session), None
    for start, end in ((0, 20), (20, 21), (21, 30), (30, 32)):
        found = buffered.run(exported.ids[:2, start:end])
        logits, state = plain.run(exported.ids[:2, start:end], state)
        np.testing.assert_array_equal(found, logits[:, -1])


def test_the_float_file_generates_what_transformers_does(exported: Exported) -> None:
    tokenizer = Tokenizer.load(exported.out.parent)
    prompt = tokenizer.encode(PROMPT)
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        ids.append(int(torch_logits(exported.original, np.array([ids]))[0, -1].argmax()))
    decoder = BufferedDecoder(create_session(exported.rotated), len(ids))
    assert list(generate(decoder, prompt, NEW_TOKENS)) == ids[len(prompt) :]


def test_generate_continues_a_text_greedily(exported: Exported) -> None:
    options: list[Any] = ["--prompt", PROMPT, "--max-new-tokens", NEW_TOKENS]
    printed = run_successfully("generate", exported.out, *options).stdout
    tokenizer, session = Tokenizer.load(exported.out.parent), create_session(exported.out)
    prompt = tokenizer.encode(PROMPT)
    decoder, stops = BufferedDecoder(session, len(prompt) + NEW_TOKENS), tokenizer.stop_ids
    tokens = list(generate(decoder, prompt, NEW_TOKENS, stop_ids=stops))
    assert printed == PROMPT + tokenizer.decode(tokens) + "\n"
    ids = np.array([[*prompt, *tokens]])
    expected = Decoder(session).run(ids)[0].argmax(-1)[0, len(prompt) - 1 : -1]
    assert tokens == expected.tolist()
