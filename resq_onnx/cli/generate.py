"""The command generate: continue a text with an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.cli.console import out
from resq_onnx.cli.options import session_options


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to continue, or with --chat a question.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template to the prompt.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=100)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0)
@click.option("--seed", type=int, default=0)
@session_options
def generate(
    model: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int,
    threads: int | None,
    no_kernels: bool,
    provider: str,
    **sampling: Any,
) -> None:
    """Continue a text with an exported model, token by token."""
    from resq_onnx.runtime.buffered import BufferedDecoder
    from resq_onnx.runtime.generation import generate as generate_tokens
    from resq_onnx.runtime.session import create_session
    from resq_onnx.runtime.tokenizer import Tokenizer

    session = create_session(model, threads, provider=provider, kernels=not no_kernels)
    tokenizer = Tokenizer.load(model.parent)
    if chat:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(prompt)
    decoder = BufferedDecoder(session, len(ids) + max_new_tokens)
    tokens = generate_tokens(decoder, ids, max_new_tokens, stop_ids=tokenizer.stop_ids, **sampling)
    if not chat:
        out.print(prompt, end="", markup=False, highlight=False, soft_wrap=True)
    for piece in tokenizer.stream(tokens):
        out.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    out.print()
