import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.files import work_folder
from resq_onnx.files.work_folder import IDENTITY, usual_folder, working

WHO = {"model": "a", "recipe": {"seed": 0}}


def test_a_finished_part_is_there_again_after_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with pytest.raises(RuntimeError), working(target, WHO) as (work, _):  # noqa: PT012
        work.save("layer", {"sums": np.arange(3)})
        work.array("hidden", (2, 2))[:] = 7
        raise RuntimeError
    with working(target, WHO) as (work, changed):
        assert changed == []
        assert work.has("layer")
        assert not work.has("other")
        assert work.load("layer")["sums"].tolist() == [0, 1, 2]
        assert work.array("hidden", (2, 2)).tolist() == [[7, 7], [7, 7]]
    assert list(tmp_path.iterdir()) == []


def test_without_a_finished_part_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), working(tmp_path / "model.onnx", WHO) as (work, _):  # noqa: PT012
        work.array("hidden", (2,))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "changed"),
    [({**WHO, "model": "b"}, ["model"]), ({"recipe": {"seed": 1}}, ["model", "recipe"])],
)
def test_parts_of_something_else_are_removed_and_named(
    tmp_path: Path, other: dict[str, object], changed: list[str]
) -> None:
    target = tmp_path / "model.onnx"
    leave_a_part(target)
    with working(target, other) as (work, found):
        assert found == changed
        assert not work.has("layer")


def test_parts_of_another_version_of_the_package_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.onnx"
    leave_a_part(target)
    monkeypatch.setattr(work_folder, "__version__", "99.0")
    with working(target, WHO) as (work, changed):
        assert changed == ["version"]
        assert not work.has("layer")
        assert json.loads((work.folder / IDENTITY).read_text())["version"] == "99.0"


def leave_a_part(target: Path, folder: Path | None = None) -> None:
    with pytest.raises(RuntimeError), working(target, WHO, folder) as (work, _):  # noqa: PT012
        work.save("layer")
        raise RuntimeError


def test_fresh_removes_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    leave_a_part(target)
    with working(target, WHO, fresh=True) as (work, changed):
        assert changed == []
        assert not work.has("layer")


def test_it_may_be_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "disk" / "work"
    leave_a_part(tmp_path / "model.onnx", folder)
    assert (folder / IDENTITY).is_file()
    with working(tmp_path / "model.onnx", WHO, folder) as (work, _):
        assert work.has("layer")


def test_a_folder_with_something_else_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ResqError, match=r"mine: is there already, and is not a work folder"):  # noqa: SIM117
        with working(tmp_path / "model.onnx", WHO, tmp_path / "mine"):
            pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_two_processes_do_not_work_in_it(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    with working(target, WHO):  # noqa: SIM117
        with pytest.raises(ResqError, match="is being written by process"), working(target, WHO):
            pass


@pytest.mark.parametrize("content", ["", "{", '{"version": 0}', "[]"])
def test_an_identity_that_is_cut_off_is_another_one(tmp_path: Path, content: str) -> None:
    target = tmp_path / "model.onnx"
    leave_a_part(target)
    (usual_folder(target) / IDENTITY).write_text(content)
    with working(target, WHO) as (work, changed):
        assert changed
        assert not work.has("layer")
        assert json.loads((work.folder / IDENTITY).read_text())["model"] == "a"


def test_a_part_that_was_cut_off_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    leave_a_part(target)
    (usual_folder(target) / "layer.safetensors").write_bytes(b"\0" * 5)
    with working(target, WHO) as (work, _), pytest.raises(ResqError, match="use --fresh"):
        work.load("layer")


def test_an_array_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with working(tmp_path / "model.onnx", WHO) as (work, _):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(ResqError, match="cannot be written: File too large"):
                work.array("hidden", (2, 5_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    with working(tmp_path / "model.onnx", WHO) as (work, _):
        assert work.folder.stat().st_mode & 0o777 == 0o700
        assert os.listdir(work.folder) == [IDENTITY]
