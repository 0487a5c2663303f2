"""What `make gpu` times: kernels and decoder layers of some models, as lines for `compare_cuda`.

The lines are those of custom_ops/tests/gpu/steps.hpp. Each measurement knows its work, of which
`scripts/cuda_roofline.py` computes a lower bound of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from resq_onnx.projections.hadamard import outer_order
from scripts import cuda_work
from scripts.cuda_roofline import MODELS, call_name
from scripts.cuda_work import Call, Matrix, Model, Work, prompt, step

TIMED: Final = (
    *MODELS,
    Model("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064),
    Model("Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256),
)

SMALL: Final = (Model("small", 2, 128, 4, 2, 64, 256, 512),)
"""What a CPU that acts as a GPU runs in seconds."""


@dataclass(frozen=True)
class Sizes:
    """Which calls are timed.

    Attributes:
        models: Of these.
        steps: Sequences that get one more token each.
        prompts: Tokens of a prompt.
        contexts: Tokens in the cache, the new one included.
        whole: The prompt that whole layers read, and the context of the token after it.
    """

    models: tuple[Model, ...]
    steps: tuple[int, ...]
    prompts: tuple[int, ...]
    contexts: tuple[int, ...]
    whole: int


FULL: Final = Sizes(TIMED, (1, 4, 16), (128, 512, 2048), (512, 2048, 8192), 2048)
TINY: Final = Sizes(SMALL, (1,), (20,), (70,), 20)


@dataclass(frozen=True)
class Measurement:
    """A kernel with some sizes, and the lines that describe it; its time is their sum.

    Attributes:
        model: Whose sizes.
        kernel: Its name in docs/cuda.md.
        call: Name of the call.
        lines: For `compare_cuda --time`.
        work: Of these lines together, where a GPU has 4-bit tensor cores and where it has not.
    """

    model: str
    kernel: str
    call: str
    lines: tuple[str, ...]
    work: tuple[Work, Work]


@dataclass(frozen=True)
class Layers:
    """Some decoder layers as one CUDA graph."""

    model: Model
    layers: int
    call: Call

    @property
    def key(self) -> str:
        """What identifies it in the results of other programs."""
        return f"{self.model.name}, {self.layers} layers, {self.call_name}"

    @property
    def call_name(self) -> str:
        """Name of the call."""
        return call_name(self.call)

    @property
    def lines(self) -> tuple[str, ...]:
        """For `compare_cuda --time`, which answers with one time."""
        return (f"stack layers={self.layers}", *layer_lines(self.model, self.call), "end")


def linear_line(kind: str, matrix: Matrix, rows: int) -> str:
    """A linear layer: `linear`, or `quantise` or `multiply` alone."""
    low, high = matrix.widths
    normalised = matrix.name in ("q/k/v", "gate/up")
    return (
        f"{kind} rows={rows} outputs={matrix.outputs} groups={matrix.groups} low={low} "
        f"high={high} norm={int(normalised)} adds={int(matrix.adds)}"
    )


def attention_line(kind: str, model: Model, call: Call) -> str:
    """Attention of a layer: `attention`, or `prepare` or `attend` alone."""
    return (
        f"{kind} sequences={call.sequences} tokens={call.tokens} context={call.context} "
        f"heads={model.heads} kv_heads={model.kv_heads} dim={model.head_dim} "
        f"high={model.head_dim // 8}"
    )


def gate_line(model: Model, rows: int) -> str:
    """The gated Hadamard rotation of a layer."""
    low, high = model.down.low, model.down.high
    orders = (outer_order(low), outer_order(high))
    return (
        f"gate rows={rows} low_outer={orders[0]} low_inner={low // orders[0]} "
        f"high_outer={orders[1]} high_inner={high // orders[1]}"
    )


def layer_lines(model: Model, call: Call) -> tuple[str, ...]:
    """The steps of a decoder layer, in order."""
    qkv, out, gate_up, down = cuda_work.matrices(model)
    return (
        linear_line("linear", qkv, call.rows),
        attention_line("attention", model, call),
        linear_line("linear", out, call.rows),
        linear_line("linear", gate_up, call.rows),
        gate_line(model, call.rows),
        linear_line("linear", down, call.rows),
    )


def kernels(sizes: Sizes) -> Iterator[Measurement]:
    """The kernels, model by model; only attention depends on the context."""
    for model in sizes.models:
        for rows in (*sizes.steps, *sizes.prompts):
            is_step = rows in sizes.steps
            call = step(rows, sizes.whole) if is_step else prompt(rows)
            yield from _of_rows(model, call)
            if not is_step:
                yield _attend(model, call)
        for context in sizes.contexts:
            for rows in sizes.steps:
                yield _attend(model, step(rows, context))


def layers(sizes: Sizes) -> Iterator[Layers]:
    """One layer, and all of a model, reading a prompt and one token after it."""
    for model in sizes.models:
        for call in (prompt(sizes.whole), step(1, sizes.whole)):
            for count in (1, model.layers):
                yield Layers(model, count, call)


def _of_rows(model: Model, call: Call) -> Iterator[Measurement]:
    rows, matrices = call.rows, cuda_work.matrices(model)
    name = f"{rows}"
    quantised = tuple(linear_line("quantise", matrix, rows) for matrix in matrices)
    work = [cuda_work.quantise(model, rows, has_int4).ours for has_int4 in (True, False)]
    yield Measurement(model.name, "quantise", name, quantised, (work[0], work[1]))
    for matrix in matrices:
        work = [cuda_work.multiply(matrix, rows, has_int4).ours for has_int4 in (True, False)]
        line = linear_line("multiply", matrix, rows)
        yield Measurement(model.name, f"matmul {matrix.name}", name, (line,), (work[0], work[1]))
    prepared = cuda_work.prepare(model, call).ours
    line = attention_line("prepare", model, call)
    yield Measurement(model.name, "prepare", name, (line,), (prepared, prepared))
    gated = cuda_work.gate(model, rows).ours
    line = gate_line(model, rows)
    yield Measurement(model.name, "gate_and_rotate", name, (line,), (gated, gated))


def _attend(model: Model, call: Call) -> Measurement:
    item = cuda_work.attend(model, call)
    line = attention_line("attend", model, call)
    return Measurement(model.name, item.name, call_name(call), (line,), (item.ours, item.ours))
