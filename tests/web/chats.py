"""What the tests in a browser share: the page served, asked, and what it should answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from resq_onnx.web import make_server, make_site
from tests.web.devtools import Page

READY: Final = "['ready', 'failed'].includes(document.body?.dataset.state)"
DESK: Final = (900, 700)


@contextmanager
def site_of(model: Path, packages: dict[str, Path]) -> Iterator[str]:
    """Serve the page of a model's folder; gives its address."""
    with make_server(make_site(model, packages), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def open_page(page: Page, address: str) -> None:
    """Open the page, and wait until its model is there."""
    page.open(address, DESK, "light")
    page.wait_for(READY)
    assert page.run("document.body.dataset.state") == "ready", page.text()


def ask(page: Page, question: str, new_tokens: int) -> str:
    """Ask a first question, greedily; returns the answer."""
    page.run(
        f"document.getElementById('temperature').value = 0;"
        f"document.getElementById('length').value = {new_tokens};"
        f"document.getElementById('prompt').value = '{question}';"
        "document.getElementById('composer').requestSubmit()"
    )
    page.wait_for("document.querySelector('.measure, .error') !== null")
    return str(page.run("document.querySelector('.assistant').textContent"))


def own_answer(model: Path, question: str, new_tokens: int) -> str:
    """What this package's own session answers, greedily."""
    tokenizer = Tokenizer.load(model.parent)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": question}])
    ids = tokenizer.encode(chat, add_special_tokens=False)
    decoder = BufferedDecoder(create_session(model), len(ids) + new_tokens)
    found = generate(decoder, ids, new_tokens, stop_ids=tokenizer.stop_ids)
    return tokenizer.decode(list(found)).lstrip()
