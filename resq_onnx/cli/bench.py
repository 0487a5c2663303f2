"""The command bench: measure speed, memory and load time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resq_onnx.cli.console import out, showing_progress
from resq_onnx.cli.options import quiet_option, session_options


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--against",
    multiple=True,
    metavar="OTHER",
    type=click.Path(path_type=Path),
    help="Another decoder with the same inputs; may be given several times.",
)
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=512)
@click.option("--new-tokens", type=click.IntRange(min=1), default=128)
@click.option("--repeat", type=click.IntRange(min=1), default=5, help="Turns of each model.")
@session_options
@quiet_option
@click.option(
    "--no-spinning",
    is_flag=True,
    help="Let waiting threads sleep, which is better if other programs need the cores.",
)
@click.option("--per-node", is_flag=True,
              help="Print instead how long each kind of node takes, on the CPU.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True,
              help="Print JSON, with every turn, instead of a table.")  # fmt: skip
def bench(
    model: Path,
    against: tuple[Path, ...],
    repeat: int,
    no_kernels: bool,
    no_spinning: bool,
    per_node: bool,
    quiet: bool,
    as_json: bool,
    **workload: Any,
) -> None:
    """Measure speed, memory and load time, alone or against other files.

    FOLDER is one that export wrote, or the .onnx file in it; so is OTHER.

    The models run in turns. Prefill is the time from a prompt of random tokens to the logits after
    its last one; decode the time of greedy steps, one token through the model and the choice of
    the next. Both are medians over the turns, in tokens per second. Peak memory and load time are
    those of one more run in a process of its own: memory is the peak resident set, including Python
    and the weights' file; load time is the time to open the session, without imports. With
    --provider cuda all files run on the GPU, whose memory is not measured.

    --per-node prints the medians of ONNX Runtime's profiler: milliseconds of each kind of node for
    the prompt, and for a new token.
    """
    from resq_onnx.cli.printing import print_benchmark, print_node_times
    from resq_onnx.evaluation.benchmark import benchmark
    from resq_onnx.evaluation.machine import describe_machine
    from resq_onnx.evaluation.node_times import node_times
    from resq_onnx.evaluation.workload import Workload
    from resq_onnx.files import find_model

    asked = Workload(**workload, kernels=not no_kernels, spinning=not no_spinning)
    models = [find_model(one) for one in (model, *against)]
    with showing_progress(quiet) as progress:
        progress.step("Measuring")
        if per_node:
            times = [node_times(one, asked, repeat) for one in models]
            print_node_times(out, times, asked, describe_machine(asked.provider), as_json)
            return
        speeds = benchmark(models, asked, repeat, progress.advance)
    print_benchmark(out, speeds, asked, describe_machine(asked.provider), as_json)
