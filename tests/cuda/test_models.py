"""Whole models on a GPU against the CPU: prefill, decode, a shared buffer, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.runtime import BufferedDecoder, Decoder
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import run_successfully
from tests.cuda.models import (
    REAL_NOISE,
    Exported,
    Logits,
    TokenIds,
    assert_near,
    assert_within,
)
from tests.custom_ops.texts import text_ids
from tests.tiny_exports import TinyExports

LENGTH: Final = 32
PROMPT: Final = 9

CASES: Final = [
    ("llama", "float32"),
    ("qwen2", "float32"),
    ("llama", "float16"),
    ("qwen2", "float16"),
    ("llama", "bfloat16"),
]
"""Kinds of models, with and without biases, and types of their activations."""


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def tiny(request: pytest.FixtureRequest, tiny_exports: TinyExports) -> Exported:
    """A model of two layers."""
    kind, dtype = request.param
    model = tiny_exports.model(kind, tied=kind == "llama")
    out = model.export("--dtype", dtype, rotated=True)
    return Exported(out, out.with_name("float.onnx"), dtype)


def in_buffer(session: Any, ids: TokenIds, prompt: int) -> Logits:
    """Logits after a prompt at once, and after each token that follows."""
    decoder = BufferedDecoder(session, ids.shape[1] + 3, batch=len(ids))
    logits = [decoder.run(ids[:, :prompt]).copy()]
    for place in range(prompt, ids.shape[1]):
        logits.append(decoder.run(ids[:, place : place + 1]).copy())
    return np.stack(logits, axis=1)


def test_one_pass_is_that_of_the_cpu(tiny: Exported, provider: str) -> None:
    ids = text_ids(tiny.path, 2, LENGTH)
    assert_near(Decoder(tiny.open(provider)).run(ids)[0], tiny, ids)


def test_token_by_token_by_concatenation_is_that_of_the_cpu(tiny: Exported, provider: str) -> None:
    ids = text_ids(tiny.path, 2, LENGTH)
    assert_near(decode_logits(Decoder(tiny.open(provider)), ids), tiny, ids)


@pytest.mark.parametrize("prompt", [1, PROMPT])
def test_token_by_token_in_one_buffer_is_that_of_the_cpu(
    tiny: Exported, provider: str, prompt: int
) -> None:
    ids = text_ids(tiny.path, 2, LENGTH)
    found = in_buffer(tiny.open(provider), ids, prompt)
    assert_near(found, tiny, ids, start=prompt - 1)


def test_padding_on_the_left_is_not_seen(tiny: Exported, provider: str) -> None:
    ids = text_ids(tiny.path, 2, LENGTH)
    padded = np.concatenate([np.full((2, 5), 7), ids], axis=1)
    mask = np.ones_like(padded)
    mask[:, :5] = 0
    found, _ = Decoder(tiny.open(provider)).run(padded, attention_mask=mask)
    assert_near(found[:, 5:], tiny, ids)


def test_a_decoder_forgets_and_begins_anew(tiny: Exported, provider: str) -> None:
    ids = text_ids(tiny.path, 1, LENGTH)
    decoder = BufferedDecoder(tiny.open(provider), LENGTH)
    first = decoder.run(ids).copy()
    decoder.rewind(PROMPT)
    decoder.run(ids[:, ::-1][:, :5].copy())
    decoder.reset()
    np.testing.assert_array_equal(decoder.run(ids), first)


def test_the_commands_run_there(tiny: Exported, provider: str, tmp_path: Path) -> None:
    if tiny.dtype == "bfloat16" and provider == "cpu":
        pytest.skip("there are no kernels for bfloat16 on CPUs")
    there = ("--provider", provider)
    spoken = ("--prompt", "A compound", "--max-new-tokens", 6)
    printed = run_successfully("generate", tiny.path, *spoken, *there).stdout
    assert printed.startswith("A compound")
    text = tmp_path / "text.txt"
    text.write_text("A compound statement contains other statements. " * 20)
    read = ("--text", text, "--window", LENGTH, "--max-windows", 2, "--json")
    printed = run_successfully("evaluate", tiny.path, *read, *there).stdout
    (row,) = json.loads(printed)["models"].values()
    assert 1 < row["perplexity"] < np.inf
    sizes = ("--prompt-tokens", 40, "--new-tokens", 4, "--repeat", 2)
    found = json.loads(run_successfully("bench", tiny.path, *sizes, "--json", *there).stdout)
    assert found["workload"]["provider"] == provider
    assert found["models"][0]["decode_tokens_per_second"] > 0
    assert (found["machine"]["gpu"] is not None) == (provider == "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_real_model_is_that_of_the_cpu(dtype: str, smollm2: Path, tmp_path: Path) -> None:
    check_real_model(smollm2, tmp_path, dtype, "cuda")


def check_real_model(model: Path, folder: Path, dtype: str, provider: str) -> None:
    """One pass, and decode in a buffer after a prompt."""
    exported = Exported(folder / "model.onnx", folder / "float.onnx", dtype)
    quick = ("--samples", 1, "--sequence-length", 64, "--weights", "rtn")
    run_successfully(
        *("export", model, exported.path, *quick, "--dtype", dtype),
        *("--save-rotated", exported.rotated),
    )
    ids = text_ids(exported.path, 2, 96)
    session = exported.open(provider)
    assert_within(REAL_NOISE, Decoder(session).run(ids)[0], exported, ids)
    assert_within(REAL_NOISE, in_buffer(session, ids, 64), exported, ids, start=63)
