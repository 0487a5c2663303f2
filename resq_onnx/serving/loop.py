"""The thread that owns the model: it runs a batch, and tells each request's events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from resq_onnx.serving.batch import Batch, Generation, Told
from resq_onnx.serving.events import End
from resq_onnx.serving.refusals import stopping


class Loop:
    """Runs a batch in a thread of its own, which sleeps while there is no request."""

    def __init__(self, batch: Batch, tell: Callable[[Sequence[Told]], None]) -> None:
        """Start the thread.

        Args:
            batch: Nobody else may use it.
            tell: Called by the thread with the events of each step.
        """
        self._batch = batch
        self._tell = tell
        self._changed = threading.Condition()
        self._arrived: list[Generation] = []
        self._stopped = self._ended = False
        # A daemon, so that a call of the model that takes long does not delay the program's end.
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Let a request join; after `stop` it is refused. Any thread may call this."""
        with self._changed:
            if not self._ended:
                self._arrived.append(generation)
                self._changed.notify()
                return
        self._tell([(generation, End(stopping()))])

    def stop(self) -> None:
        """End all requests, and the thread, after the call of the model that is running."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, for so long at most."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stopped:
            with self._changed:
                while self._batch.is_idle and not self._arrived and not self._stopped:
                    self._changed.wait()
                self._admit()
            try:
                told = self._batch.advance()
            except BaseException as error:  # pass on any exception to whoever waits
                told = self._batch.end_all(error)
            self._tell(told)
        with self._changed:
            self._ended = True
            self._admit()
        self._tell(self._batch.end_all(stopping()))

    def _admit(self) -> None:
        for generation in self._arrived:
            self._batch.add(generation)
        self._arrived.clear()
