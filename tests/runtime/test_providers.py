"""Whoever asks for CUDA gets it, or one line that says what is missing and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnxruntime
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime import create_session, library
from resq_onnx.runtime.providers import CUDA_PROVIDER, PROVIDERS, runs_on_cuda
from tests.custom_ops.hadamard_cases import node_of
from tests.runtime import toy

REAL: Final = onnxruntime.InferenceSession


class Falling:
    """What ONNX Runtime does without a GPU: a session for CUDA that runs on the CPU."""

    asked: Any = None

    def __new__(cls, path: str, options: Any, **arguments: Any) -> Any:
        cls.asked = arguments["providers"]
        return REAL(path, options, providers=["CPUExecutionProvider"])


class Rising:
    """A session that says it runs on a GPU, though its nodes do on the CPU."""

    def __new__(cls, path: str, options: Any, **_arguments: Any) -> Any:
        session = REAL(path, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: [CUDA_PROVIDER, "CPUExecutionProvider"]
        return session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy.save_toy(tmp_path / "toy.onnx")


@pytest.fixture
def with_cuda_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if onnxruntime-gpu were installed."""
    both = [CUDA_PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)


@pytest.fixture
def with_cuda_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the operators had been built for CUDA."""
    built = library.library_path()
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / built.name).symlink_to(built)
    (folder / f"libresq_onnx_ops_cuda{built.suffix}").touch()
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(folder / built.name))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ResqError) as refused:
        create_session(path, threads=1, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_an_unknown_provider_is_refused(path: Path) -> None:
    assert refusal(path, provider="npu") == "provider is 'npu'; it must be one of cpu, cuda"


def test_onnxruntime_without_cuda_is_refused_with_what_to_install(path: Path) -> None:
    message = refusal(path, provider="cuda")
    assert f"has no {CUDA_PROVIDER}" in message
    assert "resq-onnx[gpu]" in message
    assert "--provider cpu" in message


@pytest.mark.usefixtures("with_cuda_provider")
def test_operators_that_were_not_built_for_cuda_are_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "libresq_onnx_ops.so"
    alone.symlink_to(library.library_path())
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(alone))
    message = refusal(path, provider="cuda")
    assert f"libresq_onnx_ops_cuda.so is not in {tmp_path}" in message
    assert "-C cmake.define.RESQ_CUDA=ON" in message
    assert "--no-kernels" in message


@pytest.mark.usefixtures("with_cuda_provider", "with_cuda_library")
def test_a_session_that_fell_back_to_the_cpu_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Falling)
    monkeypatch.setattr(library, "register", lambda _options: None)
    message = refusal(path, provider="cuda")
    assert f"{path}: CUDA was asked for, and ONNX Runtime fell back to CPUExec" in message
    assert "nvidia-smi" in message
    assert [Falling.asked[0][0], Falling.asked[1]] == [CUDA_PROVIDER, "CPUExecutionProvider"]


@pytest.mark.usefixtures("with_cuda_provider")
def test_without_kernels_no_library_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Rising)
    assert runs_on_cuda(create_session(path, threads=1, provider="cuda", kernels=False))


@pytest.mark.usefixtures("with_cuda_provider")
def test_what_preloading_prints_is_not_on_stdout(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Rising)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("libcudnn.so.9 is not there"))
    create_session(path, threads=1, provider="cuda", kernels=False)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("with_cuda_provider")
def test_operators_that_stay_on_the_cpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the library for CUDA were there and had no kernel."""
    there = Path("lib/libresq_onnx_ops_cuda.so")
    monkeypatch.setattr(library, "cuda_library_path", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Rising)
    path = tmp_path / "node.onnx"
    path.write_bytes(node_of("both parts", 1).model())
    message = refusal(path, provider="cuda")
    assert "GatedHadamard would run on the CPU" in message
    assert "libresq_onnx_ops_cuda.so could not be loaded" in message


def test_the_cpu_asks_for_nothing(path: Path) -> None:
    assert create_session(path, threads=1).get_providers() == PROVIDERS["cpu"]
    assert not runs_on_cuda(create_session(path, threads=1, provider="cpu"))
