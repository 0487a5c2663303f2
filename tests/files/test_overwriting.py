"""No command writes over what it reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.files import refuse_overwriting


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "in.onnx").write_text("model")
    return folder / "in.onnx"


def test_the_same_file_is_refused_by_whatever_path(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, hard, linked = (given.with_name(name) for name in ("link", "hard", "linked"))
    link.symlink_to(given)
    os.link(given, hard)
    linked.symlink_to(given.parent, target_is_directory=True)
    monkeypatch.chdir(given.parent)
    roundabout = given.parent / ".." / "model" / given.name
    for output in (given, link, hard, linked / given.name, roundabout, Path("in.onnx")):
        with pytest.raises(ResqError, match="what this command reads; name another file"):
            refuse_overwriting([given.with_name("fine"), output], [given])


def test_a_file_that_is_not_there_yet_is_refused_by_its_name(given: Path) -> None:
    later = given.with_name("model.safetensors")
    with pytest.raises(ResqError, match=r"is the same file as .*, what this command reads"):
        refuse_overwriting([given.parent / ".." / "model" / later.name], [later])


def test_other_files_are_not_refused(given: Path) -> None:
    copy = given.with_name("copy")
    copy.write_bytes(given.read_bytes())
    refuse_overwriting([copy, given.with_name("new")], [given])
