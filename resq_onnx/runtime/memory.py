"""Memory of a decoder's arrays while its graph runs: NumPy arrays of this process, or a GPU's.

A decoder's cache has one buffer per layer and part, bound both as past and as present, which stays
in place from one step to the next. `HostMemory` binds numpy arrays, which the graph then reads and
writes in place; `DeviceMemory` keeps caches and logits on the device, sends the inputs there in
each step, and fetches the logits on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from resq_onnx.errors import ResqError, first_line
from resq_onnx.runtime.providers import CUDA, runs_on_cuda

if TYPE_CHECKING:
    import onnxruntime

ON_DEVICE: Final = {CUDA: "Cuda"}
"""ONNX Runtime's name for the memory of each device."""


class Memory(Protocol):
    """The interface that a decoder needs from either kind of memory."""

    def add_cache(self, past: str, present: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make a buffer of zeros, and bind it as an input and as an output of the graph."""

    def bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Let the graph read an array's contents at the time it runs."""

    def bind_logits(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make room for the output logits."""

    def run(self) -> None:
        """Run the graph once."""

    def logits(self) -> NDArray[Any]:
        """The logits of the last run, valid until the next one."""

    def copy_caches(self, other: Self, length: int) -> None:
        """Copy the first `length` tokens of the caches of another decoder of the same graph."""


def memory_for(session: onnxruntime.InferenceSession) -> HostMemory | DeviceMemory:
    """The memory in which a session computes."""
    return DeviceMemory(session, CUDA) if runs_on_cuda(session) else HostMemory(session)


class HostMemory:
    """Arrays of this process, each bound once.

    Attributes:
        caches: Key and value of layer 0, of layer 1, ...
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.caches: list[NDArray[Any]] = []
        self._session = session
        self._binding: Any = session.io_binding()

    def add_cache(self, past: str, present: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """The operating system fills a page only when it is written to."""
        self.caches.append(np.zeros(shape, dtype))
        self._bind(self._binding.bind_input, past, self.caches[-1])
        self._bind(self._binding.bind_output, present, self.caches[-1])

    def bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Bind an array, which must stay alive until another replaces it."""
        self._bind(self._binding.bind_input, name, array)

    def bind_logits(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """The array that `logits` returns."""
        self._logits = np.zeros(shape, dtype)
        self.bind_output("logits", self._logits)

    def bind_output(self, name: str, array: NDArray[Any]) -> None:
        """Let the graph write to an array, which must stay alive until another replaces it."""
        self._bind(self._binding.bind_output, name, array)

    def run(self) -> None:
        """Run the graph once."""
        self._session.run_with_iobinding(self._binding)

    def logits(self) -> NDArray[Any]:
        """The memory that the graph writes to."""
        return self._logits

    def copy_caches(self, other: HostMemory, length: int) -> None:
        """Copy the first `length` tokens."""
        for mine, theirs in zip(self.caches, other.caches, strict=True):
            mine[:, :, :length] = theirs[:, :, :length]

    def _bind(self, bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class DeviceMemory:
    """Caches and logits on a device.

    ONNX Runtime sends an input to the device when it is bound, not when the graph runs: inputs that
    change from step to step are bound again each time.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str) -> None:
        """Take the session, and ONNX Runtime's Python name for the device.

        With "cpu" the same calls are made without a GPU.
        """
        import onnxruntime

        self._values: Any = onnxruntime.OrtValue
        self._device = device
        self._session = session
        self._binding: Any = session.io_binding()
        self._caches: list[Any] = []
        self._sent: dict[str, NDArray[Any]] = {}
        self._elsewhere: dict[str, Any] = {}
        """Caches that the graph reads from other memory than their own, for example where an
        operator runs as a function on the CPU: they are also copied when they are bound."""
        infos = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
        self._memories = {entry.name: info.name for entry, info in infos}

    def add_cache(self, past: str, present: str, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Allocate zeros: some graphs read the entries behind the tokens and multiply them by 0.

        Raises:
            ResqError: The device does not have enough memory.
        """
        try:
            value = self._values.ortvalue_from_numpy(np.zeros(shape, dtype), self._device, 0)
        except Exception as error:  # its exceptions have no common base but this
            raise ResqError(
                f"{past} of {shape} {np.dtype(dtype)} does not fit on the GPU: "
                f"{first_line(error)}; make it shorter, or the batch smaller"
            ) from error
        self._caches.append(value)
        if self._memories[past] == ON_DEVICE.get(self._device):
            self._binding.bind_ortvalue_input(past, value)
        else:
            self._elsewhere[past] = value
        self._binding.bind_ortvalue_output(present, value)

    def bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Bind an array that is sent in each run."""
        self._sent[name] = array

    def bind_logits(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Keep the logits on the device until they are requested."""
        self._logits = self._values.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self._device, 0
        )
        self._binding.bind_ortvalue_output("logits", self._logits)

    def run(self) -> None:
        """Send the inputs, and run the graph once."""
        for name, array in self._sent.items():
            self._binding.bind_cpu_input(name, array)
        for name, value in self._elsewhere.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def logits(self) -> NDArray[Any]:
        """Fetch the logits from the device."""
        fetched: NDArray[Any] = self._logits.numpy()
        return fetched

    def copy_caches(self, other: DeviceMemory, length: int) -> None:
        """Copy the first `length` tokens through this process: device arrays cannot be sliced."""
        for mine, theirs in zip(self._caches, other._caches, strict=True):
            array = np.array(mine.numpy())
            array[:, :, :length] = theirs.numpy()[:, :, :length]
            mine.update_inplace(array)
