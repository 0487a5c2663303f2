"""The licence that a model's own files state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.licence import licence_in_words, stated_licence


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
