"""`--max-length`: an exported model has the positions, and LongRoPE's factors, of one length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.handoff.genai import genai_config
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import QUICK, error_line, repeatable, run, run_successfully
from tests.end_to_end.tiny_text import prefill, torch_logits
from tests.tiny_models import LONGROPE, ORIGINAL, SIZES, write_model
from tests.tracing.torch_onnx import export_with_cache

LENGTH: Final = 200
"""More tokens than the original positions, fewer than the model has in all."""

ALL_ROTARY: Final = LONGROPE | {
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
}
"""As Phi-3.5's."""

PHI35: Final[dict[str, Any]] = {"tied": False, "rope_parameters": ALL_ROTARY}
PHI4_MINI: Final[dict[str, Any]] = {"tied": True}
QWEN_CARD: Final[dict[str, Any]] = {"tied": True, "max_position_embeddings": ORIGINAL}
"""As Qwen2.5's card has YaRN: config.json says how many positions there were without it."""

CASES: Final[dict[str, tuple[str, dict[str, Any], int | None, int]]] = {
    "Phi-3.5, short": ("phi3_longrope", PHI35, None, ORIGINAL),
    "Phi-3.5, long": ("phi3_longrope", PHI35, LENGTH, LENGTH),
    "Phi-4-mini, short": ("phi3_longrope", PHI4_MINI, ORIGINAL, ORIGINAL),
    "Phi-4-mini, long": ("phi3_longrope", PHI4_MINI, LENGTH, LENGTH),
    "YaRN": ("qwen2_yarn", QWEN_CARD, LENGTH, LENGTH),
    "Llama": ("llama3", {"tied": False}, 100, 100),
    "Gemma 3 with images": ("gemma3_vl", {"tied": True}, 100, 100),
}
"""Kind of model, what it says, `--max-length`, and the positions that are then there."""


@dataclass(frozen=True)
class Exported:
    """A tiny model, its file with the float file beside it, and how many positions they have."""

    original: PreTrainedModel
    out: Path
    length: int
    stderr: str

    @property
    def rotated(self) -> Path:
        return self.out.with_name("float.onnx")

    @property
    def summary(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((self.out.parent / "resq.json").read_text())
        return said


def length_option(max_length: int | None) -> list[object]:
    return [] if max_length is None else ["--max-length", max_length]


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    kind, said, max_length, length = CASES[request.param]
    top = tmp_path_factory.mktemp(kind)
    original = write_model(top / "model", kind, **said)
    out = top / "out" / "model.onnx"
    rotated = ("--save-rotated", out.with_name("float.onnx"))
    command = ("export", top / "model", out, *QUICK, *rotated, *length_option(max_length))
    return Exported(original, out, length, run_successfully(*command).stderr)


def tokens(count: int, texts: int = 2) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(3, SIZES["vocab_size"], (texts, count))


def test_a_text_of_that_length_has_the_logits_of_transformers(exported: Exported) -> None:
    ids = tokens(exported.length)
    expected = torch_logits(exported.original, ids)
    found = prefill(exported.rotated, ids)
    assert compare(expected, found, ids).relative_error < FLOAT_TOLERANCE


def test_token_by_token_it_has_the_logits_of_transformers(exported: Exported) -> None:
    ids = tokens(exported.length)
    expected = torch_logits(exported.original, ids)
    found = decode_logits(Decoder(create_session(exported.rotated)), ids)
    assert compare(expected, found, ids).relative_error < FLOAT_TOLERANCE


def test_the_quantised_file_decodes_that_text_as_it_reads_it(exported: Exported) -> None:
    ids, decoder = tokens(exported.length), Decoder(create_session(exported.out))
    np.testing.assert_array_equal(decoder.run(ids)[0], decode_logits(decoder, ids))


def test_the_tables_have_as_many_rows(exported: Exported) -> None:
    graph = onnx.load(exported.rotated, load_external_data=False).graph
    counts = [
        int(onnx.numpy_helper.to_array(value))
        for value in graph.initializer
        if value.name.endswith(".positions")
    ]
    assert counts
    assert set(counts) == {exported.length}


def test_generate_ends_at_the_last_position(exported: Exported) -> None:
    asked = ("--prompt", "A compound statement", "--max-new-tokens", 1000, "--temperature", 2)
    for seed in range(5):  # until no stop token is drawn
        found = run_successfully("generate", exported.out, *asked, "--seed", seed)
        if found.stderr:
            break
    assert found.stderr == f"stopped: the model has {exported.length} positions\n"


def test_serve_takes_no_longer_texts(exported: Exported) -> None:
    found = run("serve", exported.out, "--max-length", exported.length + 1)
    assert f"and the model has {exported.length} positions" in error_line(found.stderr)


def test_a_genai_configuration_has_that_context(exported: Exported) -> None:
    assert genai_config(exported.out)["model"]["context_length"] == exported.length


def test_the_summary_and_the_card_say_it(exported: Exported) -> None:
    card = (exported.out.parent / "README.md").read_text()
    assert exported.summary["positions"] == exported.length
    assert f"| longest text | {exported.length} tokens" in card
    factors = {ORIGINAL: "short", LENGTH: "long"}.get(exported.length)
    if exported.original.config.model_type == "phi3":
        assert exported.summary["longrope_factors"] == factors
        assert f"LongRoPE's {factors} factors" in card
    else:
        assert "longrope_factors" not in exported.summary
        assert "LongRoPE" not in card


def test_only_a_length_nobody_asked_for_is_told(exported: Exported) -> None:
    is_default = exported.summary["recipe"]["max_length"] is None
    told = f"for texts of {ORIGINAL} tokens, by LongRoPE's short factors; --max-length 256 exports"
    assert (told in exported.stderr) == is_default


def test_the_recipe_repeats_the_length(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "phi3_longrope", tied=True)
    first, again = tmp_path / "first" / "model.onnx", tmp_path / "again" / "model.onnx"
    run_successfully("export", tmp_path / "model", first, *QUICK, "--max-length", LENGTH)
    run_successfully("export", tmp_path / "model", again, "--recipe", first.parent / "resq.json")
    assert repeatable(first.parent) == repeatable(again.parent)
    said = json.loads((again.parent / "resq.json").read_text())
    assert said["recipe"]["max_length"] == said["positions"] == LENGTH


def test_long_factors_apply_to_short_texts_too(tmp_path: Path) -> None:
    """In transformers such a text has the short ones."""
    original = write_model(tmp_path / "model", "phi3_longrope", tied=True)
    out, rotated = tmp_path / "out" / "model.onnx", tmp_path / "out" / "float.onnx"
    command = ("export", tmp_path / "model", out, *QUICK, "--save-rotated", rotated)
    run_successfully(*command, "--max-length", LENGTH)
    long, short = tokens(LENGTH), tokens(LENGTH)[:, :ORIGINAL]
    found = prefill(rotated, short)
    expected = torch_logits(original, long)[:, :ORIGINAL]
    assert compare(expected, found, short).relative_error < FLOAT_TOLERANCE
    assert compare(torch_logits(original, short), found, short).relative_error > 0.1


def test_a_longer_text_than_the_model_can_read_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    out = tmp_path / "out" / "model.onnx"
    found = run("export", tmp_path / "model", out, "--max-length", 257)
    assert "max_length is 257, and the model has 256 positions" in error_line(found.stderr)
    found = run("export", tmp_path / "model", out, "--max-length", 63)
    assert "max_length is 63; it must be at least 64" in error_line(found.stderr)
    assert not out.exists()


def test_projections_serve_all_lengths_with_the_same_factors(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "phi3_longrope", tied=True)
    measured = tmp_path / "p.safetensors"
    run_successfully("calibrate", tmp_path / "model", measured, *QUICK, "--max-length", LENGTH)
    out, known = tmp_path / "out" / "model.onnx", ("--projections", measured)
    run_successfully("export", tmp_path / "model", out, *known, "--max-length", 100)
    found = run("export", tmp_path / "model", out, *known, "--max-length", ORIGINAL)
    line = error_line(found.stderr)
    assert "made for another model, or for other RoPE factors; run resq-onnx calibrate" in line
    assert line.endswith(f"--max-length {ORIGINAL}")


def test_rewrite_takes_the_short_factors_alone(tmp_path: Path) -> None:
    original = write_model(tmp_path / "model", "phi3_longrope", tied=True)
    graph, measured = tmp_path / "float.onnx", tmp_path / "p.safetensors"
    export_with_cache(original, graph)
    run_successfully("calibrate", tmp_path / "model", measured, *QUICK)
    out = tmp_path / "out" / "model.onnx"
    given = ("--projections", measured, "--model", tmp_path / "model")
    found = run("rewrite", graph, out, *given, "--max-length", LENGTH)
    assert "takes LongRoPE's long factors in long texts only" in error_line(found.stderr)
    run_successfully("rewrite", graph, out, *given, "--method", "none")
    ids = tokens(ORIGINAL)
    found_logits = prefill(out, ids)
    expected = torch_logits(original, ids)
    assert compare(expected, found_logits, ids).relative_error < FLOAT_TOLERANCE
