"""Export a model for several targets, and run the files in every runtime, for docs/models.md.

    python -m scripts.target_table build/models/gemma-3-270m-Q4_K_M.gguf

One calibration serves all targets; peak memory is that of an export alone. The last columns compare
a runtime with our own session on the same file, on a greedy text of the latter: the divergence of
the predictions in one pass, in nats, where a runtime gives all logits, and how many greedy tokens
are the same before the first that differs. Files that exist are not exported again. OpenVINO and
the browser run the portable file, a format that every family has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
import onnxruntime_genai as og

from resq_onnx.evaluation.distance import compare
from resq_onnx.handoff.openvino import OpenVinoSession, StatefulDecoder
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from resq_onnx.web import fetch_packages
from tests.handoff.genai import begin
from tests.web.chats import ask, open_page, site_of
from tests.web.devtools import browsing

PROMPT: Final = "Once upon a time, there was"
NEW: Final = 40
THREADS: Final = 2
RESQ: Final = (sys.executable, "-m", "resq_onnx")

HEAD: Final = (
    *("runtime", "target", "peak GB", "MB"),
    *("KL", "top-1", "perplexity ÷ float", "KL from ours", "tokens as ours"),
)

Run = Callable[[Path, list[int]], "list[int] | str"]
"""Continues a prompt greedily by NEW tokens: the new tokens, or their text."""


def plain(path: Path) -> Decoder:
    """A session as anyone opens one, without our library."""
    return Decoder(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))


def in_onnxruntime(path: Path, ids: list[int]) -> list[int]:
    """Such a session, token by token."""
    decoder = plain(path)
    logits, state = decoder.run(np.array([ids]))
    found: list[int] = []
    while len(found) < NEW:
        found.append(int(logits[0, -1].argmax()))
        logits, state = decoder.run(np.array([found[-1:]]), state)
    return found


def in_genai(path: Path, ids: list[int]) -> list[int]:
    """onnxruntime-genai, in the file's folder."""
    generator = begin(og.Model(str(path.parent)), [ids], max_length=len(ids) + NEW, do_sample=False)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(ids) :]]


def in_openvino(path: Path, ids: list[int]) -> list[int]:
    """OpenVINO, with the cache as its state."""
    decoder = StatefulDecoder(path, len(ids) + NEW, THREADS)
    return list(generate(decoder, ids, NEW))  # type: ignore[arg-type]


def in_browser(path: Path, _ids: list[int]) -> str:
    """onnxruntime-web, in Debian's chromium."""
    with (
        tempfile.TemporaryDirectory() as profile,
        site_of(path, fetch_packages()) as address,
        browsing("chromium", Path(profile)) as page,
    ):
        open_page(page, address)
        return ask(page, PROMPT, NEW)


def openvino(path: Path) -> Decoder:
    """OpenVINO, with the cache passed on with every call."""
    return Decoder(OpenVinoSession(path, THREADS))


RUNTIMES: Final[dict[str, tuple[str, Run, Callable[[Path], Decoder] | None]]] = {
    "onnxruntime, without our library": ("ort", in_onnxruntime, plain),
    "onnxruntime-genai": ("genai", in_genai, None),
    "onnxruntime": ("portable", in_onnxruntime, plain),
    "OpenVINO": ("portable", in_openvino, openvino),
    "onnxruntime-web": ("portable", in_browser, None),
}
"""By name: the target whose file a runtime runs, how it continues a text, and how it opens it."""


def agreement(path: Path, run: Run, open_in: Callable[[Path], Decoder] | None) -> tuple[str, str]:
    """Divergence from our own session, in nats, and number of equal greedy tokens."""
    tokenizer = Tokenizer.load(path.parent)
    ids = tokenizer.encode(PROMPT)
    session = create_session(path, THREADS)
    own = list(generate(BufferedDecoder(session, len(ids) + NEW), ids, NEW))
    divergence = "–"
    if open_in is not None:
        text = np.array([[*ids, *own]])
        logits, found_logits = (one.run(text)[0] for one in (Decoder(session), open_in(path)))
        divergence = f"{compare(logits, found_logits, text).kl_divergence:.3f}"
    found = run(path, ids)

    def same(count: int) -> bool:
        if isinstance(found, str):
            return found.startswith(tokenizer.decode(own[:count]).lstrip())
        return found[:count] == own[:count]

    equal = max(count for count in range(len(own) + 1) if same(count))
    return divergence, f"{equal} of {len(own)}"


def export(model: Path, out: Path, target: str, projections: Path) -> float:
    """Export by the command line; returns the peak memory in GB, kept beside the file."""
    kept = out.parent / "peak-gigabytes.txt"
    if not kept.exists():
        options = ("--target", target, "--projections", projections, "--threads", str(THREADS))
        process = subprocess.Popen(
            [*RESQ, "export", model, out, "--tune", "0", *options], stdout=sys.stderr
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"the export for {target} failed")
        kept.write_text(f"{usage.ru_maxrss * 1024 / 1e9}\n")
    return float(kept.read_text())


def row(model: Path, work: Path, runtime: str, projections: Path) -> str:
    """One line of the table."""
    target, run, open_in = RUNTIMES[runtime]
    out = work / target / "model.onnx"
    gigabytes = export(model, out, target, projections)
    said = json.loads((out.parent / "resq.json").read_text())
    quality = said["quality"]
    cells = (
        runtime,
        f"`{target}`",
        f"{gigabytes:.1f}",
        f"{said['bytes']['total'] / 1e6:.1f}",
        f"{quality['kl_divergence']:.3f}",
        f"{100 * quality['top1_agreement']:.1f} %",
        f"{quality['perplexity_ratio']:.3f}",
        *agreement(out, run, open_in),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/targets"))
    parser.add_argument("--only", choices=RUNTIMES, help="one runtime")
    options = parser.parse_args()
    projections = options.work / "projections.safetensors"
    if not projections.exists():
        options.work.mkdir(parents=True, exist_ok=True)
        calibrate = [*RESQ, "calibrate", options.model, projections]
        subprocess.run(calibrate, check=True, stdout=sys.stderr)
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for runtime in [options.only] if options.only else RUNTIMES:
        print(row(options.model, options.work, runtime, projections), flush=True)


if __name__ == "__main__":
    main()
