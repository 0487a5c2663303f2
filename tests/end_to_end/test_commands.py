"""The commands on an exported file: text, a chat, perplexity; and what they need installed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from tests.command_line import error_line, run, run_process, run_successfully
from tests.end_to_end.tiny import Exported
from tests.end_to_end.tiny_text import TEXT, WINDOW, token_ids, torch_logits
from tests.serving.served import CHAT, HELLO, served

NOISE: Final = 0.25
"""Relative: what one flipped bit in the cache can do to the perplexity of a model so small, on a
text so short."""

PERPLEXITY_TOLERANCE: Final = 1e-4
"""Relative: rotating a model changes its perplexity by less than 0.01 %."""

BLOCK_TORCH: Final = "import sys\n" + "\n".join(
    f"sys.modules['{name}'] = None"
    for name in ("torch", "transformers", "onnxscript", "accelerate", "datasets", "gguf")
)
"""Code that makes the packages of the `export` extra impossible to import."""


def test_generate_continues_a_text_greedily(exported: Exported) -> None:
    printed = run_successfully(
        "generate", exported.out, "--prompt", "A compound", "--max-new-tokens", "6"
    ).stdout
    tokenizer = Tokenizer.load(exported.out.parent)
    session = create_session(exported.out)
    ids = tokenizer.encode("A compound")
    tokens = list(
        generate(BufferedDecoder(session, len(ids) + 6), ids, 6, stop_ids=tokenizer.stop_ids)
    )
    assert printed == "A compound" + tokenizer.decode(tokens) + "\n"
    assert tokens[0] == Decoder(session).run(np.array([ids]))[0][0, -1].argmax()


def test_generate_answers_by_the_chat_template(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "Why?", "--max-new-tokens", "6")
    answer = run_successfully(*asked, "--chat").stdout
    assert "Why?" not in answer
    assert answer != run_successfully(*asked).stdout


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_speculating_gives_the_same_text(exported: Exported, temperature: float) -> None:
    asked = ("generate", exported.out, "--prompt", TEXT[:200] * 2, "--max-new-tokens", 60)
    sampling = ("--temperature", temperature, "--seed", 5)
    plain = run_successfully(*asked, *sampling)
    guessing = run_successfully(*asked, *sampling, "--speculate", 6)
    assert guessing.stdout == plain.stdout
    said = re.match(r"guessed (\d+) tokens, (\d+) were right\n", guessing.stderr)
    assert said
    assert (
        int(said[1]) > 0 or temperature
    )  # a drawn text may have nothing in common with the prompt


def test_a_draft_gives_the_same_text(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "A compound", "--max-new-tokens", 40)
    plain = run_successfully(*asked)
    guessing = run_successfully(*asked, "--draft", exported.out)
    assert guessing.stdout == plain.stdout
    said = re.match(r"guessed (\d+) tokens, (\d+) were right\n", guessing.stderr)
    assert said
    assert int(said[1]) == int(said[2]) > 20
    refused = run(*asked, "--draft", exported.out, "--speculate", 0)
    assert "leave out one of them" in error_line(refused.stderr)


def test_speculating_is_refused_where_the_text_could_be_another(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "A", "--speculate", 2)
    assert "the text could be another one" in error_line(run(*asked, "--no-kernels").stderr)


def test_the_same_seed_draws_the_same_text(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "A", "--temperature", "2", "--seed")
    texts = [run_successfully(*asked, seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_evaluate_finds_the_original_perplexity_in_the_rotated_model(
    exported: Exported, text: Path
) -> None:
    printed = run_successfully(
        *("evaluate", exported.rotated, exported.out, "--text", text, "--json"),
        *("--window", WINDOW, "--max-windows", 4),
    ).stdout
    found = {name: row["perplexity"] for name, row in json.loads(printed)["models"].items()}
    ids = token_ids(exported.out.parent)
    logits = torch_logits(exported.original, ids)
    loss = sum(
        negative_log_likelihood(rows[:-1], targets[1:])
        for rows, targets in zip(logits, ids, strict=True)
    )
    original = np.exp(loss / ids[:, 1:].size)
    assert found[str(exported.rotated)] == pytest.approx(original, rel=PERPLEXITY_TOLERANCE)
    assert found[str(exported.out)] != pytest.approx(original, rel=PERPLEXITY_TOLERANCE)


def test_evaluate_finds_the_same_perplexity_token_by_token(exported: Exported, text: Path) -> None:
    asked = ("evaluate", exported.out, "--text", text, "--json", "--window", WINDOW)
    ways = [
        json.loads(run_successfully(*asked, "--max-windows", 2, *more).stdout)
        for more in ([], ["--token-by-token"])
    ]
    assert [way["way"] for way in ways] == ["one pass", "token by token"]
    one_pass, token_by_token = (way["models"][str(exported.out)] for way in ways)
    assert token_by_token["tokens"] == one_pass["tokens"] == 2 * (WINDOW - 1)
    assert token_by_token["perplexity"] == pytest.approx(one_pass["perplexity"], rel=NOISE)


def test_running_a_model_needs_nothing_of_the_export_extra(
    exported: Exported, text: Path, tmp_path: Path
) -> None:
    for command in (
        ["generate", exported.out, "--prompt", "A", "--max-new-tokens", "2"],
        ["evaluate", exported.out, "--text", text, "--window", WINDOW],
        [
            *("evaluate", exported.out, "--text", text, "--window", WINDOW, "--max-windows", "1"),
            *("--per-layer", "--reference", exported.rotated),
        ],
        ["inspect", exported.out],
        ["bench", exported.out, "--prompt-tokens", "4", "--new-tokens", "2", "--repeat", "1"],
        ["report", exported.out, "--out", tmp_path / "page.html"],
    ):
        result = run_process(*command, before=BLOCK_TORCH)
        assert result.returncode == 0, result.stderr
    with served(exported.out, tmp_path / "log.txt", before=BLOCK_TORCH) as server:
        asked = {"messages": HELLO, "max_tokens": 2}
        assert server.post(CHAT, asked)[0] == 200
