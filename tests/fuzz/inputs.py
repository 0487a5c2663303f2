"""Good inputs, made once: what the fuzzer then damages copies of."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.web.packages import PACKAGES
from tests.calibration.pieces import write_pieces
from tests.checkpoint.test_gguf import write_gguf
from tests.command_line import run_successfully
from tests.tiny_models import write_model

SIZES: Final[dict[str, Any]] = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}

QUICK: Final = ("--samples", "1", "--sequence-length", "8")

CHEAP: Final = ("--method", "rtn", "--weights", "rtn")
"""A recipe without a calibration."""

DECOY: Final = "decoy.txt"
"""A file that a command line may name as its output, and then replaces."""

TEXTS: Final = {
    DECOY: "Nothing of importance.",
    "text.txt": "Once upon a time there was a sea, and nobody had seen its other side. " * 8,
    "text.jsonl": "".join(
        json.dumps({"text": f"The sea is {word}, as everybody says who was there. " * 4}) + "\n"
        for word in ("wide", "deep", "blue")
    ),
    "chat.json": json.dumps(
        [{"messages": [{"role": "user", "content": "Tell me about the sea, at length. " * 9}]}]
    ),
    "text.csv": "id,text\n" + "".join(f'{n},"The sea, once more. "\n' for n in range(30)),
}


@dataclass(frozen=True)
class Inputs:
    """Folders and files that every command takes.

    Attributes:
        folder: The folder of all of them.
        model: A Hugging Face directory.
        sharded: The same with an index of weights.
        gguf: A folder with .gguf files.
        pieces: A Hugging Face directory whose tokenizer is a tokenizer.model.
        cache: A user's cache, with the packages of the page.
        exported: What `export` made of the model.
        others: Texts, projections, and what `evaluate --json` and `bench --json` print.
    """

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def sharded(self) -> Path:
        return self.folder / "sharded"

    @property
    def gguf(self) -> Path:
        return self.folder / "gguf"

    @property
    def exported(self) -> Path:
        return self.folder / "exported"

    @property
    def pieces(self) -> Path:
        return self.folder / "pieces"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def others(self) -> Path:
        return self.folder / "others"


def make_inputs(folder: Path) -> Inputs:
    """Write all of them into a new folder."""
    inputs = Inputs(folder)
    torch_model = write_model(inputs.model, "llama", tied=True, **SIZES)
    torch_model.save_pretrained(inputs.sharded, max_shard_size="8KB")
    for path in inputs.model.glob("*token*"):
        (inputs.sharded / path.name).write_bytes(path.read_bytes())
    for made in (inputs.gguf, inputs.exported, inputs.others, inputs.pieces):
        made.mkdir()
    write_gguf(torch_model, inputs.model, inputs.gguf / "model.gguf")
    for path in inputs.model.iterdir():
        shutil.copy(path, inputs.pieces)
    write_pieces(inputs.pieces)
    write_gguf(torch_model, inputs.pieces, inputs.gguf / "pieces.gguf", of_pieces=True)
    for package in PACKAGES:
        kept = inputs.cache / "resq-onnx" / "web" / package.archive.removesuffix(".tgz")
        kept.mkdir(parents=True)
        for name in package.files:
            (kept / name).write_text(f"// {name}")
    for name, content in TEXTS.items():
        (inputs.others / name).write_text(content)
    text = inputs.others / "text.txt"
    projections = inputs.others / "projections.safetensors"
    run_successfully(
        "calibrate", inputs.model, projections, "--hessians", *QUICK, "--calibration", text
    )
    exported = inputs.exported / "model.onnx"
    run_successfully("export", inputs.model, exported, *CHEAP)
    measured = run_successfully("evaluate", exported, "--text", text, "--window", "8", "--json")
    (inputs.others / "evaluation.json").write_text(measured.stdout)
    (inputs.others / "benchmark.json").write_text(json.dumps(BENCHMARK))
    return inputs


BENCHMARK: Final = {
    "workload": {
        "prompt_tokens": 8,
        "new_tokens": 8,
        "threads": None,
        "kernels": True,
        "provider": "cpu",
    },
    "machine": {"cpu": "a CPU", "cores": 2, "kernels": "avx2", "gpu": None},
    "models": [
        {
            "path": "model.onnx",
            "prefill_tokens_per_second": 100.0,
            "prefill_ratio": 1.0,
            "decode_tokens_per_second": 10.0,
            "decode_ratio": 1.0,
            "peak_memory_bytes": 1000000,
            "load_seconds": 0.5,
        }
    ],
}
"""As `bench --json` prints it; to measure takes seconds."""
