from __future__ import annotations

import importlib.metadata
import sys

import pytest

from resq_onnx.evaluation import installation
from resq_onnx.evaluation.installation import EXTRAS, Package, packages_by_extra, pip_line


@pytest.mark.parametrize(
    ("version", "least", "will_do"),
    [
        ("2.13.0+cpu", "2.13", True),
        ("2.13", "2.13.0", True),
        ("1.9", "1.31", False),
        ("1.31.0rc1", "1.31", True),
        ("unknown", "1", False),
        ("0.1", "", True),
        (None, "", False),
    ],
)
def test_a_package_will_do_from_its_least_version_on(
    version: str | None, least: str, will_do: bool
) -> None:
    assert Package("any", version, least).will_do is will_do


def test_packages_are_those_that_this_one_asks_for() -> None:
    found = packages_by_extra()
    assert tuple(found) == EXTRAS
    names = {extra: {one.name for one in packages} for extra, packages in found.items()}
    assert {"numpy", "onnx-ir", "rich"} <= names[""]
    assert names["cpu"] == {"onnxruntime"}
    assert names["gpu"] == {"onnxruntime-gpu"}
    assert "torch" in names["export"]
    (runtime,) = found["cpu"]
    assert runtime.version == importlib.metadata.version("onnxruntime")
    assert runtime.least.startswith("1.")


def test_a_package_whose_module_is_gone_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (yaml,) = (one for one in packages_by_extra()["export"] if one.name == "pyyaml")
    assert yaml.version is None
    assert str(yaml) == "no pyyaml"


def test_a_source_tree_that_was_never_installed_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installation, "PACKAGE", "resq-onnx-that-is-not-installed")
    assert packages_by_extra() == {}


def test_an_old_package_says_what_is_needed() -> None:
    assert str(Package("torch", "2.1", "2.13")) == "torch 2.1 (needs 2.13)"
    assert pip_line("export") == 'pip install "resq-onnx[export]"'
    assert pip_line("") == "pip install resq-onnx"
