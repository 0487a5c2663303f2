"""One node of an operator, run by the compiled library.

The model holds no function, so a session can run the node by a kernel or not at all: a test
can't pass because ONNX Runtime fell back to the body.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_onnx.functions import DOMAIN, OPSET, VERSION, Form
from resq_onnx.runtime import library
from tests.functions.attention_cases import SOFTCAP
from tests.functions.engines import IR_VERSION, PER_CALL, run

Array = NDArray[Any]
Attributes = dict[str, int | float | str]

EPSILON: Final = 1e-5
"""`norm_epsilon` of every node with a norm, unless a test chooses another."""

HALVED: Final = ("X", "residual", "QKV", "gate_up")
"""Inputs of the type T, which float16 nodes have in float16."""

ISA_VARIABLE: Final = "RESQ_ONNX_ISA"
REPOSITORY: Final = Path(__file__).parents[2]
TIMEOUT: Final = 300
"""Seconds after which a process counts as hung; all of them need a few."""


@dataclass(frozen=True)
class Node:
    """Everything there is to get right, or wrong, about one node.

    Attributes:
        op_type: The operator.
        inputs: Names of all inputs in the operator's order.
        outputs: Names of all outputs.
        arrays: By name; an input without an array is left out of the node.
        attributes: Of the node.
        fed: Inputs of the model; the others are constants in it.
        name: Of the node.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arrays: Mapping[str, Array]
    attributes: Attributes
    fed: frozenset[str] = field(default=frozenset(PER_CALL))
    name: str = "layers.7/node"

    @classmethod
    def of(cls, form: Form, arrays: Mapping[str, Array], **chosen: float) -> Node:
        """A node of a form.

        Args:
            form: Its form.
            arrays: By name, every input the form has.
            **chosen: Attributes the form leaves to its nodes, where not the usual ones.
        """
        free = {**chosen_attributes(form), **chosen}
        return cls(
            form.op_type,
            tuple(parameter.name for parameter in form.inputs()),
            tuple(parameter.name for parameter in form.outputs()),
            dict(arrays),
            {**form.attributes(), **free},
        )

    def with_arrays(self, **arrays: Array | None) -> Node:
        """The node with other inputs; None leaves one out."""
        merged = {**self.arrays, **arrays}
        kept = {name: array for name, array in merged.items() if array is not None}
        return dataclasses.replace(self, arrays=kept)

    def with_attributes(self, **attributes: float | str | None) -> Node:
        """The node with other attributes; None leaves one out."""
        merged = {**self.attributes, **attributes}
        kept = {name: value for name, value in merged.items() if value is not None}
        return dataclasses.replace(self, attributes=kept)

    def in_half(self) -> Node:
        """The node with T = float16."""
        with np.errstate(over="ignore"):
            halved = {n: self.arrays[n].astype(np.float16) for n in HALVED if n in self.arrays}
        return self.with_arrays(**halved)

    def feeds(self) -> dict[str, Array]:
        """The inputs of the model."""
        return {name: array for name, array in self.arrays.items() if name in self.fed}

    def model(self) -> bytes:
        """A model of this node alone."""
        given = [name if name in self.arrays else "" for name in self.inputs]
        while given and not given[-1]:
            given.pop()
        node = oh.make_node(self.op_type, given, self.outputs, self.name, domain=DOMAIN)
        node.attribute.extend(oh.make_attribute(*item) for item in self.attributes.items())
        first = next((self.arrays[n] for n in self.inputs if n in self.arrays), np.zeros(1))
        element_types = [oh.np_dtype_to_tensor_dtype(first.dtype)]
        element_types += [onnx.TensorProto.UINT8] * (len(self.outputs) - 1)
        graph = oh.make_graph(
            [node],
            "one node",
            [_signature(name, array) for name, array in self.feeds().items()],
            [
                oh.make_tensor_value_info(name, element_type, None)
                for name, element_type in zip(self.outputs, element_types, strict=True)
            ],
            [
                numpy_helper.from_array(np.asarray(array), name)
                for name, array in self.arrays.items()
                if name not in self.fed
            ],
        )
        opsets = [oh.make_opsetid("", OPSET), oh.make_opsetid(DOMAIN, VERSION)]
        model = oh.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())

    def open(self, *, threads: int = 1) -> ort.InferenceSession:
        """A session that runs the node by its kernel."""
        return open_session(self.model(), threads=threads)

    def run(self, *, threads: int = 1) -> list[Array]:
        """The outputs of the kernel."""
        return list(self.open(threads=threads).run(None, self.feeds()))


def _signature(name: str, array: Array) -> onnx.ValueInfoProto:
    element_type = oh.np_dtype_to_tensor_dtype(array.dtype)
    return oh.make_tensor_value_info(
        name, element_type, [f"{name}_{axis}" for axis in range(array.ndim)]
    )


def chosen_attributes(form: Form) -> dict[str, float]:
    """The usual values of the attributes a form leaves to its nodes."""
    usual = {"norm_epsilon": EPSILON, "softcap": SOFTCAP}
    free = form.free_attributes()
    return {name: usual[name] if value is None else value for name, value in free.items()}


def by_body(form: Form, arrays: Mapping[str, Array], **chosen: float) -> list[Array]:
    """The outputs of the node by the form's body, in ONNX Runtime without our library."""
    return run("onnxruntime", form, arrays, {**chosen_attributes(form), **chosen})


def open_session(
    model: bytes | Path,
    *,
    threads: int = 1,
    kernels: bool = True,
    optimised: bool = True,
    initializers: Mapping[str, ort.OrtValue] | None = None,
) -> ort.InferenceSession:
    """A session with our library, or without it.

    Args:
        model: The model, or its file.
        threads: Threads of one operator.
        kernels: Whether our library is registered.
        optimised: All graph optimisations, or none.
        initializers: Constants that stay in the memory they are given in.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    options.enable_cpu_mem_arena = False  # each tensor ends where its memory does
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, value in (initializers or {}).items():
        options.add_initializer(name, value)
    if kernels:
        library.register(options)
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_module(
    module: str, *arguments: object, isa: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module of this folder in a process of its own, with an instruction set."""
    environment = {**os.environ}
    environment.pop(ISA_VARIABLE, None)
    if isa is not None:
        environment[ISA_VARIABLE] = isa
    return subprocess.run(
        [sys.executable, "-m", f"tests.custom_ops.{module}", *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def assert_identical(actual: list[Array], expected: list[Array]) -> None:
    """Equal to the last bit, type and shape included."""
    for one, other in zip(actual, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes(), f"{np.sum(one != other)} of {one.size} differ"
