"""Which of the packages that this one asks for are there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from typing import Final

PACKAGE: Final = "resq-onnx"

EXTRAS: Final = ("", "cpu", "gpu", "export", "serve", "harness")
"""Of this package, those that users install; what belongs to none of them, "", everything needs."""

MODULES: Final = {"onnxruntime-gpu": "onnxruntime", "pyyaml": "yaml"}
"""By package, its module, if that has another name."""


@dataclass(frozen=True)
class Package:
    """A package that this one asks for.

    Attributes:
        name: As pip takes it.
        version: That is installed; None if none is.
        least: The first version that will do.
    """

    name: str
    version: str | None
    least: str

    @property
    def will_do(self) -> bool:
        """Whether it is there, and not too old."""
        return self.version is not None and _numbers(self.version) >= _numbers(self.least)

    def __str__(self) -> str:
        if self.version is None:
            return f"no {self.name}"
        wanted = "" if self.will_do else f" (needs {self.least})"
        return f"{self.name} {self.version}{wanted}"


def packages_by_extra() -> dict[str, tuple[Package, ...]]:
    """What this package asks for, by the values of `EXTRAS`; empty where it is not installed."""
    found: dict[str, list[Package]] = {extra: [] for extra in EXTRAS}
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    for requirement in requirements:  # such as `torch>=2.13; extra == "export"`
        extra = _first(r"extra\s*==\s*['\"]([\w-]+)", requirement)
        if extra in found:
            name = _first(r"([\w.-]+)", requirement)
            least = _first(r">=\s*([\d.]+)", requirement)
            found[extra].append(Package(name, _version(name), least))
    return {extra: tuple(packages) for extra, packages in found.items()}


def pip_line(extra: str) -> str:
    """What to run for the packages of an extra."""
    return f'pip install "{PACKAGE}[{extra}]"' if extra else f"pip install {PACKAGE}"


def _version(name: str) -> str | None:
    """The version of a package whose module is there too: it may be left of one that is gone."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if is_there(MODULES.get(name, name.replace("-", "_"))) else None


def is_there(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # of one that is half imported
        return False


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _numbers(version: str) -> tuple[int, ...]:
    """To compare by: 2.13.0+cpu and 2.13 are equal."""
    numbers = [int(number) for number in _first(r"^([\d.]*)", version).split(".") if number]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
