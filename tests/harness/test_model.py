"""What lm_eval sees: texts become tokens, tokens become what it asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import ExportedModel, Windowing, evaluate_models
from resq_onnx.evaluation.perplexity import token_losses
from resq_onnx.harness.model import ResqOnnx
from resq_onnx.runtime import Decoder
from tests.harness.conftest import POSITIONS, instance

PAIRS: Final = [
    ("A compound statement", " contains other"),
    ("A compound statement", " affects the execution"),
    ("The statement ", "is compound"),
    ("", "Statements"),
]
"""The third context ends in a space, which belongs to the continuation's first token."""


def pieces(model: ResqOnnx, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Context and continuation as tokens: those of the whole text, cut after the context's."""
    if not context:
        return [model.prefix_token_id], model.tok_encode(continuation)
    head = model.tok_encode(context.rstrip())
    return head, model.tok_encode(context + continuation)[len(head) :]


def test_log_likelihoods_are_those_of_the_sessions_logits(
    model: ResqOnnx, decoder: Decoder
) -> None:
    requests = [instance("loglikelihood", *pair) for pair in PAIRS]
    found = model.loglikelihood(requests, disable_tqdm=True)
    for (context, continuation), (log_likelihood, greedy) in zip(PAIRS, found, strict=True):
        head, tail = pieces(model, context, continuation)
        logits = decoder.run(np.array([head + tail]))[0][0, len(head) - 1 : -1]
        losses = token_losses(logits, np.array(tail))
        assert log_likelihood == -float(losses.sum())
        assert greedy == (logits.argmax(axis=1).tolist() == tail)


@pytest.mark.parametrize("windows", [1, 3])
def test_a_rolling_log_likelihood_is_what_evaluate_finds(
    exported: Path, decoder: Decoder, windows: int
) -> None:
    """Where both predict the same: after BOS, in windows that share one token."""
    length = 16
    model = ResqOnnx(str(exported), threads=1, max_length=length)
    ids = model.tok_encode("A compound statement contains other statements. " * 20)
    text = model.tokenizer.decode(ids[: windows * length])
    ids = model.tok_encode(text)
    assert len(ids) == windows * length
    (found,) = model.loglikelihood_rolling([instance("loglikelihood_rolling", text)], True)
    (evaluation,) = evaluate_models(
        [ExportedModel(decoder)], [model.prefix_token_id, *ids], Windowing(length + 1, length)
    )
    result = evaluation.perplexity
    assert (result.windows, result.tokens) == (windows, len(ids))
    assert found == pytest.approx(-result.nll * result.tokens, rel=1e-9)


def test_rolling_log_likelihoods_are_one_for_each_text(model: ResqOnnx) -> None:
    texts = ["A statement.", "", "A statement. " * 100]
    requests = [instance("loglikelihood_rolling", text) for text in texts]
    found = model.loglikelihood_rolling(requests, disable_tqdm=True)
    alone = [model.loglikelihood_rolling([request], True)[0] for request in requests]
    assert found == alone
    assert found[1] == 0.0
    assert found[2] < found[0] < 0.0


def test_answers_end_at_their_stop_strings(model: ResqOnnx) -> None:
    options = {"until": [], "max_gen_toks": 20}
    prompt = "A compound statement"
    (whole,) = model.generate_until([instance("generate_until", prompt, options)], True)
    stop = whole[5:8]
    stopping = instance("generate_until", prompt, options | {"until": [stop]})
    assert model.generate_until([stopping], True) == [whole[: whole.find(stop)]]
    assert options["until"] == []


def test_one_question_asked_twice_is_answered_by_two_draws(model: ResqOnnx) -> None:
    options = {"until": [], "max_gen_toks": 20, "temperature": 5.0}
    request = instance("generate_until", "A compound statement", options)
    one, other = model.generate_until([request, request], True)
    assert one != other


def test_messages_are_written_with_the_models_chat_template(model: ResqOnnx) -> None:
    history = [{"role": "user", "content": "Hi"}]
    assert model.apply_chat_template(history) == "<s>user\nHi</s>\n<s>assistant\n"
    assert model.chat_template(True) == model.tokenizer.chat_template
    assert model.chat_template(False) is None
    with pytest.raises(ResqError, match="'rag': the model has one alone"):
        model.chat_template("rag")


def test_an_answer_that_is_begun_stays_open(model: ResqOnnx) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I say"}]
    open_ended = model.apply_chat_template(history, add_generation_prompt=False)
    assert open_ended == "<s>user\nHi</s>\n<s>assistant\nI say"


def test_special_tokens_in_a_chat_are_single_tokens(model: ResqOnnx) -> None:
    ids = model.tok_encode(model.apply_chat_template([{"role": "user", "content": "Hi"}]))
    bos, eos = model.prefix_token_id, model.eot_token_id
    assert (bos, eos) == (1, 2)
    assert (ids.count(bos), ids.count(eos)) == (2, 1)


def test_cached_requests_are_kept_under_a_name_without_slashes(
    model: ResqOnnx, exported: Path
) -> None:
    assert "/" not in model.tokenizer_name
    assert model.tokenizer_name.endswith(f"__{exported.parent.name}")
    assert exported.parent.parent.name in model.tokenizer_name


def test_the_model_reads_as_many_tokens_as_it_has_positions(model: ResqOnnx) -> None:
    assert model.max_length == POSITIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": POSITIONS + 1}, r"max_length is 129; this model reads 1 to 128 tokens"),
        ({"max_length": 0}, r"max_length is 0"),
    ],
)
def test_an_argument_that_the_model_cannot_follow_is_refused(
    exported: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ResqError, match=message):
        ResqOnnx(str(exported), threads=1, **arguments)


def test_a_file_without_its_config_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        (tmp_path / name).symlink_to(exported.with_name(name))
    with pytest.raises(ResqError, match=r"config\.json: cannot be read .* beside the model"):
        ResqOnnx(str(tmp_path / "model.onnx"), threads=1)
