"""Tuning by default: tests have none, unless they say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from resq_onnx.methods import METHODS

RESQ: Final = METHODS["resq"]


def tuning_by_default(patch: pytest.MonkeyPatch, steps: int = RESQ.tuning_steps) -> None:
    """From here on, weights are tuned in so many steps unless a recipe says otherwise."""
    patch.setitem(METHODS, RESQ.name, replace(RESQ, tuning_steps=steps))
