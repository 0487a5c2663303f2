"""The command generate: continue a text with an exported model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resq_onnx.cli.console import log, print_line
from resq_onnx.cli.options import session_options
from resq_onnx.errors import ResqError

if TYPE_CHECKING:
    from resq_onnx.runtime.tokenizer import Tokenizer

MOST_GUESSES = 15
"""Guesses at a time: with the token before them 16 rows, which take SmolLM2 3.7 times as long as
one on AVX-512."""


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to continue, or with --chat a question.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template to the prompt.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=100)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0)
@click.option("--seed", type=int, default=0)
@click.option("--speculate", type=click.IntRange(0, MOST_GUESSES), default=0, metavar="N",
              help="Guess up to N tokens from the text so far and check them together: the same "
                   "text, faster where it repeats itself.")  # fmt: skip
@session_options
def generate(
    model: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int,
    speculate: int,
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
    from resq_onnx.runtime.guessing import Guesser
    from resq_onnx.runtime.positions import positions_of
    from resq_onnx.runtime.providers import CPU
    from resq_onnx.runtime.session import create_session
    from resq_onnx.runtime.signature import steps_do_not_matter
    from resq_onnx.runtime.tokenizer import Tokenizer

    path = find_model(model)
    tokenizer, positions = Tokenizer.load(path.parent), positions_of(path.parent)
    ids = _prompt_ids(tokenizer, prompt, chat)
    limit = _limit(len(ids), max_new_tokens, positions)
    session = create_session(path, threads, provider=provider, kernels=not no_kernels)
    guesser = Guesser(speculate) if speculate else None
    if guesser and (no_kernels or provider != CPU or not steps_do_not_matter(session)):
        raise ResqError(
            f"{path}: with --speculate the text could be another one: only our kernels on the CPU, "
            "running a model quantised in weights, activations and cache, compute the same for one "
            "token as for several; leave out the option"
        )
    try:
        decoder = BufferedDecoder(session, len(ids) + limit)
    except MemoryError:
        raise ResqError(
            f"there is no memory for a cache of {len(ids) + limit} tokens; give a smaller "
            f"--max-new-tokens"
        ) from None
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
