"""llama.cpp's own HTTP server, from xllamacpp.

python -m tests.benchmarks.serving.llama_cpp_server FILE SLOTS LENGTH THREADS
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")


def main() -> None:
    """Serve until killed."""
    model, *numbers = sys.argv[1:]
    slots, length, threads = map(int, numbers)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_parallel = slots
    parameters.n_ctx = slots * length  # divided among the slots
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(f"Serving at {server.listening_address}/v1", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
