"""A tiny exported model in lm_eval's hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.harness.model import ResqOnnx
from resq_onnx.runtime import Decoder, create_session
from tests.tiny_exports import TinyExports

POSITIONS = 128


@pytest.fixture(scope="session")
def exported(tiny_exports: TinyExports) -> Path:
    """A Qwen2 model of two layers with a chat template, exported by the command line."""
    return tiny_exports.model("qwen2", tied=True, max_position_embeddings=POSITIONS).export()


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
