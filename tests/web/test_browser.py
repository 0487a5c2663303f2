"""A tiny model in a real browser: Debian's chromium, with what npm brings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.report.screenshots import colours, read_png
from tests.tiny_exports import TinyExports
from tests.web.chats import DESK, ask, open_page, own_answer, site_of
from tests.web.devtools import Page

QUESTION: Final = "Why do compound statements contain other statements?"
NEW_TOKENS: Final = 12
SIZES: Final = {"desk": DESK, "phone": (390, 760)}
FEWEST_COLOURS: Final = 60


@pytest.fixture(scope="module")
def model(tiny_exports: TinyExports) -> Path:
    return tiny_exports.model("llama", tied=True).export("--format", "web")


@pytest.fixture(scope="module")
def address(model: Path, packages: dict[str, Path]) -> Iterator[str]:
    with site_of(model, packages) as found:
        yield found


def test_the_page_answers_what_the_session_answers(
    page: Page, address: str, model: Path, tmp_path: Path
) -> None:
    open_page(page, address)
    assert page.run("crossOriginIsolated") is True
    assert ask(page, QUESTION, NEW_TOKENS) == own_answer(model, QUESTION, NEW_TOKENS)
    assert page.run("document.querySelector('.user').textContent") == QUESTION
    assert "tokens/s" in page.run("document.querySelector('.measure').textContent")

    # The next question reads on from the cache of this one.
    page.run("document.getElementById('prompt').value = 'And then?'")
    page.run("document.getElementById('composer').requestSubmit()")
    page.wait_for("document.querySelectorAll('.measure').length === 2")
    for size in SIZES:
        for scheme in ("light", "dark"):
            picture = tmp_path / f"{size} {scheme}.png"
            page.call("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
            width, height = SIZES[size]
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip
            page.screenshot(picture)
            pixels = read_png(picture)
            assert pixels.shape == (height, width, 3)
            assert colours(pixels) > FEWEST_COLOURS
            middle = np.median(pixels)
            assert middle > 200 if scheme == "light" else middle < 60
            assert page.run("document.documentElement.scrollWidth") == width


def test_a_prompt_in_the_address_is_asked_at_once(page: Page, address: str) -> None:
    page.open(f"{address}?prompt=Hello&temperature=0&length=3", SIZES["desk"], "light")
    page.wait_for("document.querySelector('.measure') !== null")
    assert page.run("document.querySelector('.user').textContent") == "Hello"
    assert page.run("document.querySelector('.measure').textContent").startswith("3 tokens, ")


def test_a_template_that_loops_is_said_on_the_page_and_the_model_still_answers(
    page: Page, model: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model.parent, tmp_path / "looping")
    template = (folder / "chat_template.jinja").read_text()
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(
        "{% if 'loop' in messages[-1].content %}" + loop + "{% endif %}" + template
    )
    with site_of(folder / model.name, packages) as address:
        open_page(page, address)
        page.run("document.getElementById('prompt').value = 'loop'")
        page.run("document.getElementById('composer').requestSubmit()")
        page.wait_for("document.querySelector('.error') !== null")
        said = page.run("document.querySelector('.error').textContent")
        assert said == "The model's chat template: it takes longer than 5 seconds"
        page.run("document.getElementById('new').click()")
        assert ask(page, "Hello", 3) == own_answer(model, "Hello", 3)


def test_a_model_that_cannot_be_opened_is_said_on_the_page(
    page: Page, model: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model.parent, tmp_path / "broken")
    (folder / "model.onnx").write_bytes(b"no graph")
    with site_of(folder / model.name, packages) as address:
        page.open(address, SIZES["desk"], "light")
        page.wait_for("document.body?.dataset.state === 'failed'")
        assert page.run("document.querySelector('.error') !== null")
