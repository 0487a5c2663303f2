"""Open the original model: a Hugging Face directory, a .gguf file, or a name on the hub."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from resq_onnx.checkpoint.folder import COMPANION_FILES, check_folder
from resq_onnx.checkpoint.hub import fetch_model, hub_name
from resq_onnx.checkpoint.licence import stated_licence
from resq_onnx.checkpoint.safetensors_store import SafetensorsStore
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout, layout_of, with_length
from resq_onnx.files import copy_file
from resq_onnx.files.contents import read_json
from resq_onnx.files.scratch import scratch_folder

ADAPTER: Final = "adapter_config.json"
"""PEFT's name for the file that names an adapter's base model."""


@dataclass(frozen=True)
class ModelSource:
    """A model that is ready to be traced: a folder with config.json and safetensors.

    Attributes:
        folder: Where the files are; a temporary folder for a .gguf file.
        name: The path or name that the user gave, for messages and reports.
        max_length: Tokens of the longest text that the exported model is for; None for the model's
            usual positions (`families.length`).
        changed: A safetensors file whose tensors take the place of the folder's with their names;
            None for none.
    """

    folder: Path
    name: str
    max_length: int | None = field(default=None, kw_only=True)
    changed: Path | None = field(default=None, kw_only=True)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json of the model that is exported: the one in the folder, for its length."""
        return with_length(self.stored_config, self.max_length, self.name)

    @cached_property
    def stored_config(self) -> dict[str, Any]:
        """The contents of config.json."""
        path = self.folder / "config.json"
        if path.exists():
            return read_json(path, "download it again", shown=f"{self.name}: config.json")
        if (self.folder / ADAPTER).exists():
            raise ResqError(
                f"{self.name}: an adapter, not a model: merge it into its base model first, by "
                "peft: AutoPeftModelForCausalLM.from_pretrained(ADAPTER).merge_and_unload()"
                ".save_pretrained(MERGED), and give MERGED with the tokenizer's files"
            )
        raise ResqError(f"{self.name}: no config.json; is this a model directory?")

    @cached_property
    def layout(self) -> ModelLayout:
        """Sizes and module names."""
        return layout_of(self.config, self.name)

    @cached_property
    def licence(self) -> dict[str, str]:
        """The licence stated in config.json or README.md; empty if neither states one."""
        return stated_licence(self.folder, self.config)

    @cached_property
    def weights(self) -> SafetensorsStore:
        """The weights, not yet loaded."""
        store = SafetensorsStore(self.folder, self.layout.family.stored_prefixes)
        return store if self.changed is None else store.with_file(self.changed)

    @property
    def whole_bytes(self) -> int:
        """Bytes of all weights in float32, those of a vision tower too."""
        return 4 * sum(math.prod(tensor.shape) for tensor in self.weights)

    @property
    def float32_bytes(self) -> int:
        """Bytes of the language model's weights in float32."""
        others = self.layout.family.other_parts
        weights = (tensor for tensor in self.weights if not tensor.name.startswith(others))
        return 4 * sum(math.prod(tensor.shape) for tensor in weights)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over config.json and the names, shapes and bytes of all weights.

        With LongRoPE's long factors it is another: activations are then others, too.
        """
        digest = hashlib.sha256(json.dumps(self.stored_config, sort_keys=True).encode())
        if self.layout.longrope == "long":
            digest.update(b"long")
        for tensor in sorted(self.weights, key=lambda tensor: tensor.name):
            digest.update(f"{tensor.name}{tensor.shape}{tensor.dtype}".encode())
            for part in tensor.bytes():
                digest.update(part)
        return digest.hexdigest()

    def check_shapes(self) -> None:
        """Reject a config.json that does not match the weights' shapes; no weights are read.

        Raises:
            ResqError: A weight is missing, or does not have the shape that config.json requires.
        """
        for name, shape in _expected_shapes(self.layout):
            stored = self.weights[name]
            if stored.shape != shape:
                raise ResqError(
                    f"{stored.file}: tensor {name} has shape {stored.shape}; config.json "
                    f"requires {shape}"
                )

    def check(self, warn: Callable[[str], None] = warnings.warn) -> None:
        """Reject early a model that cannot be exported.

        Args:
            warn: Receives one line for each part of the model that the export leaves out: its
                vision tower, positions with other RoPE factors, an adapter beside it.

        Raises:
            ResqError: Unsupported architecture, damaged files, a weight that is missing or does not
                have the shape that config.json requires, or weights that are not finite.
        """
        self.check_shapes()
        self.weights.check_finite()
        for name in COMPANION_FILES:
            if (
                name.endswith(".json") and name != "tokenizer.json"
            ):  # its own library reads that file
                shown = f"{self.name}: {name}"
                read_json(self.folder / name, "download it again", optional=True, shown=shown)
        self._tell_what_is_left_out(warn)

    def _tell_what_is_left_out(self, warn: Callable[[str], None]) -> None:
        layout, others = self.layout, self.layout.family.other_parts
        if count := sum(tensor.name.startswith(others) for tensor in self.weights):
            warn(
                f"{self.name}: {count} tensors for images are left out; the exported model reads "
                f"text alone"
            )
        most = layout_of(self.stored_config, self.name).max_positions
        if self.max_length is None and layout.longrope == "short" and layout.max_positions < most:
            warn(
                f"{self.name}: exported for texts of {layout.max_positions} tokens, by LongRoPE's "
                f"short factors; --max-length {most} exports it for longer ones, by the long "
                f"factors"
            )
        if (self.folder / ADAPTER).exists():
            warn(
                f"{self.name}: the adapter in it ({ADAPTER}) is left out; to have it in, merge it "
                "into the model first, by peft's merge_and_unload()"
            )

    def copy_companions(self, target: Path) -> list[str]:
        """Copy tokenizer, chat template and configuration; returns the names copied.

        The configuration is that of the exported model, with its own number of positions.
        """
        present = [name for name in COMPANION_FILES if (self.folder / name).is_file()]
        for name in present:
            copy_file(self.folder / name, target / name)
        if self.config != self.stored_config:
            (target / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        return present


def _expected_shapes(layout: ModelLayout) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights that every family has."""
    family, hidden = layout.family, layout.hidden_size
    yield f"{family.embedding}.weight", (layout.vocab_size, hidden)
    yield f"{family.final_norm}.weight", (hidden,)
    if not layout.tied:
        yield f"{family.head}.weight", (layout.vocab_size, hidden)
    rows = layout.outputs_of
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (hidden,),
        "query": (rows("query"), hidden),
        "key": (rows("key"), hidden),
        "value": (rows("value"), hidden),
        "attention_out": (hidden, rows("query")),
        "mlp_norm": (hidden,),
        "gate": (rows("gate"), hidden),
        "up": (rows("up"), hidden),
        "down": (hidden, rows("up")),
    }
    shapes |= dict.fromkeys(layout.post_norms, (hidden,))
    if layout.norms_heads:
        shapes |= {"query_norm": (layout.head_dim,), "key_norm": (layout.head_dim,)}
    for name, roles in family.fused.items():
        parts = [shapes.pop(role) for role in roles]
        shapes[name] = (sum(count for count, *_ in parts), hidden)
    for layer in range(layout.num_layers):
        for role, shape in shapes.items():
            stored = f"{family.layer.format(layer)}.{role}"
            module = stored if role in family.fused else layout.module(layer, role)
            yield f"{module}.weight", shape


@contextmanager
def open_model(path: str | Path, max_length: int | None = None) -> Iterator[ModelSource]:
    """Open a model directory or a .gguf file for as long as the context lasts.

    Any other path may be a model's name on the Hugging Face hub, which is then downloaded.

    Args:
        path: The model.
        max_length: As for `ModelSource`.

    Raises:
        ResqError: The model does not exist, or its files cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        check_folder(path)
        yield ModelSource(path, str(path), max_length=max_length)
    elif path.is_file() and path.suffix == ".gguf":
        with scratch_folder("gguf") as folder:
            from resq_onnx.checkpoint.gguf import unpack_gguf

            unpack_gguf(path, folder)
            yield ModelSource(folder, str(path), max_length=max_length)
    elif path.exists():
        raise ResqError(f"{path}: neither a model directory nor a .gguf file")
    elif name := hub_name(path):
        fetched = fetch_model(name)
        check_folder(fetched)
        yield ModelSource(fetched, name, max_length=max_length)
    else:
        raise ResqError(
            f"{path}: no such model directory or .gguf file; a model on the Hugging Face hub is "
            "called OWNER/NAME"
        )
