"""Each tiny model is written and traced once, however many tests look at it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.passes.cases import CASES, Case, make_case


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


@pytest.fixture
def biased(cases: Callable[[str], Case]) -> Case:
    """A model in which every linear layer but lm_head has a bias."""
    return cases("llama untied with biases")
