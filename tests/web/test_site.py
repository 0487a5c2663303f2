"""Which files a site has, and what the page is told."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.web.site import PAGE, make_site, write_site
from tests.tiny_models import CHAT_TEMPLATE, write_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as an export writes it; nobody runs the model."""
    folder = tmp_path / "my-model"
    write_tokenizer(folder, 256)
    (folder / "model.onnx").write_bytes(b"a graph")
    (folder / "model.onnx.data").write_bytes(b"its weights")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    path = tmp_path / "ort.mjs"
    path.write_text("export {};")
    return {"ort.mjs": path}


def test_page_packages_and_model_have_addresses(model: Path, packages: dict[str, Path]) -> None:
    files = make_site(model, packages).files
    assert files["index.html"] == PAGE / "index.html"
    assert files["vendor/ort.mjs"] == packages["ort.mjs"]
    assert files["model/model.onnx.data"] == model / "model.onnx.data"
    assert all(path.is_file() for path in files.values())
    assert "model/generation_config.json" not in files


def test_every_file_the_page_asks_for_is_there(model: Path) -> None:
    """Of its own: what npm brings has other tests."""
    files = make_site(model, {}).files
    page = (PAGE / "index.html").read_text()
    for name in ("app.js", "style.css", "icon.svg"):
        assert f'"{name}"' in page
        assert name in files
    assert '"worker.js"' in (PAGE / "app.js").read_text()
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path


def test_the_page_is_told_of_the_model(model: Path) -> None:
    manifest = make_site(model, {}).manifest
    assert manifest["name"] == "my-model"
    assert manifest["files"] == [
        {"name": "model.onnx", "bytes": 7},
        {"name": "model.onnx.data", "bytes": 11},
    ]
    assert manifest["stop_ids"] == [2, 7]
    assert manifest["chat_template"] == CHAT_TEMPLATE
    assert manifest["special_tokens"]["eos_token"] == "</s>"
    (model / "resq.json").write_text('{"model": "SmolLM2-135M-Instruct"}')
    assert make_site(model, {}).manifest["name"] == "SmolLM2-135M-Instruct"


def test_a_folder_with_one_model_of_another_name_will_do(model: Path) -> None:
    (model / "model.onnx").rename(model / "other.onnx")
    assert make_site(model, {}).manifest["graph"] == "other.onnx"
    (model / "third.onnx").write_bytes(b"")
    with pytest.raises(ResqError, match=r"several \.onnx files \(other\.onnx, third\.onnx\)"):
        make_site(model, {})
    assert make_site(model / "third.onnx", {}).manifest["graph"] == "third.onnx"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"holds no \.onnx file"):
        make_site(tmp_path, {})
    with pytest.raises(ResqError, match=r"missing\.onnx: no such file"):
        make_site(tmp_path / "missing.onnx", {})


def test_a_site_is_written_into_a_new_folder(
    model: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    site, folder = make_site(model, packages), tmp_path / "site"
    write_site(site, folder)
    assert json.loads((folder / "manifest.json").read_text()) == site.manifest
    for address, path in site.files.items():
        assert (folder / address).read_bytes() == path.read_bytes()
    with pytest.raises(ResqError, match="is there already and not empty"):
        write_site(site, folder)


def test_a_link_out_of_the_models_folder_is_not_served(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in ("model.onnx.data.x", "model.onnx.data1"):
        (model / name).symlink_to(tmp_path / "secret")
    assert {name for name in make_site(model, {}).files if "data" in name} == {
        "model/model.onnx.data"
    }
    (model / "model.onnx.data").unlink()
    (model / "model.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(ResqError, match=r"model\.onnx\.data: is a link to .*secret, outside"):
        make_site(model, {})


def test_a_graph_beside_another_models_data_is_not_served(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_data(path: Path) -> None:
        raise ResqError(f"{path}: another's")

    monkeypatch.setattr("resq_onnx.web.site.check_data", check_data)
    with pytest.raises(ResqError, match=r"model\.onnx: another's"):
        make_site(model, {})


@pytest.mark.parametrize("there", [(), ("new",), ("new", "new/site")])
def test_on_a_full_disk_nothing_of_a_site_is_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    def copyfileobj(source: BinaryIO, target: BinaryIO, length: int) -> None:
        target.write(source.read(length))
        if target.name.endswith(".data"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in there:
        (tmp_path / name).mkdir()
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr("resq_onnx.files.checks.shutil.copyfileobj", copyfileobj)
    with pytest.raises(ResqError, match=r"site: cannot be written: No space left on device"):
        write_site(make_site(model, {}), tmp_path / "new" / "site")
    assert set(tmp_path.rglob("*")) == before
