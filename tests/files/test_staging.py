"""Files that appear complete or not at all, and models by the names that users give."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.files import find_model, replacing, staged, writing_to


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(target: Path | str, files: Mapping[str, str], error: BaseException | None = None) -> None:
    """Stage files for a target; then fail, or publish them."""
    with staged(target) as staging:
        for name, text in files.items():
            (staging.folder / name).write_text(text)
        if error is not None:
            raise error
        staging.publish()


def test_nothing_appears_before_publishing_and_everything_after(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with staged(target) as staging:
        staging.model.write_text("model")
        (staging.folder / "out.onnx.data").write_text("data")
        assert staging.model.name == target.name
        assert names(tmp_path) == {staging.folder.name, ".out.onnx.lock"}
        paths = staging.publish()
    assert paths == [tmp_path / "out.onnx.data", target]
    assert names(tmp_path) == {"out.onnx", "out.onnx.data"}
    assert target.read_text() == "model"


def test_the_model_comes_last_whatever_its_name(tmp_path: Path) -> None:
    with staged(tmp_path / "a.onnx") as staging:
        for name in ("a.onnx", "a.onnx.data", "z.json"):
            (staging.folder / name).write_text(name)
        assert [path.name for path in staging.publish()] == ["a.onnx.data", "z.json", "a.onnx"]


def test_the_staging_folder_is_on_the_targets_file_system(tmp_path: Path) -> None:
    with staged(tmp_path / "new" / "out.onnx") as staging:
        assert staging.folder.parent == tmp_path / "new"
        assert os.stat(staging.folder).st_dev == os.stat(tmp_path).st_dev


@pytest.mark.parametrize("error", [ResqError("no"), ValueError("no"), KeyboardInterrupt()])
def test_whatever_goes_wrong_the_old_file_stays_and_nothing_is_left(
    tmp_path: Path, error: BaseException
) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("old")
    with pytest.raises(type(error)):
        write(target, {"out.onnx": "new"}, error)
    assert names(tmp_path) == {"out.onnx"}
    assert target.read_text() == "old"


def test_folders_made_for_the_target_are_gone_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), staged(tmp_path / "a" / "b" / "out.onnx"):
        raise ValueError("no")
    assert names(tmp_path) == set()


def test_folders_made_for_the_target_stay_once_something_is_in_them(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.onnx"
    write(target, {"out.onnx": "model"})
    assert target.read_text() == "model"


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("old")
    write(target, {"out.onnx": "new"})
    assert target.read_text() == "new"
    assert names(tmp_path) == {"out.onnx"}


def test_a_file_that_cannot_be_moved_brings_the_old_ones_back(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    old = {"out.onnx": "old model", "out.onnx.data": "old data"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "resq.json").mkdir()  # in the way of a file
    with pytest.raises(ResqError, match=r"resq\.json: cannot be written"):
        write(target, dict.fromkeys((*old, "resq.json"), "new"))
    assert {name: (tmp_path / name).read_text() for name in old} == old
    assert names(tmp_path) == {*old, "resq.json"}


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"is a directory; name the file"), staged(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResqError, match="cannot be written"):
        write(tmp_path / "file" / "out.onnx", {})
    assert names(tmp_path) == {"file"}


def test_a_full_disk_is_told_with_the_target_and_the_reason(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    with pytest.raises(ResqError) as error, staged(target), writing_to(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(error.value).startswith(f"{target}: cannot be written: No space left on device")
    assert "nothing was changed" in str(error.value)
    assert names(tmp_path) == set()


def test_a_name_in_the_working_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("out.onnx", {"out.onnx": "model"})
    assert names(tmp_path) == {"out.onnx"}


def test_a_folder_stands_for_the_one_model_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    assert find_model(tmp_path) == find_model(tmp_path / "a.onnx") == tmp_path / "a.onnx"
    (tmp_path / "b.onnx").touch()
    with pytest.raises(ResqError, match=r"several .onnx files \(a.onnx, b.onnx\)"):
        find_model(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert find_model(tmp_path) == tmp_path / "model.onnx"


def test_a_folder_without_an_exported_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"holds no \.onnx file; give the folder that resq-onnx"):
        find_model(tmp_path)
    with pytest.raises(ResqError, match=r"absent\.onnx: no such file"):
        find_model(tmp_path / "absent.onnx")


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "a.gguf"])
def test_an_original_model_has_to_be_exported_first(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    given = tmp_path / name if name.endswith(".gguf") else tmp_path
    with pytest.raises(ResqError, match="original model, not an exported one; export it"):
        find_model(given)


@pytest.mark.parametrize("target", ["/", "."])
def test_one_file_cannot_take_the_place_of_a_folder(target: str) -> None:
    with pytest.raises(IsADirectoryError), replacing(Path(target)):
        pass
