"""A real model in a real browser: SmolLM2 exported for it, chatting."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.command_line import run_successfully
from tests.report.screenshots import colours, read_png
from tests.smollm2 import Exported
from tests.web.chats import DESK, ask, open_page, own_answer, site_of
from tests.web.devtools import Page

QUICK: Final = ("--weights", "rtn")
"""Which tokens come out does not matter here, only that both say the same."""

QUESTION: Final = "What is the capital of France?"
NEW_TOKENS: Final = 8
FEWEST_COLOURS: Final = 60


@pytest.fixture(scope="module")
def model(
    smollm2: Path, smollm2_exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "model.onnx"
    known = ("--projections", smollm2_exported.projections)
    run_successfully("export", smollm2, out, "--target", "web", *known, *QUICK)
    return out


def test_smollm2_answers_in_the_browser_what_it_answers_in_a_session(
    page: Page, model: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    with site_of(model, packages) as address:
        open_page(page, address)
        assert ask(page, QUESTION, NEW_TOKENS) == own_answer(model, QUESTION, NEW_TOKENS)
        assert "tokens/s" in page.run("document.querySelector('.measure').textContent")
        picture = tmp_path / "smollm2.png"
        page.screenshot(picture)
        pixels = read_png(picture)
        assert pixels.shape == (DESK[1], DESK[0], 3)
        assert colours(pixels) > FEWEST_COLOURS
