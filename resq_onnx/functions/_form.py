"""Forms of an operator, and the ONNX function of each form.

An ONNX function can neither test for an optional input nor branch on an attribute. So each
distinct form of a node has its own body: one name, several ONNX overloads. A form is a record;
its body is Python that branches on the record's fields while ONNX nodes are recorded.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript import OpBuilder, build_function

from resq_onnx.graph.names import DOMAIN, OPSET, VERSION

AttributeValue = int | float | str


@dataclass(frozen=True)
class Parameter:
    """An input or output of an operator: its place is fixed, its presence depends on the form."""

    name: str
    dtype: ir.DataType
    present: bool = True


class Form(abc.ABC):
    """One form of an operator: its inputs, sizes and body."""

    op_type: ClassVar[str]

    @property
    @abc.abstractmethod
    def overload(self) -> str:
        """Name of the form among those of its operator; equal forms have equal names."""

    @abc.abstractmethod
    def inputs(self) -> tuple[Parameter, ...]:
        """All inputs of the operator in order, including those that this form omits."""

    @abc.abstractmethod
    def outputs(self) -> tuple[Parameter, ...]:
        """The outputs of the operator."""

    @abc.abstractmethod
    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes that the form fixes; every node of this form carries them."""

    def free_attributes(self) -> dict[str, float | None]:
        """Float attributes set by each node, with their defaults; None if there is no default."""
        return {}

    @abc.abstractmethod
    def body(self, op: OpBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
        """Record the nodes of the body and return its outputs.

        Args:
            op: Records one node for each operator called on it.
            *inputs: One value for each of `inputs()`; absent ones must not be used.
        """

    def function(self) -> ir.Function:
        """The form as an ONNX function in domain `ai.resq`."""
        function = build_function(
            self.body,
            [ir.Value(name=i.name, type=ir.TensorType(i.dtype)) for i in self.inputs()],
            domain=DOMAIN,
            name=self.op_type,
            attributes=self._declared_attributes(),
            opset_imports={"": OPSET},
        )
        function.overload = self.overload
        for node in function:
            node.metadata_props.clear()  # The builder's module scopes, which are empty here.
        for output, declared in zip(function.outputs, self.outputs(), strict=True):
            output.name, output.type = declared.name, ir.TensorType(declared.dtype)
        return function

    def _declared_attributes(self) -> list[ir.Attr]:
        """The attributes of the form, with defaults, then those that its nodes set."""
        settled = [_attribute(name, value) for name, value in self.attributes().items()]
        chosen = [
            ir.Attr(name, ir.AttributeType.FLOAT, default)
            for name, default in self.free_attributes().items()
        ]
        return settled + chosen


def add_call(
    model: ir.Model,
    form: Form,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, float],
    name: str,
    output_names: Sequence[str],
) -> ir.Node:
    """Create a node of a form, and add the function and opset import that it needs to the model.

    The form's function is added to `model.functions` unless it is there already. The caller
    inserts the node into a graph. The types of the outputs are set, their shapes are not.

    Args:
        model: The model the node will belong to.
        form: The form of the operator.
        inputs: Values in the operator's order, None for absent ones; absent ones at the end
            may be omitted.
        attributes: Values of `form.free_attributes()`; those without a default are required.
        name: Name of the node.
        output_names: One name for each output.

    Raises:
        ValueError: The inputs, attributes or outputs do not match the form.
    """
    _check_call(form, inputs, attributes, name, output_names)
    chosen = {key: attributes.get(key, default) for key, default in form.free_attributes().items()}
    node = ir.Node(
        DOMAIN,
        form.op_type,
        inputs,
        [
            *(_attribute(key, value) for key, value in form.attributes().items()),
            *(ir.AttrFloat32(key, value) for key, value in chosen.items() if value is not None),
        ],
        overload=form.overload,
        name=name,
        outputs=[
            ir.Value(name=output_name, type=ir.TensorType(output.dtype))
            for output_name, output in zip(output_names, form.outputs(), strict=True)
        ],
    )
    if node.op_identifier() not in model.functions:
        model.functions[node.op_identifier()] = form.function()
    model.graph.opset_imports[DOMAIN] = VERSION
    return node


def _check_call(
    form: Form,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, float],
    name: str,
    output_names: Sequence[str],
) -> None:
    where = f"{form.op_type} node {name!r} of form {form.overload}"
    expected = form.inputs()
    if len(inputs) > len(expected):
        raise ValueError(f"{where}: {len(inputs)} inputs, expected at most {len(expected)}")
    given = [value is not None for value in inputs] + [False] * (len(expected) - len(inputs))
    for is_given, parameter in zip(given, expected, strict=True):
        if is_given != parameter.present:
            state = "is given, but the form has none" if is_given else "is missing"
            raise ValueError(f"{where}: input {parameter.name} {state}")
    free = form.free_attributes()
    unknown = set(attributes) - set(free)
    missing = {key for key, default in free.items() if default is None} - set(attributes)
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown attributes: {sorted(unknown)}, missing: {sorted(missing)}"
        )
    if len(output_names) != len(form.outputs()):
        raise ValueError(f"{where}: {len(output_names)} outputs, expected {len(form.outputs())}")


def _attribute(name: str, value: AttributeValue) -> ir.Attr:
    if isinstance(value, str):
        return ir.AttrString(name, value)
    return ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrFloat32(name, value)


def attribute_value(op: OpBuilder, name: str) -> Any:
    """A float attribute of the calling node as a scalar tensor."""
    reference = ir.Attr("value_float", ir.AttributeType.FLOAT, None, ref_attr_name=name)
    value = op.Constant(value_float=reference)
    # No type is inferred from a reference, and the builder promotes literals by type.
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return value
