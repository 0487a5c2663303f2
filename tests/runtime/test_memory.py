"""Memory on a device against memory of this process: the calls are the same, the device the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, buffered, create_session
from resq_onnx.runtime.memory import ON_DEVICE, DeviceMemory, HostMemory, memory_for
from tests.runtime import toy

TOKENS: Final = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]], np.int64)

ROOM: Final = 9


@pytest.fixture
def session(tmp_path: Path) -> Any:
    return create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1)


@pytest.fixture(params=["caches stay bound", "caches are bound in each run"])
def on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders keep their arrays as on a GPU, which the CPU stands in for."""
    if request.param == "caches stay bound":
        monkeypatch.setitem(ON_DEVICE, "cpu", "Cpu")
    monkeypatch.setattr(buffered, "memory_for", lambda session: DeviceMemory(session, "cpu"))


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("cuts", [(6,), (1, 6), (3, 4, 5, 6), (1, 2, 3, 4, 5, 6)])
def test_a_decoder_on_a_device_finds_the_same_tokens(session: Any, cuts: tuple[int, ...]) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    start = 0
    for end in cuts:
        found = decoder.run(TOKENS[:, start:end]).argmax(-1)
        np.testing.assert_array_equal(found, toy.expected_tokens(TOKENS)[:, end - 1])
        start = end


@pytest.mark.usefixtures("on_device")
def test_padding_and_a_rewind_reach_the_device(session: Any) -> None:
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], np.int64)
    decoder = BufferedDecoder(session, ROOM, batch=2)
    decoder.run(TOKENS[:, ::-1].copy())
    decoder.rewind(0)
    found = decoder.run(TOKENS, mask).argmax(-1)
    np.testing.assert_array_equal(found, toy.expected_tokens(TOKENS, mask)[:, -1])


@pytest.mark.usefixtures("on_device")
def test_a_beginning_is_copied_on_a_device_too(session: Any) -> None:
    first, second = BufferedDecoder(session, ROOM, batch=2), BufferedDecoder(session, 7, batch=2)
    first.run(TOKENS[:, :5])
    second.run(TOKENS[:, ::-1].copy())
    second.copy_beginning(first, 4)
    found = second.run(TOKENS[:, 4:]).argmax(-1)
    np.testing.assert_array_equal(found, toy.expected_tokens(TOKENS)[:, -1])


def test_a_device_without_room_says_so(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def ortvalue_from_numpy(*_arguments: object) -> None:
            raise RuntimeError("Available memory of 0 is smaller\nthan requested")

    monkeypatch.setattr(onnxruntime, "OrtValue", Full)
    memory = DeviceMemory(session, "cpu")
    with pytest.raises(ResqError, match=r"past of \(1, 2, 3, 4\) uint8 does not fit .* smaller;"):
        memory.add_cache("past", "present", (1, 2, 3, 4), np.uint8)


def test_a_session_on_the_cpu_computes_in_this_process(session: Any) -> None:
    assert isinstance(memory_for(session), HostMemory)


def test_a_session_on_a_gpu_computes_there(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session, "get_providers", lambda: providers)
    assert isinstance(memory_for(session), DeviceMemory)
