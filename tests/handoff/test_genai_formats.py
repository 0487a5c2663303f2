"""onnxruntime-genai with files of each format, and of ours with activations in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime_genai as og
import pytest

from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from tests.command_line import run_successfully
from tests.handoff.genai import begin

FORMATS: Final = {
    "portable": ("--format", "qdq"),
    "contrib": ("--format", "contrib"),
    "contrib, cache in 8 bits": ("--format", "contrib", "--cache", "int8"),
    "contrib, cache in float16": ("--format", "contrib", "--cache", "float16"),
    "web": ("--format", "web"),
    "activations in float16": ("--dtype", "float16"),
}
OURS: Final = "activations in float16"
"""The one that needs our library; in float32 it is what test_genai.py looks at."""

NEW: Final = 16
MAX_LENGTH: Final = 64


@pytest.fixture(scope="module", params=FORMATS)
def exported(
    request: pytest.FixtureRequest,
    tiny_model: Path,
    projections: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """In each format in turn."""
    out = tmp_path_factory.mktemp("formats") / "model.onnx"
    options = ("--target", "genai", "--projections", projections, "--weights", "rtn")
    run_successfully("export", tiny_model, out, *options, *FORMATS[request.param])
    assert bool(list(out.parent.glob("*.so"))) == (request.param == OURS)
    return out


NEAR_TIE = 1e-3
"""Of the largest logit: two sessions that fold weights differently add float sums in another
order, which may change which of two such tokens is the likelier."""


@pytest.mark.parametrize("shared", [True, False], ids=["shared buffer", "concatenation"])
def test_greedy_tokens_are_those_of_our_session(exported: Path, shared: bool) -> None:
    ids = Tokenizer.load(exported.parent).encode("A compound statement contains other statements")
    decoder = BufferedDecoder(create_session(exported), MAX_LENGTH)
    expected = [*ids, *generate(decoder, ids, NEW)]
    generator = begin(
        og.Model(str(exported.parent)),
        [ids],
        max_length=len(ids) + NEW,
        past_present_share_buffer=shared,
        do_sample=False,
    )
    while not generator.is_done():
        generator.generate_next_token()
    found = generator.get_sequence(0).tolist()
    assert len(found) > len(ids) + 1
    if found == expected[: len(found)]:
        return
    place = int(np.argmin(np.equal(found, expected[: len(found)])))
    logits = Decoder(create_session(exported)).run(np.array([found[:place]]))[0][0, -1]
    gap = logits[expected[place]] - logits[found[place]]
    assert place >= len(ids)
    assert gap < NEAR_TIE * np.abs(logits).max()
