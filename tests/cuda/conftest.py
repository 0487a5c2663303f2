"""Each test runs on the CPU too, which is compared with itself: that shows that the test runs."""

from __future__ import annotations

import pytest

from tests.cuda.gpu import missing


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
