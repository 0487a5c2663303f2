"""Chat templates: render a list of messages as the prompt format of a model.

A template is a Jinja program that comes with the model and is therefore untrusted. Templates run in
Jinja's sandbox, which denies access to Python, and in a separate process with limits on time,
memory and output (`template_process.py`): checks inside one process cannot catch everything that a
program may do.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.runtime.processes import python_running

SECONDS: Final = 5.0
"""Time limit of one template; those of today's models take milliseconds."""

START_SECONDS: Final = 60.0
"""Time limit for starting the process, generous for a busy machine."""

POLL_SECONDS: Final = 0.05
"""Interval at which a waiting thread checks for cancellation."""

MAX_TEMPLATE: Final = 2**19
"""Largest number of characters of a template; the longest today have about 20,000."""

MAX_IDLE: Final = 2
"""Idle processes that are kept for the next text; each takes about 20 MB."""


class ChatCancelledError(Exception):
    """The request for the text was cancelled."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
    where: str,
    cancelled: threading.Event | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Render messages with a chat template.

    Args:
        template: The Jinja source.
        messages: Each with "role" and "content".
        add_generation_prompt: Whether to end with the beginning of the assistant's answer.
        special_tokens: Variables of the template, such as bos_token.
        where: The template's file, for the message of a refusal.
        cancelled: Set by another thread to cancel the request.
        tools: Functions that the model may call; a template that knows none ignores them.

    Raises:
        ResqError: The template is broken, refuses the messages, or exceeds a limit on time, memory
            or output.
        ChatCancelledError: `cancelled` was set.
    """
    if len(template) > MAX_TEMPLATE:
        raise ResqError(f"{where}: the chat template has more than {MAX_TEMPLATE} characters")
    values = {
        "messages": list(messages),
        "tools": None if tools is None else list(tools),
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **special_tokens,
    }
    # As JSON the template sees plain values only, none with methods of their own.
    request = json.dumps({"template": template, "values": values}, ensure_ascii=False)
    line = request.encode(errors="surrogatepass") + b"\n"
    cancelled = cancelled or threading.Event()
    renderer = _take()
    try:
        renderer.wait_until_ready(cancelled)
        found: dict[str, str] = json.loads(renderer.ask(line, cancelled))
    except ResqError as error:
        renderer.end()
        raise ResqError(f"{where}: the chat template {error}") from None
    except BaseException:  # Ctrl-C too
        if renderer.asked:  # its late answer must not be taken for the next one's
            renderer.end()
        else:
            _give_back(renderer)
        raise
    _give_back(renderer)
    if "text" not in found:
        raise ResqError(f"{where}: the chat template {found['refusal']}")
    return found["text"]


def start_early() -> None:
    """Start a process in advance, so that the first text need not wait for it."""
    _give_back(_take())


class _Renderer:
    """A process that renders templates one at a time.

    Attributes:
        asked: Whether an answer is pending.
    """

    def __init__(self) -> None:
        # A separate session, so that Ctrl-C reaches only this program. The process ends with its
        # input.
        self._process = subprocess.Popen(
            python_running("resq_onnx.runtime.template_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._ready = False
        self.asked = False

    def wait_until_ready(self, cancelled: threading.Event) -> None:
        """Wait for the line with which the process reports that it has started."""
        if not self._ready:
            self._read_line(START_SECONDS, cancelled)
            self._ready = True

    def ask(self, line: bytes, cancelled: threading.Event) -> bytearray:
        """Send a line and wait for the answer.

        Raises:
            ResqError: There is no answer; the message completes a sentence about the template.
        """
        assert self._process.stdin is not None
        self.asked = True
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None
        answer = self._read_line(SECONDS, cancelled)
        self.asked = False
        return answer

    def runs(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        with suppress(BrokenPipeError):  # of a request that was never read
            self._process.communicate()

    def _read_line(self, seconds: float, cancelled: threading.Event) -> bytearray:
        assert self._process.stdout is not None
        output, received = self._process.stdout.fileno(), bytearray()
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if cancelled.is_set():
                    raise ChatCancelledError
                if time.monotonic() > until:
                    raise ResqError(f"takes longer than {seconds:g} seconds")
                if selector.select(POLL_SECONDS):
                    piece = os.read(output, 2**16)
                    if not piece:
                        raise self._lost()
                    received += piece
        return received

    def _lost(self) -> ResqError:
        return ResqError(f"has lost its process, which ended with {self._process.wait()}")


_idle: list[_Renderer] = []
_lock = threading.Lock()


def _take() -> _Renderer:
    with _lock:
        while _idle:
            renderer = _idle.pop()
            if renderer.runs():
                return renderer
            renderer.end()
    return _Renderer()


def _give_back(renderer: _Renderer) -> None:
    with _lock:
        if len(_idle) < MAX_IDLE:
            _idle.append(renderer)
            return
    renderer.end()


@atexit.register
def _end_all() -> None:
    while _idle:
        _idle.pop().end()


os.register_at_fork(after_in_child=_idle.clear)  # they belong to the process that forked
