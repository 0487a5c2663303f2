"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from resq_onnx import __version__
from resq_onnx.errors import ResqError
from resq_onnx.recipe import Format, Method, Recipe, WeightMethod

if TYPE_CHECKING:
    from resq_onnx.reporting import Report
    from resq_onnx.runtime.session import Decoder

DEFAULTS = Recipe()
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C

out = Console()
log = Console(stderr=True)


class _Commands(click.Group):
    """Turns exceptions into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("args", None) or (args[0] if args else None) or sys.argv[1:]
        words = [word for word in given if word != "--verbose"]  # anywhere on the line
        verbose = len(words) < len(given)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().main(words, *args[1:], **{**kwargs, "standalone_mode": False})
        except ResqError as error:
            _fail(str(error), verbose)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            log.print("Interrupted; nothing was written.", style="red")
            sys.exit(INTERRUPTED)
        except Exception as error:
            hint = "" if verbose else " (--verbose shows where)"
            _fail(f"unexpected {type(error).__name__}: {error}{hint}", verbose)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    line = " ".join(part.strip() for part in message.splitlines())  # some libraries' have several
    log.print(f"Error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="resq-onnx")
@click.option("--verbose", is_flag=True, help="Show the traceback of an error.")
def main(verbose: bool) -> None:
    """Quantise language models to 4 bits - weights, activations and KV cache - in ONNX."""
    del verbose  # taken off the command line by _Commands, and declared here for --help


def _recipe_options(command: Any) -> Any:
    """The options that `export` and `calibrate` share: one for each field of a Recipe."""
    choice = click.Choice
    options = [
        click.option("--method", type=choice(get_args(Method)), default=DEFAULTS.method,
                     help="How the 4/8-bit bases are found; all but resq are baselines."),
        click.option("--calibration", default=DEFAULTS.calibration,
                     help="A .txt or .jsonl file, a name known to `datasets`, or python-docs."),
        click.option("--samples", type=int, default=DEFAULTS.samples,
                     help="Calibration sequences."),
        click.option("--sequence-length", type=int, default=DEFAULTS.sequence_length,
                     help="Tokens per calibration sequence."),
        click.option("--high-fraction", type=float, default=DEFAULTS.high_fraction,
                     help="Share of the coefficients kept in the high number of bits."),
        click.option("--down-high", type=float, default=DEFAULTS.down_high,
                     help="The same for the input of down_proj; 0 is the paper's scheme."),
        click.option("--low-bits", type=int, default=DEFAULTS.low_bits,
                     help="Bits of the low part."),
        click.option("--high-bits", type=int, default=DEFAULTS.high_bits,
                     help="Bits of the high part."),
        click.option("--seed", type=int, default=DEFAULTS.seed,
                     help="Seeds rotations and the choice of calibration sequences."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@main.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.onnx", type=click.Path(path_type=Path))
@_recipe_options
@click.option(
    "--weights",
    type=click.Choice(get_args(WeightMethod)),
    default=DEFAULTS.weights,
    help="How weights are rounded.",
)
@click.option(
    "--format",
    type=click.Choice(get_args(Format)),
    default=DEFAULTS.format,
    help="Keep the ai.resq operators, or write plain ONNX with QDQ nodes.",
)
@click.option(
    "--projections",
    type=click.Path(path_type=Path),
    help="Use this file of `resq-onnx calibrate` instead of calibrating.",
)
@click.option(
    "--save-rotated",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the folded, not yet quantised float model.",
)
@click.option("--dump-passes", type=click.Path(path_type=Path), metavar="DIR",
              help="Also write the graph after each pass, as text.")  # fmt: skip
def export(
    model: Path,
    target: Path,
    projections: Path | None,
    save_rotated: Path | None,
    dump_passes: Path | None,
    **recipe: Any,
) -> None:
    """Quantise MODEL, a Hugging Face directory or a .gguf file, and write OUT.onnx."""
    from resq_onnx.printing import print_summary

    asked = Recipe(**recipe)  # before the imports that take seconds
    with _reporting() as report:
        from resq_onnx import pipeline

        summary = pipeline.export(
            model,
            target,
            asked,
            projections=projections,
            save_rotated=save_rotated,
            dump_passes=dump_passes,
            report=report,
        )
    print_summary(out, summary)


@main.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("target", metavar="PROJECTIONS.safetensors", type=click.Path(path_type=Path))
@_recipe_options
def calibrate(model: Path, target: Path, **recipe: Any) -> None:
    """Measure MODEL's activations once; exports then reuse the file with --projections.

    Runs data-parallel under torchrun.
    """
    asked = Recipe(**recipe)
    with _reporting() as report:
        from resq_onnx import pipeline

        written = pipeline.calibrate(model, target, asked, report)
    if written is not None:
        size = written.stat().st_size / 1e6
        lines = (
            f"Wrote {written} ({size:.1f} MB)",
            f"Use it: resq-onnx export {model} OUT.onnx --projections {written}",
        )
        out.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


@main.command(context_settings={"show_default": True})
@click.argument("model", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="Text to continue, or with --chat a question.")
@click.option("--chat", is_flag=True, help="Apply the model's chat template to the prompt.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=100)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(min=0, max=1, min_open=True), default=1.0)
@click.option("--seed", type=int, default=0)
@click.option("--threads", type=click.IntRange(min=1), help="Default: one per core.")
def generate(
    model: Path, prompt: str, chat: bool, max_new_tokens: int, threads: int | None, **sampling: Any
) -> None:
    """Continue a text with an exported model, token by token."""
    from resq_onnx.runtime.generate import generate as generate_tokens
    from resq_onnx.runtime.tokenizer import Tokenizer

    decoder = _open(model, threads)
    tokenizer = Tokenizer.load(model.parent)
    if chat:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}])
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(prompt)
        out.print(prompt, end="", markup=False, highlight=False, soft_wrap=True)
    tokens = generate_tokens(decoder, ids, max_new_tokens, stop_ids=tokenizer.stop_ids, **sampling)
    for piece in tokenizer.stream(tokens):
        out.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    out.print()


@main.command(context_settings={"show_default": True})
@click.argument(
    "models", metavar="OUT.onnx...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path),
    help="A .txt or .jsonl file the model was not calibrated on.",
)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    default=512,
    help="Tokens per window; windows do not overlap.",
)
@click.option("--max-windows", type=click.IntRange(min=1), help="Default: the whole text.")
@click.option("--token-by-token", is_flag=True, help="Decode with the cache instead of one pass.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: one per core.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")  # fmt: skip
def evaluate(
    models: tuple[Path, ...],
    text: Path,
    window: int,
    max_windows: int | None,
    token_by_token: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the perplexity of exported models on a text."""
    from resq_onnx.calibration.corpus import load_text
    from resq_onnx.evaluation.perplexity import PerplexityResult, perplexity
    from resq_onnx.printing import print_perplexities
    from resq_onnx.runtime.tokenizer import Tokenizer

    document = "\n\n".join(load_text(str(text)))
    results: dict[str, PerplexityResult] = {}
    for model in models:
        decoder = _open(model, threads)
        ids = Tokenizer.load(model.parent).encode(document, add_special_tokens=False)
        with _reporting() as report:
            report.step(f"Evaluating {model.name}")
            results[str(model)] = perplexity(
                decoder, ids, window, max_windows, token_by_token, report.progress
            )
    print_perplexities(out, results, window, token_by_token, as_json)


@main.command()
@click.argument("model", metavar="OUT.onnx", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect(model: Path, as_json: bool) -> None:
    """Show what is quantised how, sizes, and the cache's bytes per token."""
    from resq_onnx.inspection import inspect_model
    from resq_onnx.printing import print_inspection

    print_inspection(out, inspect_model(model), as_json)


def _open(model: Path, threads: int | None) -> Decoder:
    from resq_onnx.runtime.session import Decoder, create_session

    return Decoder(create_session(model, threads))


@contextmanager
def _reporting() -> Iterator[Report]:
    """Show the steps of a long command, on stderr, with a bar where its length is known."""
    from resq_onnx.reporting import Report

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=log) as bars:

        def step(title: str) -> None:
            finish()
            bars.add_task(title, total=None, units="")

        def advance(done: int, total: int) -> None:
            bars.update(bars.task_ids[-1], completed=done, total=total, units=f"{done}/{total}")

        def warn(line: str) -> None:
            bars.console.print(f"Warning: {line}", style="yellow", markup=False, highlight=False)

        def finish() -> None:
            for task in bars.tasks:
                bars.update(task.id, completed=task.total or 1, total=task.total or 1)

        yield Report(step, advance, warn)
        finish()
