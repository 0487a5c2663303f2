"""A tiny model in a real browser: Debian's chromium, with what npm brings."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import resq_onnx
from resq_onnx.errors import ResqError
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from resq_onnx.web import fetch_packages, make_server, make_site
from tests.report.screenshots import colours, read_png
from tests.tiny_models import write_model
from tests.web.devtools import Page, browsing

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
QUESTION: Final = "Why do compound statements contain other statements?"
NEW_TOKENS: Final = 12
SIZES: Final = {"desk": (900, 700), "phone": (390, 760)}
FEWEST_COLOURS: Final = 60
READY: Final = "['ready', 'failed'].includes(document.body?.dataset.state)"


def skip_or_fail(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    """From the user's cache, or from npm; in CI they must be there."""
    try:
        return fetch_packages()
    except ResqError as error:
        skip_or_fail(str(error))
        raise


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        skip_or_fail("no chromium: install Debian's package of that name to run the page")
        raise AssertionError
    with browsing(browser, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model", "llama", tied=True)
    out = folder / "out" / "model.onnx"
    resq_onnx.export(folder / "model", out, Recipe(samples=4, sequence_length=64, format="web"))
    return out


@pytest.fixture(scope="module")
def address(model: Path, packages: dict[str, Path]) -> Iterator[str]:
    with make_server(make_site(model, packages), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def expected_answer(model: Path) -> str:
    """What this package's own session answers, greedily."""
    tokenizer = Tokenizer.load(model.parent)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}])
    ids = tokenizer.encode(chat, add_special_tokens=False)
    decoder = BufferedDecoder(create_session(model), len(ids) + NEW_TOKENS)
    found = generate(decoder, ids, NEW_TOKENS, stop_ids=tokenizer.stop_ids)
    return tokenizer.decode(list(found)).lstrip()


def test_the_page_answers_what_the_session_answers(
    page: Page, address: str, model: Path, tmp_path: Path
) -> None:
    page.open(address, SIZES["desk"], "light")
    page.wait_for(READY)
    assert page.run("crossOriginIsolated") is True
    assert page.run("document.body.dataset.state") == "ready", page.text()
    page.run(
        f"document.getElementById('temperature').value = 0;"
        f"document.getElementById('length').value = {NEW_TOKENS};"
        f"document.getElementById('prompt').value = '{QUESTION}';"
        "document.getElementById('composer').requestSubmit()"
    )
    page.wait_for("document.querySelector('.measure, .error') !== null")
    assert page.run("document.querySelector('.user').textContent") == QUESTION
    assert page.run("document.querySelector('.assistant').textContent") == expected_answer(model)
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


def test_a_model_that_cannot_be_opened_is_said_on_the_page(
    page: Page, model: Path, packages: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(model.parent, tmp_path / "broken")
    (folder / "model.onnx").write_bytes(b"no graph")
    with make_server(make_site(folder, packages), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page.open(f"http://localhost:{server.server_address[1]}/", SIZES["desk"], "light")
        page.wait_for("document.body?.dataset.state === 'failed'")
        assert page.run("document.querySelector('.error') !== null")
        server.shutdown()
        thread.join()
