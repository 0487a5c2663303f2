"""Time decoder layers in float16 in PyTorch: what our kernels are compared with on the same GPU.

    python -m scripts.gpu_block             # on a GPU
    python -m scripts.gpu_block --rehearse  # on this CPU, with a small model

One layer, and all layers of a model, read a prompt of 2048 and one token after 2047: cuBLAS for the
products (q, k and v, and gate and up, as one matrix each), `scaled_dot_product_attention`, captured
as a CUDA graph, as our kernels are. Weights are random. PyTorch runs norms, RoPE and the gate as
kernels of their own, which a compiler would fuse: `bare` is the time of products and attention
alone. Prints a line of JSON for each, as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from scripts.cuda_work import Call, Model
from scripts.gpu_shapes import FULL, TINY, Layers, layers
from scripts.gpu_stages import ABSENT

SAMPLES: Final = 21
WARM_UPS: Final = 3
RESERVE: Final = 0.9
"""Share of the free memory that weights and caches may fill."""

CACHES: Final = 4
"""A layer is timed on copies that fill the L2 cache this many times, as ours is (timing.cpp)."""

DTYPE: Final = torch.float16


class Block(torch.nn.Module):
    """A decoder layer of the Llama family, with a cache of fixed size.

    Args:
        model: Sizes.
        call: New tokens, and slots of the cache.
        device: Where it runs.
    """

    def __init__(self, model: Model, call: Call, device: torch.device) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.is_bare = False
        d, hidden = model.head_dim, model.hidden

        def weight(outputs: int, columns: int) -> Tensor:
            return torch.randn(outputs, columns, device=device, dtype=DTYPE).div_(
                math.sqrt(columns)
            )

        self.qkv = weight((model.heads + 2 * model.kv_heads) * d, hidden)
        self.out = weight(hidden, model.heads * d)
        self.gate_up = weight(2 * model.intermediate, hidden)
        self.down = weight(hidden, model.intermediate)
        self.gain = torch.ones(hidden, device=device, dtype=DTYPE)
        slots = (call.sequences, model.kv_heads, call.context, d)
        self.keys = torch.randn(slots, device=device, dtype=DTYPE)
        self.values = torch.randn(slots, device=device, dtype=DTYPE)
        angles = torch.rand(call.tokens, d // 2, device=device)
        self.cos, self.sin = angles.cos().to(DTYPE), angles.sin().to(DTYPE)

    def rotated(self, heads: Tensor) -> Tensor:
        """RoPE of (sequences, heads, tokens, d)."""
        if self.is_bare:
            return heads
        first, second = heads.chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(turned, dim=-1)

    def attend(self, x: Tensor) -> Tensor:
        """Attention of new tokens (sequences, tokens, hidden), before the output's matrix."""
        model, old = self.model, self.call.context - self.call.tokens
        heads = functional.linear(x, self.qkv).unflatten(-1, (-1, model.head_dim)).transpose(1, 2)
        sizes = (model.heads, model.kv_heads, model.kv_heads)
        queries, keys, values = heads.split(sizes, dim=1)
        self.keys[:, :, old:] = self.rotated(keys)
        self.values[:, :, old:] = values
        attended = functional.scaled_dot_product_attention(
            self.rotated(queries),
            self.keys,
            self.values,
            is_causal=self.call.tokens > 1,  # then the prompt is all there is
            enable_gqa=model.heads != model.kv_heads,
        )
        return attended.transpose(1, 2).flatten(2)

    def normed(self, x: Tensor) -> Tensor:
        """RMS norm of the residual stream."""
        return x if self.is_bare else functional.rms_norm(x, x.shape[-1:], self.gain, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after the layer, (sequences, tokens, hidden)."""
        attended = functional.linear(self.attend(self.normed(x)), self.out)
        x = attended if self.is_bare else x + attended
        gate, up = functional.linear(self.normed(x), self.gate_up).chunk(2, dim=-1)
        made = functional.linear(gate if self.is_bare else functional.silu(gate) * up, self.down)
        return made if self.is_bare else x + made


def block_bytes(model: Model, call: Call) -> int:
    """Bytes of a layer's weights and cache."""
    attention = (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    weights = model.hidden * (attention + 3 * model.intermediate)
    return 2 * weights + 4 * call.sequences * model.kv_heads * call.context * model.head_dim


def microseconds(run: Callable[[], object], device: torch.device) -> float:
    """Median time of a run: as a CUDA graph on a GPU; on a CPU it runs once and counts as 1 ms."""
    if device.type == "cpu":
        run()
        return 1e3
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # cuBLAS chooses and allocates before the capture
        for _ in range(WARM_UPS):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times: list[float] = []
    for _ in range(WARM_UPS + SAMPLES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times[WARM_UPS:])


def copies_of(item: Layers, cache_bytes: int) -> int:
    """Copies of the layers that are timed, so that an L2 cache of this size does not hold them."""
    return max(1, -(-CACHES * cache_bytes // (item.layers * block_bytes(item.model, item.call))))


def time_layers(item: Layers, device: torch.device) -> dict[str, float] | None:
    """Microseconds of some layers, whole and `bare`; None if the GPU's memory is too small."""
    copies = 1
    if device.type == "cuda":
        copies = copies_of(item, torch.cuda.get_device_properties(device).L2_cache_size)
        needed = copies * item.layers * block_bytes(item.model, item.call)
        if needed > RESERVE * torch.cuda.mem_get_info()[0]:
            return None
    blocks = [Block(item.model, item.call, device) for _ in range(copies * item.layers)]
    stack = torch.nn.Sequential(*blocks)
    shape = (item.call.sequences, item.call.tokens, item.model.hidden)
    x = torch.randn(shape, device=device, dtype=DTYPE)
    times = {}
    for name, is_bare in (("whole", False), ("bare", True)):
        for block in blocks:
            block.is_bare = is_bare
        times[name] = microseconds(lambda: stack(x), device) / copies
    return times


def main() -> None:
    """Time all layers and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    if not rehearse and not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} finds no GPU", file=sys.stderr)
        sys.exit(ABSENT)
    device = torch.device("cpu" if rehearse else "cuda")
    print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda}))
    for item in layers(TINY if rehearse else FULL):
        with torch.inference_mode():
            found = time_layers(item, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        print(json.dumps({"key": item.key, "us": found}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
