"""Texts that need neither a file nor a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from resq_onnx.calibration import built_in
from resq_onnx.calibration.built_in import BUILT_IN, MIXES, SELF, shares_of
from resq_onnx.calibration.texts import load_text
from resq_onnx.errors import ResqError

ENOUGH = 4 * 64 * 512
"""Characters, four of which are about a token: the largest share of 128 sequences."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_text_is_long_and_clean(name: str) -> None:
    text = "".join(load_text(name))
    assert len(text) > ENOUGH
    assert "\ufffd" not in text
    assert load_text(name) == load_text(name)


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_is_made_of_texts_that_are_there(mix: str) -> None:
    assert set(MIXES[mix]) <= {*BUILT_IN, SELF}
    assert sum(MIXES[mix].values()) == 1


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("samples", [1, 2, 3, 5, 7, 32, 128])
def test_the_shares_of_a_mix_are_all_of_it(mix: str, samples: int) -> None:
    shares = shares_of(mix, samples)
    assert sum(shares.values()) == samples
    assert min(shares.values()) > 0
    assert max(shares, key=lambda text: shares[text]) == "prose"


@pytest.mark.parametrize("spec", ["python-docs", "mine.txt", "self"])
def test_a_text_that_is_no_mix_has_all_sequences(spec: str) -> None:
    assert shares_of(spec, 32) == {spec: 32}


def test_the_modules_are_not_imported() -> None:
    before = "ftplib" in sys.modules
    load_text("python-code")
    assert ("ftplib" in sys.modules) == before


@pytest.mark.parametrize("module", ["no_such_module", "sys"])
def test_a_python_without_sources_is_told(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_in, "MODULES", (module,))
    with pytest.raises(ResqError, match=rf"no source of its module {module}; .*python-docs"):
        load_text("python-code")


def test_a_damaged_installation_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(built_in, "PROSE_FILE", tmp_path / "prose.txt")
    with pytest.raises(ResqError, match="install this package again"):
        load_text("prose")
