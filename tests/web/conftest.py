"""A real browser, and what npm brings for the page; in CI both must be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.web import fetch_packages
from tests.needed import program_of, skip_or_fail
from tests.web.devtools import BROWSERS, Page, browsing


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """From the user's cache, or from npm."""
    try:
        return fetch_packages()
    except ResqError as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An empty page of Debian's chromium."""
    with browsing(program_of("chromium", *BROWSERS), tmp_path_factory.mktemp("profile")) as page:
        yield page
