"""Run graph passes in order, and optionally write the graph after each."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from resq_onnx.files import writing_to


class PassRunner:
    """Runs passes one by one, and writes the graph after each if there is a folder for it."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder for the graphs, or None to write none.

        Raises:
            ResqError: The folder cannot be created.
        """
        self._folder = folder
        self._count = 0
        if folder is not None:
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def run(self, graph: ir.Model, passes: list[ir.passes.PassBase]) -> None:
        """Apply the passes to `graph`, one after the other.

        Raises:
            ResqError: A graph cannot be written into the folder.
        """
        for one in passes:
            one(graph)
            self._count += 1
            if self._folder is not None:
                file = self._folder / f"{self._count:02}_{type(one).__name__}.txt"
                with writing_to(file):
                    file.write_text(str(graph.graph))
