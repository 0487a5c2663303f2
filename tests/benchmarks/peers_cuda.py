"""Our model on a GPU against ONNX Runtime's own ways to run it there, in one table of one run.

python -m tests.benchmarks.peers_cuda [--model FILE.gguf] [--python PEERS_PYTHON] [BENCH OPTIONS]

The float16 model and the one of MatMulNBits (4 bits, block 32) are what onnxruntime-genai's builder
writes for CUDA; all run in turns in `resq-onnx bench --provider cuda`, which takes further options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from resq_onnx.cli import main as command_line
from tests.benchmarks.peer_models import Workshop
from tests.benchmarks.peers import FOLDER, MODEL

FORMS: Final = ("ours_float16", "genai_cuda_float16", "genai_cuda_int4")
"""Ours first: the others are compared with it."""


def main() -> None:
    """Prepare the models, and measure."""
    venv = FOLDER / "venv" / "bin" / "python"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=MODEL, help="a .gguf file")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="keeps the models")
    parser.add_argument(
        "--python",
        default=str(venv) if venv.is_file() else sys.executable,
        help="interpreter with onnxruntime-genai, torch and transformers",
    )
    parser.add_argument("--provider", default="cuda", help="cpu only shows that all works")
    options, more = parser.parse_known_args()
    shop = Workshop(options.model.resolve(), options.folder.resolve(), options.python)
    ours, *others = (str(shop.prepared(form) / "model.onnx") for form in FORMS)
    against = [part for other in others for part in ("--against", other)]
    command_line(["bench", ours, *against, "--provider", options.provider, *more])


if __name__ == "__main__":
    main()
