"""Checks of files that are read, and whose name is told when something goes wrong."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.files import copy_file, reading, replacing, writing_to
from resq_onnx.files.checks import check_stays_inside


def failing(number: int, *names: object) -> OSError:
    """An error as the system reports one, of up to two files."""
    first, second = (*names, None, None)[:2]
    return OSError(number, os.strerror(number), first, None, second)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with (
        pytest.raises(ResqError, match=r"config\.json: is not a regular file"),
        reading(tmp_path / "config.json"),
    ):
        raise AssertionError("it was opened")


def test_a_file_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ResqError, match=r"merges\.txt: cannot be read: No such file"),
        writing_to(tmp_path / "out.onnx"),
    ):
        copy_file(tmp_path / "merges.txt", tmp_path / ".out.onnx.0" / "merges.txt")


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.EACCES, "model/model.safetensors"),
        (errno.ENOENT, "out/model.safetensors"),
        (errno.EIO, "out/other.onnx"),
    ],
)
def test_a_file_that_is_read_while_another_is_written_gets_the_blame(
    tmp_path: Path, number: int, name: str
) -> None:
    file = tmp_path / name
    with (
        pytest.raises(ResqError) as error,
        writing_to(tmp_path / "out" / "out.onnx"),
    ):
        raise failing(number, file)
    assert str(error.value).startswith(f"{file}: cannot be read: {os.strerror(number)}")


@pytest.mark.parametrize(
    ("number", "names"),
    [
        (errno.ENOSPC, []),
        (errno.ENOSPC, ["model/model.safetensors"]),
        (errno.EACCES, ["out/out.onnx"]),
        (errno.EACCES, ["out/.out.onnx.0123456789abcdef/tokenizer.json"]),
        (errno.EACCES, ["out"]),
        (errno.EACCES, ["out/tokenizer.json", "out/.out.onnx.publishing/.replaced/tokenizer.json"]),
    ],
)
def test_the_output_gets_the_blame_of_its_own_files(
    tmp_path: Path, number: int, names: list[str]
) -> None:
    out = tmp_path / "out" / "out.onnx"
    with pytest.raises(ResqError) as error, writing_to(out):
        raise failing(number, *(tmp_path / name for name in names))
    assert str(error.value).startswith(f"{out}: cannot be written: {os.strerror(number)}")


def test_links_within_a_folder_and_those_of_a_cache_are_its_own(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "0a1b", tmp_path / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "c0ffee").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/c0ffee")
    (snapshot / "copy.json").symlink_to("config.json")
    check_stays_inside(snapshot / "config.json")
    check_stays_inside(snapshot / "copy.json")
    shutil.copytree(snapshot, tmp_path / "other" / "folder", symlinks=True)
    (tmp_path / "other" / "folder" / "config.json").unlink()
    (tmp_path / "other" / "folder" / "config.json").symlink_to(blobs / "c0ffee")
    with pytest.raises(ResqError, match=r"config\.json: is a link to .*c0ffee, outside"):
        check_stays_inside(tmp_path / "other" / "folder" / "config.json")


def test_a_file_that_takes_anothers_place_has_the_mode_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("text")
        temporary.chmod(0o600)  # as safetensors does
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "new").stat().st_mode
