"""On a GPU, or with RESQ_CUDA_TWINS=all, these tests run in all their cases, and on the CPU too.

Elsewhere the CPU would only be compared with itself. That shows that a test runs, for which one
case of each test is enough: the first one is kept, the others are deselected.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.cuda.gpu import missing

TWINS_VARIABLE: Final = "RESQ_CUDA_TWINS"

HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first case of each test that is not marked `cuda`, where nothing can be."""
    if os.environ.get(TWINS_VARIABLE) == "all" or not missing():
        return
    seen: set[tuple[Path, str]] = set()
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        twin = item.path.is_relative_to(HERE) and not item.get_closest_marker("cuda")
        test = (item.path, getattr(item, "originalname", item.name))
        (deselected if twin and test in seen else kept).append(item)
        if twin:
            seen.add(test)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is no GPU, or nothing to use it with.

    Where all of it is there, a session that falls back to the CPU is an error, and so is the test.
    """
    if item.get_closest_marker("cuda") and (reasons := missing()):
        pytest.skip(f"nothing can run on a GPU here: {'; '.join(reasons)}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def provider(request: pytest.FixtureRequest) -> str:
    """Where the session under test runs; what it is compared with runs on the CPU."""
    return str(request.param)
