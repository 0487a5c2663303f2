"""The licence that a model's own files state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.checkpoint.licence import copy_licence_files, licence_in_words, stated_licence
from resq_onnx.files import staged


@pytest.mark.parametrize(
    ("config", "readme", "expected"),
    [
        ({}, None, {}),
        ({}, "# A model\nlicense: mit\n", {}),
        ({}, "---\nlicense: mit\n---\n", {"license": "mit"}),
        ({}, "---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ({}, "---\nlicense: [mit, apache-2.0]\n---\n", {"license": "mit, apache-2.0"}),
        ({}, "---\nlicense: mit\n", {}),
        ({}, "---\nlicense: [mit\n---\n", {}),
        ({}, "---\n- license\n---\n", {}),
        ({}, "---\nlicense_name: mine\n---\n", {}),
        ({"license": "bsd"}, "---\nlicense: mit\n---\n", {"license": "bsd"}),
        ({"license": None}, "---\nlicense: mit\n---\n", {"license": "mit"}),
        ({}, "---\nlicense: mit\ntext: \udcff\n---\n", {}),
    ],
)
def test_a_licence_is_read_from_the_config_or_the_readme(
    tmp_path: Path, config: dict[str, Any], readme: str | None, expected: dict[str, str]
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_bytes(readme.encode(errors="surrogateescape"))
    assert stated_licence(tmp_path, config) == expected


def test_a_licence_of_its_own_is_named_with_its_link(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3.2\nlicense_link: LICENSE.txt\n---\n"
    )
    stated = stated_licence(tmp_path, {})
    assert set(stated) == {"license", "license_name", "license_link"}
    assert licence_in_words(stated) == "llama3.2 (LICENSE.txt)"


def test_what_is_not_stated_is_called_so() -> None:
    assert licence_in_words({}) == "not stated"
    assert licence_in_words({"license": "mit"}) == "mit"


def test_licence_files_go_along_and_replace_nobodys_own(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("LICENSE", "NOTICE.txt", "license.py", "USE_POLICY.md"):
        (folder / name).write_text(f"the model's {name}")
    (out / "LICENSE").write_text("somebody's own")
    warnings: list[str] = []
    with staged(out / "model.onnx") as staging:
        copy_licence_files(folder, staging, warnings.append)
        staging.model.write_text("")
        staging.publish()
    assert (out / "LICENSE").read_text() == "somebody's own"
    assert (out / "NOTICE.txt").read_text() == "the model's NOTICE.txt"
    assert (out / "USE_POLICY.md").is_file()
    assert not (out / "license.py").exists()
    (warning,) = warnings
    assert "is not the base model's and stays" in warning
