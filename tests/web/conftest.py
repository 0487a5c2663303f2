"""A real browser, and what npm brings for the page; in CI both must be there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.web import fetch_packages
from tests.web.devtools import Page, browsing

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """From the user's cache, or from npm."""
    try:
        return fetch_packages()
    except ResqError as error:
        skip_or_fail(str(error))
        raise


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """An empty page of Debian's chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        skip_or_fail("no chromium: install Debian's package of that name to run the page")
        raise AssertionError
    with browsing(browser, tmp_path_factory.mktemp("profile")) as page:
        yield page
