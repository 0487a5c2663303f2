"""Chat templates that take too much, and the processes in which they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime import chat
from resq_onnx.runtime.chat import ChatCancelledError, render_chat

ENDLESS = """
{%- for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"""

DOUBLED = """
{%- set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"""
"""A small value whose text would fill any memory."""


def render(template: str, cancelled: threading.Event | None = None) -> str:
    return render_chat(template, [{"role": "user", "content": "a"}], True, {}, "here", cancelled)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template may take half a second, after the process has started."""
    render("hello")
    monkeypatch.setattr(chat, "SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "template",
    [
        ENDLESS,
        DOUBLED + "{{ ns.x }}",
        DOUBLED + "{{ ns.x|tojson }}",
        "{% set ns = namespace(x='a') %}"
        "{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages|tojson(indent=1000000000) }}",
        "{{ 'a' * 3 * 10 ** 9 }}",
        "{{ 'a'|center(10 ** 9) }}",
        "{{ '%2000000000d' % 1 }}",
        "{{ '{:2000000000}'.format(1) }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ lipsum(n=10 ** 7) }}",
    ],
)
def test_a_template_that_takes_too_much_is_refused_within_its_time(template: str) -> None:
    began = time.monotonic()
    with pytest.raises(ResqError, match=r"^here: the chat template (takes|refuses|has lost)"):
        render(template)
    assert time.monotonic() - began < 10
    assert render("{{ messages[0].content }}") == "a"


@pytest.mark.parametrize(
    "text", ["\n\r\u2028\x85", "😀" * 100_000, "half a character: \ud83d", "\0"]
)
def test_any_text_passes_through_the_process(text: str) -> None:
    messages = [{"role": "user", "content": text}]
    assert render_chat("{{ messages[0].content }}", messages, True, {}, "here") == text


def test_a_template_may_not_write_without_end() -> None:
    with pytest.raises(ResqError, match="the chat template writes more than 16777216 characters"):
        render("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}")


def test_a_template_longer_than_any_is_refused_before_it_is_compiled() -> None:
    with pytest.raises(ResqError, match="the chat template has more than 524288 characters"):
        render("a" * (2**19 + 1))


def test_a_text_that_nobody_wants_any_more_ends_at_once() -> None:
    render("hello")
    cancelled = threading.Event()
    timer = threading.Timer(0.2, cancelled.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(ChatCancelledError):
        render(ENDLESS, cancelled)
    assert time.monotonic() - began < chat.SECONDS / 2
    timer.join()


def test_one_process_renders_one_text_after_the_other_and_is_replaced_when_it_dies() -> None:
    render("hello")
    (*_, renderer) = chat._idle
    assert render("{{ messages[0].role }}") == "user"
    assert chat._idle[-1] is renderer
    os.kill(renderer._process.pid, signal.SIGKILL)
    renderer._process.wait()
    assert render("hello") == "hello"
    assert renderer not in chat._idle


def test_texts_of_several_threads_do_not_mix() -> None:
    found: dict[int, str] = {}

    def work(number: int) -> None:
        found[number] = render(f"{{% for i in range(2000) %}}{number}{{% endfor %}}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) * 2000 for number in range(5)}
    assert len(chat._idle) <= chat.MAX_IDLE


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for a process in /proc")
def test_the_process_ends_with_the_program_however_that_ends() -> None:
    code = (
        "from resq_onnx.runtime import chat\n"
        "chat.render_chat('hello', [], True, {}, '')\n"
        "print(chat._idle[0]._process.pid, flush=True)\n"
        "input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as program:  # fmt: skip
        assert program.stdout is not None
        number = int(program.stdout.readline())
        assert Path(f"/proc/{number}").exists()
        program.kill()
        until = time.monotonic() + 30
        while Path(f"/proc/{number}/cmdline").exists() and _runs(number):
            assert time.monotonic() < until
            time.sleep(0.02)


def _runs(number: int) -> bool:
    """Whether a process is there and no zombie, which whoever adopted it may leave for a while."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
