"""Each tiny model, and each function of ai.resq, is traced once, however many tests look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import onnx
import onnx_ir as ir
import pytest

from resq_onnx.functions import Form
from tests.passes.cases import CASES, Case, make_case

TRACE = Form.function


@cache
def traced_function(form: Form) -> onnx.FunctionProto:
    return ir.serde.serialize_function(TRACE(form))


@pytest.fixture(scope="module", autouse=True)
def _functions_are_traced_once() -> Iterator[None]:
    """A third of the time of these tests would otherwise go into tracing equal functions."""
    with pytest.MonkeyPatch.context() as patch:
        copy = ir.serde.deserialize_function
        patch.setattr(Form, "function", lambda form: copy(traced_function(form)))
        yield


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """The case of a name."""
    return cache(lambda name: make_case(name, tmp_path_factory.mktemp(name.replace(" ", "_"))))


@pytest.fixture(params=CASES)
def case(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    """Every case in turn."""
    return cases(request.param)


@pytest.fixture
def llama(cases: Callable[[str], Case]) -> Case:
    """For what does not depend on the family."""
    return cases("llama tied")


@pytest.fixture(scope="session")
def separate(cases: Callable[[str], Case]) -> Case:
    """A tied model whose embedding and lm_head get a table each."""
    return cases("llama tied").with_recipe(tables="separate")


@pytest.fixture
def biased(cases: Callable[[str], Case]) -> Case:
    """A model in which every linear layer but lm_head has a bias."""
    return cases("llama untied with biases")


@pytest.fixture(scope="session")
def contrib(cases: Callable[[str], Case]) -> Case:
    """A model in ONNX Runtime's own operators, with one table."""
    return contrib_case(cases, "llama tied")


@pytest.fixture(params=CASES)
def any_contrib(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    """Every case in ONNX Runtime's own operators."""
    return contrib_case(cases, request.param)


@cache
def contrib_case(cases: Callable[[str], Case], name: str) -> Case:
    return cases(name).with_recipe(format="contrib")
