"""Command-line options that several commands share, including those of a Recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from resq_onnx.handoff.targets import DEFAULT as DEFAULT_TARGET
from resq_onnx.handoff.targets import TARGETS
from resq_onnx.methods import FORMATS, METHODS
from resq_onnx.recipe import (
    Cache,
    ComputeDtype,
    Dtype,
    Logits,
    Precision,
    Recipe,
    Rotations,
    Tables,
    WeightMethod,
)
from resq_onnx.resources import Resources, bytes_of

DEFAULTS = Recipe()
STEPS = METHODS[DEFAULTS.method].tuning_steps

Decorator = Callable[[Any], Any]


def _together(*options: Decorator) -> Decorator:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


quiet_option = click.option(
    "--quiet", is_flag=True, help="Show no progress: only the result, warnings and errors."
)
"""For a program or a log that records the output of a long command."""

bos_option = click.option(
    "--bos/--no-bos",
    default=None,
    show_default="as the tokenizer does",
    help="Whether texts begin with the BOS token.",
)
"""How each sequence begins that a model reads."""

calibration_options = _together(
    click.option("--calibration", default=DEFAULTS.calibration,
                 help="A .txt, .jsonl, .json, .csv or .parquet file, with texts or chats; "
                 "OWNER/NAME of a data set on the Hugging Face hub; prose, python-code or "
                 "python-docs, which are there; self, text that the model writes; or a mix: "
                 "bundled (of what is there) or auto (of all)."),
    click.option("--samples", type=int, default=DEFAULTS.samples,
                 help="Calibration sequences."),
    click.option("--sequence-length", type=int, default=DEFAULTS.sequence_length,
                 help="Tokens per calibration sequence."),
    click.option("--dtype-compute", type=click.Choice(get_args(ComputeDtype)),
                 default=DEFAULTS.dtype_compute,
                 help="Type in which PyTorch runs the layers on the calibration text. Sums and "
                 "checks are in float32 or finer."),
    bos_option,
)  # fmt: skip
"""The text on which the activations are measured, and how."""

length_option = click.option(
    "--max-length",
    type=int,
    default=DEFAULTS.max_length,
    show_default="as config.json says",
    help="Tokens of the longest text that the exported model is for. Past the original positions "
    "of a LongRoPE model (Phi-3.5, Phi-4-mini), it has the long factors.",
)
"""How many positions an exported model has."""

basis_options = _together(
    click.option("--method", type=click.Choice(list(METHODS)), default=DEFAULTS.method,
                 help="How the 4/8-bit bases are found; all but resq are baselines."),
    click.option("--rotations", type=click.Choice(get_args(Rotations)), default=DEFAULTS.rotations,
                 help="Whether the rotations inside resq's parts are random, fitted to what is "
                 "rounded on the calibration text, or learned with the whole model."),
    click.option("--train", "training_minutes", type=float, metavar="MINUTES",
                 default=DEFAULTS.training_minutes,
                 help="Learn them for so long, after they were fitted; also for spinquant."),
    click.option("--training-steps", type=int, default=DEFAULTS.training_steps,
                 show_default="as many as fit into the minutes",
                 help="Learn them in so many steps: repeats an export whose resq.json has them."),
    click.option("--high-fraction", type=float, default=DEFAULTS.high_fraction,
                 help="Share of the coefficients kept in the high number of bits."),
    click.option("--down-high", type=float, default=DEFAULTS.down_high,
                 show_default="about 0.125",
                 help="The same for the input of down_proj; 0 is the paper's scheme. By default an "
                 "eighth, and up to a sixth where that is rotated much faster when it runs."),
    click.option("--activation-clip", type=float, default=DEFAULTS.activation_clip,
                 help="Share of its range that a 4-bit activation's integers span."),
    click.option("--target-bits", type=float, default=DEFAULTS.target_bits,
                 help="Mean bits of the layers' weights: ranks are then chosen by spectra."),
    click.option("--low-bits", type=int, default=DEFAULTS.low_bits,
                 help="Bits of the low part."),
    click.option("--high-bits", type=int, default=DEFAULTS.high_bits,
                 help="Bits of the high part."),
    click.option("--seed", type=int, default=DEFAULTS.seed,
                 help="Seeds rotations and the choice of calibration sequences."),
)  # fmt: skip
"""How the bases are chosen, and how many bits each part has."""

quantising_options = _together(
    click.option(
        "--weights",
        type=click.Choice(get_args(WeightMethod)),
        default=DEFAULTS.weights,
        help="How weights are rounded.",
    ),
    click.option(
        "--format",
        type=click.Choice(list(FORMATS)),
        show_default="the target's",
        help="Keep the ai.resq operators, write plain ONNX with QDQ nodes, or use ONNX Runtime's "
        "own operators, for any machine (contrib) or for browsers.",
    ),
    click.option(
        "--logits",
        type=click.Choice(get_args(Logits)),
        show_default="the target's",
        help="Compute logits for all tokens of a call, or for the last one, as generation needs.",
    ),
    click.option(
        "--activations",
        type=click.Choice(get_args(Precision)),
        default=DEFAULTS.activations,
        help="Quantise the inputs of linear layers, or only the weights (float).",
    ),
    click.option(
        "--cache",
        type=click.Choice(get_args(Cache)),
        default=DEFAULTS.cache,
        help="Store keys and values in few bits, or in float; int8, float16: for --format contrib.",
    ),
    click.option(
        "--tables",
        type=click.Choice(get_args(Tables)),
        default=DEFAULTS.tables,
        help="One table for a tied embedding and lm_head, or one for each.",
    ),
    click.option("--head-bits", type=int, default=DEFAULTS.head_bits,
                 help="Bits of embedding and lm_head; with 4, their high part keeps 8."),
    click.option(
        "--dtype",
        type=click.Choice(get_args(Dtype)),
        default=DEFAULTS.dtype,
        help="Type of the activations between operators, for GPUs; logits, and the model of "
        "--save-rotated, are float32. For --format custom; CPUs have no kernels for bfloat16.",
    ),
)  # fmt: skip
"""What is quantised, how, and with which operators."""

tuning_options = _together(
    click.option("--tune", "tuning_minutes", type=float, metavar="MINUTES",
                 default=DEFAULTS.tuning_minutes,
                 show_default=f"resq takes {STEPS} steps, if memory permits",
                 help="Tune the weights for so long before they are rounded, with the whole model, "
                 "towards what it predicts without any rounding; 0: not at all."),
    click.option("--tuning-steps", type=int, default=DEFAULTS.tuning_steps,
                 show_default="as many as fit into the minutes",
                 help="Tune them in so many steps: repeats an export whose resq.json has them."),
)  # fmt: skip
"""How long weights are tuned."""

output_options = _together(
    click.option(
        "--target",
        type=click.Choice(list(TARGETS)),
        default=DEFAULT_TARGET,
        help="The runtime that the folder of OUT.onnx is for.",
    ),
    click.option(
        "--save-rotated",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Also write the folded, not yet quantised float model.",
    ),
    click.option("--dump-passes", type=click.Path(path_type=Path), metavar="DIR",
                 help="Also write the graph after each pass, as text."),
    click.option("--report", is_flag=True,
                 help="Also write report.html, a readable page, beside the model."),
    click.option("--force", is_flag=True,
                 help="Write the model even if its predictions are useless."),
)  # fmt: skip
"""Outputs besides the model."""


resource_options = _together(
    click.option("--device", default="auto", metavar="DEVICE",
                 help="Where PyTorch computes: auto (a GPU if there is one), cpu, cuda or cuda:N."),
    click.option("--max-memory", metavar="SIZE",
                 help="Main memory that may be taken, as 8GB."),
    click.option("--work", type=click.Path(path_type=Path), metavar="DIR",
                 show_default="hidden, beside the output",
                 help="Folder for finished layers, from which a stopped run goes on."),
    click.option("--fresh", is_flag=True, help="Start anew, even if a stopped run can go on."),
)  # fmt: skip
"""What may be used; `resources_from` takes their values."""


def resources_from(options: dict[str, Any]) -> Resources:
    """Take the values of `resource_options` out of a command's options.

    Raises:
        ResqError: One of them makes no sense.
    """
    memory = options.pop("max_memory")
    return Resources(
        max_memory=None if memory is None else bytes_of(memory),
        **{name: options.pop(name) for name in ("device", "work", "fresh")},
    )


def _threads(_context: click.Context, _option: click.Parameter, threads: int | None) -> int | None:
    """Reject a bad number of threads here, before the model takes minutes to load."""
    from resq_onnx.runtime.session import check_threads

    check_threads(threads)
    return threads


threads_option = click.option(
    "--threads", type=click.IntRange(min=1), callback=_threads, help="Default: one per core."
)
"""Of everything that computes in this process."""

session_options = _together(
    threads_option,
    click.option("--no-kernels", is_flag=True,
                 help="Run the functions in the file instead of the compiled operators."),
    click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu",
                 help="Where the model runs; cuda requires a GPU and never falls back."),
)  # fmt: skip
"""Options of all commands that run a model."""
