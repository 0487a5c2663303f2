"""Which files of a model's folder are the model's, and where their links may lead."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from resq_onnx.checkpoint.folder import files_of
from resq_onnx.checkpoint.safetensors_store import SafetensorsStore
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As much of a model as is looked at before its configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "merges.txt", "LICENSE", "README.md"):
        (folder / name).write_text("{}")
    save_file({"weight": torch.full((200,), 3.0)}, folder / WEIGHTS)
    return folder


def hugging_face_cache(folder: Path, top: Path) -> Path:
    """The same files as `hf download` leaves them."""
    snapshot, blobs = top / "models--a--b" / "snapshots" / "0a1b", top / "models--a--b" / "blobs"
    for one in (snapshot, blobs):
        one.mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def refusal(folder: Path) -> str:
    with pytest.raises(ResqError) as error, open_model(folder):
        pass
    return str(error.value)


def check_weights(folder: Path) -> None:
    """They can be read, both at once and as the traced graph reads them."""
    with open_model(folder) as source:
        assert source.folder == folder
    stored = SafetensorsStore(folder)["weight"]
    external = stored.external()
    assert external.tobytes() == np.full(200, 3.0, np.float32).tobytes()
    external.release()
    np.testing.assert_array_equal(stored.float32(), np.full(200, 3.0, np.float32))


def test_a_folder_of_a_hugging_face_cache_is_a_model(folder: Path, tmp_path: Path) -> None:
    snapshot = hugging_face_cache(folder, tmp_path)
    check_weights(snapshot)
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot, target_is_directory=True)
    check_weights(linked)


def test_weights_may_be_links_or_have_several_names(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere.safetensors")
    check_weights(folder)
    (folder / WEIGHTS).unlink()
    os.link(tmp_path / "elsewhere.safetensors", folder / WEIGHTS)
    check_weights(folder)


@pytest.mark.parametrize("name", ["merges.txt", "LICENSE", "NOTICE", "vocab.json", "config.json"])
def test_a_link_out_of_the_folder_is_not_copied(folder: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert f"{folder / name}: is a link to {secret}, outside of" in refusal(folder)


def test_a_cache_does_not_lead_elsewhere_either(folder: Path, tmp_path: Path) -> None:
    snapshot = hugging_face_cache(folder, tmp_path)
    (tmp_path / "secret").write_text("")
    (snapshot / "NOTICE").symlink_to("../../../secret")
    assert "NOTICE: is a link to" in refusal(snapshot)


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "NOTICE").symlink_to("LICENSE")
    check_weights(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "b.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{folder / name}: is not a regular file" in refusal(folder)


def test_a_link_to_nothing_is_named(folder: Path) -> None:
    (folder / "vocab.json").symlink_to("gone")
    assert f"{folder / 'vocab.json'}: is a link to nothing" in refusal(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_names_no_file_of_another_place(folder: Path, name: str) -> None:
    save_file({"weight": torch.ones(2)}, folder.parent / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {{"weight": "{name}"}}}}')
    with pytest.raises(ResqError, match=r"index\.json: names .*, and weights must lie beside it"):
        SafetensorsStore(folder)


def test_weights_that_vanish_are_named(folder: Path) -> None:
    stored = SafetensorsStore(folder)["weight"]
    (folder / WEIGHTS).unlink()
    with pytest.raises(ResqError, match=r"model\.safetensors: cannot be read: No such file"):
        stored.float32()


def test_the_files_of_a_model_are_those_that_are_read_and_the_names_of_others(folder: Path) -> None:
    (folder / "notes.txt").write_text("")
    found = {path.name for path in files_of(folder)}
    assert {"config.json", "LICENSE", "vocab.json", "model.safetensors.index.json"} <= found
    assert not {"notes.txt", "NOTICE"} & found
    assert files_of(folder / "model.gguf") == [folder / "model.gguf"]


def test_weights_that_may_not_be_read_are_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path, _mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ResqError, match=r"model\.safetensors: cannot be read: Permission denied"):
        SafetensorsStore(folder)
