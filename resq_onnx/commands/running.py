"""The commands that take an exported model: generate, bench and inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resq_onnx.commands.console import out, reporting

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def session_options(command: Any) -> Any:
    """The options of everything that runs a model."""
    options = [
        click.option("--threads", type=click.IntRange(min=1), help="Default: one per core."),
        click.option("--no-kernels", is_flag=True,
                     help="Run the functions in the file instead of the compiled operators."),
        click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu",
                     help="Where the model runs; cuda is a GPU, and nothing else in its place."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


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
    from resq_onnx.runtime.generate import generate as generate_tokens
    from resq_onnx.runtime.tokenizer import Tokenizer

    session = _open(model, threads, no_kernels, provider)
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


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option(
    "--against",
    multiple=True,
    metavar="OTHER.onnx",
    type=click.Path(path_type=Path),
    help="Another decoder with the same inputs; may be given several times.",
)
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=512)
@click.option("--new-tokens", type=click.IntRange(min=1), default=128)
@click.option("--repeat", type=click.IntRange(min=1), default=5, help="Turns of each model.")
@session_options
@click.option(
    "--no-spinning",
    is_flag=True,
    help="Let waiting threads sleep, as is better where others need the cores.",
)
@click.option("--json", "as_json", is_flag=True,
              help="Print JSON, with every turn, instead of a table.")  # fmt: skip
def bench(
    model: Path,
    against: tuple[Path, ...],
    repeat: int,
    no_kernels: bool,
    no_spinning: bool,
    as_json: bool,
    **workload: Any,
) -> None:
    """Measure speed, memory and load time, alone or against other files.

    The models run in turns. Prefill is the time from a prompt of random tokens to the logits after
    its last one; decode the time of greedy steps, one token through the model and the choice of
    the next. Both are medians over the turns, in tokens per second. Peak memory and load time are
    those of one more run in a process of its own: memory is all that was resident at once, Python
    and the weights' file included; load time is that of opening the session, without imports. With
    --provider cuda all files run on the GPU, whose memory is not measured.
    """
    from resq_onnx.evaluation.benchmark import benchmark
    from resq_onnx.evaluation.machine import describe_machine
    from resq_onnx.evaluation.workload import Workload
    from resq_onnx.printing import print_benchmark

    asked = Workload(**workload, kernels=not no_kernels, spinning=not no_spinning)
    with reporting() as report:
        report.step("Measuring")
        speeds = benchmark([model, *against], asked, repeat, report.progress)
    print_benchmark(out, speeds, asked, describe_machine(asked.provider), as_json)


@click.command()
@click.argument("model", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(model: Path, as_json: bool) -> None:
    """Show what is quantised how, sizes, and the cache's bytes per token."""
    from resq_onnx.graph.inspection import inspect_model
    from resq_onnx.printing import print_inspection

    print_inspection(out, inspect_model(model), as_json)


def _open(model: Path, threads: int | None, no_kernels: bool, provider: str) -> InferenceSession:
    from resq_onnx.runtime.session import create_session

    return create_session(model, threads, provider=provider, kernels=not no_kernels)
