"""One process at a time writes to a target."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file, staged
from resq_onnx.files.locking import locked

HOLD = """
import sys
from pathlib import Path
from resq_onnx.files.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


@pytest.fixture
def other(target: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_writer_is_named(target: Path, other: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(ResqError, match=rf"out\.onnx: is being written by process {other.pid}; "),
        staged(target),
    ):
        pass


def test_what_another_writer_makes_is_left_alone(
    target: Path, other: subprocess.Popen[str]
) -> None:
    del other
    folder = target.with_name(f".{target.name}.0123456789abcdef")
    folder.mkdir()
    with pytest.raises(ResqError, match="is being written"), staged(target):
        pass
    assert folder.is_dir()


def test_what_a_killed_writer_left_is_removed(target: Path, other: subprocess.Popen[str]) -> None:
    folder = target.with_name(f".{target.name}.0123456789abcdef")
    folder.mkdir()
    (folder / "out.onnx.data").write_text("half of it")
    others = [target.with_name(name) for name in (".out.onnx.notes", ".b.onnx.0123456789abcdef")]
    for one in others:
        one.mkdir()
    other.kill()
    other.wait()
    assert target.with_name(".out.onnx.lock").exists()
    with staged(target) as staging:
        assert not folder.exists()
        staging.model.write_text("model")
        staging.publish()
    assert {path.name for path in target.parent.iterdir()} == {
        target.name,
        *(one.name for one in others),
    }


def test_the_lock_is_free_again_after_a_failure(target: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), staged(target):
            raise ValueError("no")
    assert list(target.parent.iterdir()) == []


def test_two_targets_in_a_folder_do_not_meet(target: Path) -> None:
    with staged(target) as one, staged(target.with_name("b.onnx")) as other:
        for staging in (one, other):
            staging.model.write_text(staging.target.name)
            staging.publish()
    assert {path.name for path in target.parent.iterdir()} == {"out.onnx", "b.onnx"}


def test_a_file_system_without_locks_bars_nobody(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    in_use = target.with_name(f".{target.name}.0123456789abcdef")
    in_use.mkdir()
    with locked(target) as held:
        assert not held
    with staged(target) as staging:
        staging.model.write_text("model")
        staging.publish()
    assert target.read_text() == "model"
    assert in_use.is_dir()


def test_a_link_in_the_place_of_the_lock_is_not_followed(target: Path) -> None:
    target.with_name(".out.onnx.lock").symlink_to(target.with_name("elsewhere"))
    with pytest.raises(ResqError, match=r"out\.onnx: cannot be written"), staged(target):
        pass
    assert not target.with_name("elsewhere").exists()


def test_a_reader_says_what_to_do_where_it_cannot_finish(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    target.with_name(".out.onnx.publishing").mkdir()
    monkeypatch.setattr("resq_onnx.files.staging.locked", denied)
    with pytest.raises(ResqError, match=r"killed while it put its files in place.*as a user who"):
        check_is_file(target)
