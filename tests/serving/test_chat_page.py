"""The chat page at /: what it is made of, and what it does in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from tests.needed import program_of
from tests.report.screenshots import colours, read_png
from tests.serving.served import CHAT, Served, served
from tests.web.devtools import BROWSERS, Page, browsing

QUESTION: Final = "Why is the sea <b>salty</b>?"
NEW_TOKENS: Final = 12
SIZES: Final = {"desk": (900, 700), "phone": (390, 760)}
READY: Final = "document.body?.dataset.state === 'ready'"
FEWEST_COLOURS: Final = 60


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(program_of("chromium", *BROWSERS), tmp_path_factory.mktemp("profile")) as found:
        yield found


def address(server: Served) -> str:
    return server.url.removesuffix("v1")


def get(server: Served, path: str) -> tuple[int, dict[str, str], str]:
    connection = server.connect()
    connection.request("GET", path)
    response = connection.getresponse()
    found = response.status, dict(response.headers), response.read().decode()
    connection.close()
    return found


def fill(page: Page, **values: object) -> None:
    """Set fields by their id; `_` stands for `-`."""
    for name, value in values.items():
        page.run(f"document.getElementById({name.replace('_', '-')!r}).value = {value!r}")


def ask(page: Page, question: str) -> None:
    fill(page, prompt=question)
    page.run("document.getElementById('composer').requestSubmit()")


def answers(page: Page) -> list[str]:
    found = "[...document.querySelectorAll('.assistant')].map(one => one.textContent)"
    return list(page.run(found))


def expected(server: Served, *messages: dict[str, str], **fields: object) -> str:
    body = {"messages": messages, "max_tokens": NEW_TOKENS, "temperature": 0, **fields}
    text: str = server.post(CHAT, body)[1]["choices"][0]["message"]["content"]
    return text.lstrip()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_nothing_comes_from_elsewhere_and_all_that_is_named_is_there(server: Served) -> None:
    status, headers, html = get(server, "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    names = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(names) >= 4
    for name in names:
        status, _, text = get(server, f"/{name}")
        assert status == 200
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.browser
def test_it_answers_as_the_api_does_and_asks_again(
    page: Page, server: Served, tmp_path: Path
) -> None:
    page.open(address(server), SIZES["desk"], "light")
    page.wait_for(READY)
    assert page.run("document.getElementById('name').textContent") == "tiny"
    fill(page, temperature=0, length=NEW_TOKENS, system="Be brief.")
    ask(page, QUESTION)
    page.wait_for("document.querySelectorAll('.again').length === 1")
    system = {"role": "system", "content": "Be brief."}
    first = expected(server, system, user(QUESTION))
    assert answers(page) == [first]
    # What was asked is shown as it is, not as HTML.
    assert page.run("document.querySelector('.user').textContent") == QUESTION
    assert page.run("document.querySelector('main b')") is None
    assert re.match(r"\d+ tokens, [\d.]+ tokens/s, first", page.run(
        "document.querySelector('.measure').textContent"))  # fmt: skip

    fill(page, temperature=1, seed=7, top_p=0.9)
    page.run("document.querySelector('.again').click()")
    page.wait_for("document.querySelectorAll('.again').length === 1")
    other = expected(server, system, user(QUESTION), temperature=1, seed=7, top_p=0.9)
    assert other != first
    assert answers(page) == [other]
    look(page, tmp_path)


def look(page: Page, folder: Path) -> None:
    """Screenshots, light and dark, of a desk and a phone."""
    page.run("document.getElementById('more').open = true")
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            page.call("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=False)  # fmt: skip
            page.screenshot(folder / f"{size} {scheme}.png")
            pixels = read_png(folder / f"{size} {scheme}.png")
            assert pixels.shape == (height, width, 3)
            assert colours(pixels) > FEWEST_COLOURS
            middle = np.median(pixels)
            assert middle > 200 if scheme == "light" else middle < 60
            assert page.run("document.documentElement.scrollWidth") == width


@pytest.mark.browser
def test_an_answer_can_be_stopped_and_the_conversation_goes_on(page: Page, server: Served) -> None:
    page.open(address(server), SIZES["desk"], "light")
    page.wait_for(READY)
    fill(page, temperature=0, length=8000)
    ask(page, "Begin")
    page.wait_for("document.querySelector('.assistant')?.textContent.length > 20")
    page.run("document.getElementById('composer').requestSubmit()")
    page.wait_for("document.querySelectorAll('.again').length === 1")
    server.wait_for(running=0)
    (begun,) = answers(page)
    fill(page, length=NEW_TOKENS)
    ask(page, "And then?")
    page.wait_for("document.querySelectorAll('.measure').length === 2")
    assert answers(page)[0] == begun
    assert len(answers(page)) == 2


@pytest.mark.browser
def test_a_server_with_keys_asks_for_one_and_says_what_it_refuses(
    page: Page, folder: Path, tmp_path: Path
) -> None:
    with served(folder, tmp_path / "log.txt", "--api-key", "secret") as server:
        page.open(address(server), SIZES["desk"], "light")
        page.wait_for("document.body?.dataset.state === 'refused'")
        assert "needs an API key" in page.text()
        fill(page, key="secret")
        page.run("document.getElementById('key').dispatchEvent(new Event('change'))")
        page.wait_for(READY)
        fill(page, length=NEW_TOKENS, key="another")
        ask(page, QUESTION)
        page.wait_for("document.querySelector('.error') !== null")
        assert "needs an API key" in page.run("document.querySelector('.error').textContent")
        fill(page, key="secret")
        page.run("document.querySelector('.again').click()")
        page.wait_for("document.querySelector('.assistant:not(.writing)') !== null")
        assert "secret" not in page.text()


@pytest.mark.browser
def test_it_can_ask_a_server_that_takes_fewer_tokens_than_the_page_proposes(
    page: Page, folder: Path, tmp_path: Path
) -> None:
    with served(folder, tmp_path / "log.txt", "--max-length", 64) as server:
        page.open(address(server), SIZES["desk"], "light")
        page.wait_for(READY)
        assert page.run("document.getElementById('composer').checkValidity()")
        ask(page, "a")
        page.wait_for("document.querySelectorAll('.again').length === 1")
        assert page.run("document.querySelector('.error')") is None
        assert len(answers(page)) == 1
