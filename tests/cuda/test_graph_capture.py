"""A step with fixed shapes as a CUDA graph: captured once, replayed with other numbers.

On the CPU, where nothing is captured, the same calls show that the test runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from resq_onnx.runtime import Decoder, create_session, providers
from tests.custom_ops import attention_cases, hadamard_cases, matmul_cases
from tests.custom_ops.kernels import Node
from tests.custom_ops.texts import text_ids
from tests.functions.attention_cases import Shape
from tests.tiny_exports import TinyExports

Array = NDArray[Any]

CAPTURE: Final = "enable_cuda_graph"
"""Option of ONNX Runtime's CUDA provider. A session with a node on the CPU is refused."""

ROOM: Final = 24
PROMPT: Final = 9


@dataclass(frozen=True)
class Step:
    """Inputs and outputs of a session that stay where they are on the device."""

    session: Any
    binding: Any
    values: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        session: Any,
        provider: str,
        feeds: Mapping[str, Array],
        outputs: Mapping[str, Array],
        shared: Mapping[str, str],
    ) -> Step:
        """Bind.

        Args:
            session: It.
            provider: Where it runs, as ONNX Runtime calls the device, too.
            feeds: Inputs, by name.
            outputs: Arrays like the outputs, by name.
            shared: Outputs that are written to the memory of an input, and its name.
        """
        place = onnxruntime.OrtValue.ortvalue_from_numpy
        arrays = {**feeds, **{name: np.zeros_like(one) for name, one in outputs.items()}}
        values = {name: place(array.copy(), provider, 0) for name, array in arrays.items()}
        binding = session.io_binding()
        for name in feeds:
            binding.bind_ortvalue_input(name, values[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, values[name])
        for name, other in shared.items():
            binding.bind_ortvalue_output(name, values[other])
        return cls(session, binding, values)

    def run(self, output: str, **changed: Array) -> Array:
        """Put other numbers into inputs, run, and copy an output."""
        for name, array in changed.items():
            self.values[name].update_inplace(array)
        self.session.run_with_iobinding(self.binding)
        return np.array(self.values[output].numpy())


def both_ways(
    path: Path, provider: str, monkeypatch: pytest.MonkeyPatch, *bound: Any
) -> tuple[Step, Step]:
    """The same step, captured and not."""
    plain = Step.of(create_session(path, threads=1, provider=provider), provider, *bound)
    with monkeypatch.context() as patched:
        patched.setitem(providers.CUDA_OPTIONS, CAPTURE, "1")
        session = create_session(path, threads=1, provider=provider)
    return Step.of(session, provider, *bound), plain


def assert_replayed(
    captured: Step, plain: Step, output: str, name: str, arrays: list[Array]
) -> None:
    """With the first numbers it is captured; then it is replayed with the others."""
    found = [captured.run(output, **{name: array}) for array in [*arrays, arrays[0]]]
    wanted = [plain.run(output, **{name: array}) for array in [*arrays, arrays[0]]]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(found[0], found[1])


def attention_node() -> Node:
    """One token on a past, in a buffer."""
    form = attention_cases.form_of(heads=9, shared=3, dim=64)
    return attention_cases.node_of(form, Shape(2, 1, 70, 133))


NODES: Final = {
    "matmul of one row": (matmul_cases.node_of(matmul_cases.FORMS["as SmolLM2's q/k/v"], 1), "X"),
    "matmul of rows": (matmul_cases.node_of(matmul_cases.FORMS["as SmolLM2's o"], 40), "X"),
    "attention": (attention_node(), "QKV"),
    "hadamard": (hadamard_cases.node_of("as SmolLM2", 2), "gate_up"),
}
"""And the input that changes."""


@pytest.mark.parametrize("name", NODES)
def test_an_operator_is_captured_and_replayed(
    name: str, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, changing = NODES[name]
    path = tmp_path / "node.onnx"
    path.write_bytes(node.model())
    pasts = {present: past for past, present in attention_cases.PAIRS if past in node.arrays}
    first, *_ = node.run()
    output = node.outputs[0]
    steps = both_ways(path, provider, monkeypatch, node.feeds(), {output: first}, pasts)
    array = node.arrays[changing]
    assert_replayed(*steps, output, changing, [array, array[..., ::-1].copy()])


@pytest.fixture(scope="module")
def tiny(tiny_exports: TinyExports) -> Path:
    return tiny_exports.model("qwen2", tied=False).export("--logits", "last")


def test_a_decode_step_of_a_whole_model_is_captured_and_replayed(
    tiny: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same place of the buffer is written in each run, so that only the token counts."""
    ids = text_ids(tiny, 2, PROMPT + 2)
    decoder = Decoder(create_session(tiny, threads=1))
    _, state = decoder.run(ids[:, :PROMPT])
    feeds = decoder.feeds(ids[:, PROMPT : PROMPT + 1], state)
    signature = decoder.signature
    for name in signature.past:
        room = [(0, 0), (0, 0), (0, ROOM - PROMPT), (0, 0)]
        feeds[name] = np.pad(feeds[name], room)
    logits = np.zeros((2, 1, signature.vocabulary or 0), signature.logits_dtype)
    shared = dict(zip(signature.present, signature.past, strict=True))
    steps = both_ways(tiny, provider, monkeypatch, feeds, {"logits": logits}, shared)
    tokens = [ids[:, place : place + 1].copy() for place in (PROMPT, PROMPT + 1)]
    assert_replayed(*steps, "logits", "input_ids", tokens)
