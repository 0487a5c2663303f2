"""Roofline of the CUDA kernels: lower bounds of their times by the peak figures of three GPUs.

    python -m scripts.cuda_evidence --only roofline

Nothing is measured. A kernel takes at least as long as the slowest of: its bytes through the GPU's
memory, its products through the tensor cores, its float32 arithmetic, and the words that its
threads load from shared memory or the L1 cache (one word per lane, 32 lanes, every clock of an SM).
A grid with fewer blocks than the GPU has SMs gets only their share of the last three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scripts.cuda_work import Call, Model, Work, layer, lm_head, multiply, prompt, step

LANES: Final = 32


@dataclass(frozen=True)
class Gpu:
    """Peak figures: bytes and operations per second, without sparsity.

    Attributes:
        name: Name in the tables.
        bandwidth: Bandwidth of its memory.
        tensor: Operations of the tensor cores by type; `int4` only if they support it.
        sms: Number of streaming multiprocessors.
        cores: Float32 units per SM, with two operations per clock each.
        clock: Boost clock.
    """

    name: str
    bandwidth: float
    tensor: dict[str, float]
    sms: int
    cores: int
    clock: float

    @property
    def has_int4(self) -> bool:
        """Whether prompts are multiplied in 4 bits."""
        return "int4" in self.tensor

    @property
    def floats(self) -> float:
        """Float32 operations per second."""
        return self.sms * self.cores * 2 * self.clock


GPUS: Final = (
    # NVIDIA A100 datasheet, 80GB SXM, and A100 whitepaper.
    Gpu("A100", 2039e9, {"int4": 1248e12, "int8": 624e12, "half": 312e12}, 108, 64, 1.41e9),
    # NVIDIA H100 datasheet, SXM5, and H100 whitepaper; without the factor of 2 for sparsity.
    Gpu("H100", 3350e9, {"int8": 1979e12, "half": 989.4e12}, 132, 128, 1.98e9),
    # NVIDIA Ada whitepaper, appendix A; float16 with sums in float32.
    Gpu("4090", 1008e9, {"int4": 1321.2e12, "int8": 660.6e12, "half": 165.2e12}, 128, 128, 2.52e9),
)

CARDS: Final = (
    *GPUS,
    # NVIDIA H200 datasheet: an H100 with more and faster memory.
    Gpu("H200", 4800e9, GPUS[1].tensor, 132, 128, 1.98e9),
    # NVIDIA Ampere GA102 whitepaper, appendix A; float16 with sums in float32.
    Gpu("3090", 936e9, {"int4": 568e12, "int8": 284e12, "half": 71e12}, 82, 128, 1.695e9),
)
"""All with known figures; the long tables show `GPUS`."""

MODELS: Final = (
    Model("Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 128256),
    Model("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256),
)

CALLS: Final = (
    *(step(rows, context) for rows in (1, 4, 16) for context in (2048, 8192)),
    *(prompt(rows) for rows in (512, 2048)),
)


@dataclass(frozen=True)
class Floor:
    """Lower bound in seconds, and its cause: `memory`, `tensor`, `float` or `loads`."""

    seconds: float
    limit: str


def floor(work: Work, gpu: Gpu) -> Floor:
    """The lower bound of the time of some work on a GPU."""
    share = min(1.0, work.blocks / gpu.sms)
    tensor = sum(work.operations.get(unit, 0.0) / peak for unit, peak in gpu.tensor.items())
    times = {
        "memory": work.moved / gpu.bandwidth,
        "tensor": tensor / share,
        "float": work.operations.get("float", 0.0) / gpu.floats / share,
        "loads": work.loads / (gpu.sms * LANES * gpu.clock) / share,
    }
    limit = max(times, key=lambda name: times[name])
    return Floor(times[limit], limit)


@dataclass(frozen=True)
class Step:
    """The floors of a whole call, in seconds: all layers and lm_head."""

    ours: float
    products: float
    """The part of `ours` in matrix products and their quantisation."""
    half: float
    nbits: float


def whole(model: Model, call: Call, gpu: Gpu) -> Step:
    """A call of the whole model; for a prompt, lm_head runs only on the last row."""
    rows = call.sequences
    items = [(model.layers, item) for item in layer(model, call, gpu.has_int4)]
    items.append((1, multiply(lm_head(model), rows, gpu.has_int4)))
    ours = products = half = nbits = 0.0
    for count, item in items:
        seconds = count * floor(item.ours, gpu).seconds
        ours += seconds
        products += seconds if item.name.startswith(("matmul", "quantise")) else 0.0
        half += count * floor(item.half, gpu).seconds
        nbits += count * floor(item.nbits, gpu).seconds
    return Step(ours, products, half, nbits)


def card(name: str) -> Gpu | None:
    """The card in a name such as "NVIDIA H100 80GB HBM3"; None if its figures are not known."""
    return next((gpu for gpu in CARDS if gpu.name in name), None)


def call_name(call: Call) -> str:
    """Name of a call in the tables."""
    if call.tokens > 1:
        return f"prompt of {call.rows}"
    return f"{call.rows} × 1 after {call.context - 1}"


def summary_table(model: Model) -> Iterator[str]:
    """Lines of the table of whole calls."""
    names = [gpu.name for gpu in GPUS]
    columns = [f"{name} ms, of it products | than float16, int4" for name in names]
    yield f"| call | {' | '.join(columns)} |"
    yield "|---" * (1 + 2 * len(GPUS)) + "|"
    for call in CALLS:
        cells = [call_name(call)]
        for gpu in GPUS:
            s = whole(model, call, gpu)
            cells.append(f"{1e3 * s.ours:.2f}, {1e3 * s.products:.2f}")
            cells.append(f"{s.half / s.ours:.2f}, {s.nbits / s.ours:.2f}")
        yield f"| {' | '.join(cells)} |"


def kernel_table(model: Model) -> Iterator[str]:
    """Lines of the table of one decoder layer, kernel by kernel."""
    columns = [f"{gpu.name} µs | than float16, int4" for gpu in GPUS]
    yield f"| kernel | call | MB | Gop | {' | '.join(columns)} |"
    yield "|---" * (4 + 2 * len(GPUS)) + "|"
    seen: set[tuple[str, str]] = set()
    count = len(list(layer(model, CALLS[0], has_int4=True)))
    for index in range(count):
        for call in CALLS:
            by_gpu = [(list(layer(model, call, gpu.has_int4))[index], gpu) for gpu in GPUS]
            name = by_gpu[0][0].name
            # Only attention depends on the context.
            rows = call_name(call) if name.startswith("attend") else f"{call.rows}"
            if (name, rows) in seen:
                continue
            seen.add((name, rows))
            first = by_gpu[0][0].ours
            cells = [name, rows, f"{first.moved / 1e6:.2f}"]
            cells.append(f"{sum(first.operations.values()) / 1e9:.2f}")
            for item, gpu in by_gpu:
                ours = floor(item.ours, gpu)
                cells.append(f"{1e6 * ours.seconds:.2f} {ours.limit}")
                half, nbits = floor(item.half, gpu), floor(item.nbits, gpu)
                cells.append(
                    f"{half.seconds / ours.seconds:.2f}, {nbits.seconds / ours.seconds:.2f}"
                )
            yield f"| {' | '.join(cells)} |"
