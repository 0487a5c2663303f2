"""Scratch folders go with their process, or with the next one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resq_onnx.files.scratch import YOUNG_SECONDS, scratch_folder
from tests.checkpoint.test_gguf import write_gguf
from tests.command_line import QUICK, program
from tests.tiny_models import write_model

HOLD = """
import sys
from resq_onnx.files.scratch import scratch_folder
with scratch_folder("text") as folder:
    (folder / "half").write_text("half of it")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a folder, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def make_old(folder: Path) -> None:
    then = time.time() - YOUNG_SECONDS - 1
    os.utime(folder, (then, then))


def test_a_folder_is_gone_in_the_end_whatever_happens(temporary: Path) -> None:
    with scratch_folder("gguf") as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError), scratch_folder("gguf") as folder:
        shutil.copytree(folder / "nothing", folder / "copy")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_one_uses_is_not(
    other: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = other
    make_old(folder)
    with scratch_folder("gguf"):
        assert (folder / "half").exists()
    process.kill()
    process.wait()
    with scratch_folder("gguf"):
        assert not folder.exists()


def test_a_folder_that_may_not_be_locked_yet_stays(temporary: Path) -> None:
    young = temporary / "resq-onnx-gguf-0123456789abcdef"
    young.mkdir()
    with scratch_folder("gguf"):
        assert young.is_dir()


@pytest.mark.parametrize("name", ["resq-onnx-results", "resq-onnx-gguf-0123", "resq-onnx"])
def test_a_folder_of_another_name_stays(temporary: Path, name: str) -> None:
    (temporary / name).mkdir()
    make_old(temporary / name)
    with scratch_folder("gguf"):
        assert (temporary / name).is_dir()


def test_a_link_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    make_old(tmp_path / "mine")
    (temporary / "resq-onnx-gguf-0123456789abcdef").symlink_to(tmp_path / "mine")
    with scratch_folder("gguf"):
        assert (tmp_path / "mine" / "file").exists()


KILL = """
import os, signal
from resq_onnx.checkpoint import gguf
def killed(file, folder):
    os.kill(os.getpid(), signal.SIGKILL)
gguf._write_licence = killed
"""
"""The last of unpacking: the weights are there by then."""


@pytest.mark.slow
def test_a_gguf_file_of_which_unpacking_was_killed_leaves_nothing_for_long(
    tmp_path: Path, temporary: Path
) -> None:
    original = write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=1)
    file = tmp_path / "model.gguf"
    write_gguf(original, tmp_path / "model", file)
    calibrate = ("calibrate", file, tmp_path / "out.safetensors", *QUICK)
    assert subprocess.run(program(*calibrate, before=KILL)).returncode == -signal.SIGKILL
    (left,) = temporary.glob("resq-onnx-*")
    assert (left / "model.safetensors").is_file()
    make_old(left)
    subprocess.run(program(*calibrate), check=True)
    assert list(temporary.glob("resq-onnx-*")) == []
