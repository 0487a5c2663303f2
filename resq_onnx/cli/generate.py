"""The command generate: continue a text with an exported model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resq_onnx.cli.console import log, print_line
from resq_onnx.cli.options import session_options
from resq_onnx.cli.speculation import guesses_at_a_time, speculation_options
from resq_onnx.errors import ResqError

if TYPE_CHECKING:
    import onnxruntime

    from resq_onnx.runtime.buffered import BufferedDecoder
    from resq_onnx.runtime.guessing import TokenGuesser
    from resq_onnx.runtime.tokenizer import Tokenizer


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to continue, or with --chat a question.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template to the prompt.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=100)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0)
@click.option("--seed", type=int, default=0)
@speculation_options
@session_options
def generate(
    model: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int,
    speculate: int | None,
    draft: Path | None,
    threads: int | None,
    no_kernels: bool,
    provider: str,
    **sampling: Any,
) -> None:
    """Continue a text with an exported model, token by token.

    FOLDER is one that export wrote, or the .onnx file in it. A text ends where the model says so,
    after --max-new-tokens, or at the model's last position.
    """
    from resq_onnx.files import find_model
    from resq_onnx.runtime.buffered import BufferedDecoder
    from resq_onnx.runtime.generation import generate as generate_tokens
    from resq_onnx.runtime.positions import positions_of
    from resq_onnx.runtime.session import create_session
    from resq_onnx.runtime.tokenizer import Tokenizer

    guesses = guesses_at_a_time(speculate, draft)
    path = find_model(model)
    tokenizer, positions = Tokenizer.load(path.parent), positions_of(path.parent)
    ids = _prompt_ids(tokenizer, prompt, chat)
    limit = _limit(len(ids), max_new_tokens, positions)
    session = create_session(path, threads, provider=provider, kernels=not no_kernels)
    try:
        decoder = BufferedDecoder(session, len(ids) + limit)
    except MemoryError:
        raise ResqError(
            f"there is no memory for a cache of {len(ids) + limit} tokens; give a smaller "
            f"--max-new-tokens"
        ) from None
    guesser = None
    if guesses:
        _check_checkable(path, session, not no_kernels and provider == "cpu")
        guesser = _guesser(decoder, tokenizer, guesses, draft, threads)
    sampling |= {"stop_ids": tokenizer.stop_ids, "guesser": guesser}
    tokens = generate_tokens(decoder, ids, limit, **sampling)
    made: list[int] = []
    if not chat:
        print_line(prompt, end="")
    try:
        for piece in tokenizer.stream(_noted(tokens, made)):
            print_line(piece, end="")
    finally:
        print_line("")
    if guesser:
        print_line(f"guessed {guesser.guessed} tokens, {guesser.right} were right", to=log)
    if len(made) == limit < max_new_tokens:
        print_line(f"stopped: the model has {positions} positions", to=log)


def _check_checkable(path: Path, session: onnxruntime.InferenceSession, on_kernels: bool) -> None:
    """Refuse to guess where the text could be another one."""
    from resq_onnx.runtime.signature import steps_do_not_matter

    if not on_kernels or not steps_do_not_matter(session):
        raise ResqError(
            f"{path}: with --speculate the text could be another one: only our kernels on the CPU, "
            "running a model quantised in weights, activations and cache, compute the same for one "
            "token as for several; leave out --speculate and --draft"
        )


def _guesser(
    decoder: BufferedDecoder,
    tokenizer: Tokenizer,
    guesses: int,
    draft: Path | None,
    threads: int | None,
) -> TokenGuesser:
    """What guesses the tokens of a text."""
    from resq_onnx.files import find_model
    from resq_onnx.runtime.draft import DraftGuesser, open_draft
    from resq_onnx.runtime.guessing import Guesser

    if draft is None:
        return Guesser(guesses)
    vocabulary, length = decoder.signature.vocabulary or 0, decoder.max_length
    opened = open_draft(find_model(draft), tokenizer, vocabulary, 1, length, threads)
    return DraftGuesser(opened, guesses)


def _prompt_ids(tokenizer: Tokenizer, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return tokenizer.encode(prompt)
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
    return tokenizer.encode(text, add_special_tokens=False)


def _limit(prompt_tokens: int, max_new_tokens: int, positions: int | None) -> int:
    """New tokens at most: the last one takes no position, as nothing is predicted from it."""
    if positions is None:
        return max_new_tokens
    if prompt_tokens > positions:
        raise ResqError(
            f"the prompt has {prompt_tokens} tokens, and the model {positions} positions; shorten "
            f"the prompt"
        )
    return min(max_new_tokens, positions - prompt_tokens + 1)


def _noted(tokens: Iterable[int], made: list[int]) -> Iterator[int]:
    for token in tokens:
        made.append(token)
        yield token
