"""Tiny models and what is exported of them, made once for all tests and all processes of pytest.

Several tests read the same files: who wants to change one makes a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tests.command_line import QUICK, run_successfully
from tests.once import once
from tests.tiny_models import build_model, write_model


@dataclass(frozen=True)
class TinyExports:
    """The folder in which all of them lie."""

    folder: Path

    def model(self, kind: str, *, tied: bool, seed: int = 0, **sizes: Any) -> TinyModel:
        """One of `write_model`, with the same arguments."""
        name = _short_name(kind, tied, seed, sorted(sizes.items()))
        return TinyModel(self.folder / f"{kind}-{name}", kind, tied, seed, sizes)


@dataclass(frozen=True)
class TinyModel:
    """A tiny model; its files are written when they are asked for."""

    top: Path
    kind: str
    tied: bool
    seed: int
    sizes: Mapping[str, Any]

    @cached_property
    def original(self) -> PreTrainedModel:
        """In PyTorch."""
        return build_model(self.kind, tied=self.tied, seed=self.seed, **self.sizes)

    @cached_property
    def folder(self) -> Path:
        """The Hugging Face directory."""

        def write(folder: Path) -> None:
            write_model(folder, self.kind, tied=self.tied, seed=self.seed, **self.sizes)

        return once(self.top / "model", write)

    @cached_property
    def projections(self) -> Path:
        """The calibration of `QUICK`."""

        def calibrate(folder: Path) -> None:
            run_successfully(
                "calibrate", self.folder, folder / "p.safetensors", "--hessians", *QUICK
            )

        return once(self.top / "calibrated", calibrate) / "p.safetensors"

    def export(self, *options: object, rotated: bool = False) -> Path:
        """The exported file, by the calibration of `QUICK`.

        Args:
            options: Of `export`.
            rotated: Whether `float.onnx` lies beside it: the float model.
        """

        def export(folder: Path) -> None:
            kept = ("--save-rotated", folder / "float.onnx") if rotated else ()
            known = ("--projections", self.projections)
            run_successfully("export", self.folder, folder / "model.onnx", *known, *options, *kept)

        name = _short_name(*options, rotated)
        return once(self.top / f"exported-{name}", export) / "model.onnx"


def _short_name(*parts: object) -> str:
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()[:12]
