"""A tiny exported model in lm_eval's hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.harness.model import ResqOnnx
from resq_onnx.runtime import Decoder, create_session
from tests.command_line import QUICK, run_successfully
from tests.tiny_models import write_model

POSITIONS = 128


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 model of two layers with a chat template, exported by the command line."""
    folder = tmp_path_factory.mktemp("harness")
    write_model(folder / "model", "qwen2", tied=True, max_position_embeddings=POSITIONS)
    run_successfully("export", folder / "model", folder / "out" / "model.onnx", *QUICK)
    return folder / "out" / "model.onnx"


@pytest.fixture(scope="session")
def model(exported: Path) -> ResqOnnx:
    return ResqOnnx(str(exported), threads=1)


@pytest.fixture(scope="session")
def decoder(exported: Path) -> Decoder:
    return Decoder(create_session(exported, threads=1))


def instance(kind: str, *arguments: Any) -> Any:
    """What lm_eval gives to a model: one request."""
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)
