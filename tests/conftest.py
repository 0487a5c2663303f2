"""What tests of several folders share, and which of them are slow or need more than Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.usual_tuning import tuning_by_default

if TYPE_CHECKING:
    from tests.smollm2 import Exported
    from tests.tiny_exports import TinyExports

MODEL_VARIABLE: Final = "RESQ_TEST_MODEL"

SLOW: Final = (
    "tests/bad_input/test_output.py",
    "tests/calibration/test_distributed.py",
    "tests/cuda/",
    "tests/custom_ops/test_bounds.py",
    "tests/custom_ops/test_concurrency.py",
    "tests/end_to_end/",
    "tests/evaluation/test_faults.py",
    "tests/handoff/",
    "tests/harness/",
    "tests/runtime/test_telemetry.py",
    "tests/serving/test_robustness.py",
)
"""Whole exports, processes and runtimes that take their time; elsewhere single tests are marked."""

NEEDS_NPM: Final = "packages"
"""The fixture that brings what a chat page runs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, file and fixture; the one real export, which takes longest, comes first.

    Its own tests are slow only where they say so: `make test` has the others.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        path = item.path.as_posix()
        if "smollm2" in fixtures:
            item.add_marker("real_model")
        elif any(part in path for part in SLOW):
            item.add_marker("slow")
        if "browser" in item.path.stem or NEEDS_NPM in fixtures:
            item.add_marker("browser")
    items.sort(key=lambda item: not _begins_with_the_export(item))


def _begins_with_the_export(item: pytest.Item) -> bool:
    marks = {mark.name for mark in item.iter_markers()}
    return "real_model" in marks and not marks & {"slow", "browser", "cuda"}


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a .gguf file, which `make test` fetches.

    Skips the test where there is none; in CI that is a failure.
    """
    model = Path(os.environ.get(MODEL_VARIABLE, ""))
    if model.is_file():
        return model
    reason = f"{MODEL_VARIABLE} names no file: run `make test`, or scripts/fetch_smollm2.py"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def smollm2_exported(smollm2: Path) -> Exported:
    """SmolLM2 by the default recipe, and its calibration; not to be changed."""
    from tests.smollm2 import exported

    return exported(smollm2)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a pytest run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_exports(shared_folder: Path) -> TinyExports:
    """Tiny models and what is exported of them, made once. Copy what a test changes."""
    from tests.tiny_exports import TinyExports

    return TinyExports(shared_folder / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _weights_are_not_tuned() -> Iterator[None]:
    """Unless a test says so: it would double the time of most."""
    with pytest.MonkeyPatch.context() as patch:
        tuning_by_default(patch, 0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _equal_models_are_traced_once() -> Iterator[None]:
    """Where anything can be traced: torch takes seconds to import."""
    if "torch" not in sys.modules:
        yield
        return
    from tests.traced_once import tracing_equal_models_once

    with tracing_equal_models_once():
        yield
