from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from scripts.cuda_work import Call, prompt, step
from scripts.gpu_block import Block, block_bytes, copies_of
from scripts.gpu_shapes import SMALL, Layers

MODEL = SMALL[0]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def tokens(call: Call) -> torch.Tensor:
    return torch.randn(call.sequences, call.tokens, MODEL.hidden, dtype=torch.float16)


@pytest.mark.parametrize("call", [prompt(20), step(1, 20), step(4, 20)])
def test_a_layer_keeps_the_shape_of_the_residual_stream(call: Call) -> None:
    x = tokens(call)
    with torch.inference_mode():
        y = Block(MODEL, call, CPU)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()


def test_a_prompt_is_causal() -> None:
    call = prompt(20)
    block, x = Block(MODEL, call, CPU), tokens(call)
    changed = x.clone()
    changed[:, 12:] = 1.0
    with torch.inference_mode():
        torch.testing.assert_close(block(changed)[:, :12], block(x)[:, :12])


def test_a_token_sees_the_whole_cache_and_is_written_to_its_end() -> None:
    call = step(1, 20)
    block, x = Block(MODEL, call, CPU), tokens(call)
    with torch.inference_mode():
        first = block(x)
        old = block.keys.clone()
        block.values[:, :, 0] += 10.0
        assert not torch.allclose(block(x), first, atol=0.01)
        torch.testing.assert_close(block.keys, old)


def test_a_bare_layer_multiplies_and_attends_alone() -> None:
    call = step(1, 20)
    block, x = Block(MODEL, call, CPU), tokens(call)
    block.is_bare = True
    with torch.inference_mode():
        attended = functional.linear(block.attend(x), block.out)
        gate = functional.linear(attended, block.gate_up)[..., : MODEL.intermediate]
        torch.testing.assert_close(block(x), functional.linear(gate, block.down))


def test_the_memory_of_a_layer_is_that_of_its_tensors() -> None:
    block = Block(MODEL, prompt(20), CPU)
    tensors = (block.qkv, block.out, block.gate_up, block.down, block.keys, block.values)
    assert block_bytes(MODEL, prompt(20)) == sum(one.numel() * 2 for one in tensors)


def test_small_layers_are_timed_on_copies_that_no_cache_holds() -> None:
    one, size = Layers(MODEL, 1, step(1, 20)), block_bytes(MODEL, step(1, 20))
    assert copies_of(one, 0) == 1
    assert copies_of(one, size) == 4
    assert copies_of(one, size + 1) == 5
    assert copies_of(Layers(MODEL, 8, step(1, 20)), size) == 1
