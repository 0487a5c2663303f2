"""`--threads` of an export reaches every session that it opens, and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resq_onnx.runtime import session
from tests.command_line import run_successfully
from tests.tiny_exports import TinyExports


def test_all_that_an_export_runs_uses_so_many_threads(
    tiny_exports: TinyExports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_exports.model("llama", tied=True)
    options, threads = session._options, []

    def noted(asked: int | None, *more: Any) -> Any:
        threads.append((asked, torch.get_num_threads()))
        return options(asked, *more)

    monkeypatch.setattr(session, "_options", noted)
    given = ("--projections", tiny.projections, "--threads", 2, "--quiet")
    result = run_successfully("export", tiny.folder, tmp_path / "model.onnx", *given)
    # The float graph and its pieces (embedding, two layers, head), decoding, and the comparison.
    assert len(threads) == 7
    assert set(threads) == {(2, 2)}
    assert result.stderr == ""
