"""Inputs and outputs of a decoder graph: the contract between an exported file and a decoder.

B sequences, S new tokens, P cached ones:

    input_ids int64 (B, S)                      logits float (B, S, vocabulary), or (B, 1,
    attention_mask int64 (B, P + S)                 vocabulary) with `--logits last`
    position_ids int64 (B, S), or absent        present.{i}.key, present.{i}.value
    past_key_values.{i}.key, ....value              as the past, (B, G, P + S, R)
        uint8 (B, G, P, R) packed records, or int8 or float (B, G, P, d)

The cache may also be one buffer of fixed length, bound both as past and as present: then P is the
buffer's length, total = attention_mask.shape[1], and the new tokens go into the last S of the first
`total` entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from resq_onnx.errors import ResqError
from resq_onnx.files.contents import parse_json
from resq_onnx.graph.names import RECIPE_KEY, cache_names

if TYPE_CHECKING:
    import onnxruntime

TYPES: Final[dict[str, type[np.generic]]] = {
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
"""Element types a cache or logits may have, as ONNX Runtime writes them."""


@dataclass(frozen=True)
class CacheForm:
    """One key or value cache, (B, heads, tokens, width).

    Attributes:
        heads: Kv heads, G.
        width: Bytes of a record, R, or size of a head, d.
        dtype: Element type.
    """

    heads: int
    width: int
    dtype: type[np.generic]


@dataclass(frozen=True)
class Signature:
    """Names and forms of a decoder graph's inputs and outputs.

    Attributes:
        past: Names of the cache inputs: key and value of layer 0, of layer 1, ...
        present: Names of the cache outputs, in the same order.
        caches: Their forms, in the same order.
        takes_positions: Whether the graph has an input position_ids.
        last_only: Whether logits are computed for the last new token only.
        vocabulary: Number of logits per token; None if the graph does not specify it.
        logits_dtype: Element type of the logits.
    """

    past: tuple[str, ...]
    present: tuple[str, ...]
    caches: tuple[CacheForm, ...]
    takes_positions: bool
    last_only: bool
    vocabulary: int | None
    logits_dtype: type[np.generic]


def read_signature(
    session: onnxruntime.InferenceSession, cache_width: int | None = None
) -> Signature:
    """Read the inputs and outputs of a session's graph.

    Args:
        session: The session with the graph.
        cache_width: The last dimension of a cache, if the graph does not specify it.

    Raises:
        ResqError: The graph is not a decoder as described at the top of this file.
    """
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    past, present = cache_names(sum(name.endswith(".key") for name in inputs))
    missing = [name for name in ("input_ids", "attention_mask", *past) if name not in inputs]
    missing += [name for name in ("logits", *present) if name not in outputs]
    if missing or not past:
        raise ResqError(
            f"the model is not a decoder with a cache: it has no "
            f"{', '.join(missing) or 'past_key_values.0.key'}; give a file that "
            f"resq-onnx export wrote"
        )
    logits = outputs["logits"]
    shape = [*logits.shape, None, None, None]
    return Signature(
        past=tuple(past),
        present=tuple(present),
        caches=tuple(_cache_form(inputs[name], cache_width) for name in past),
        takes_positions="position_ids" in inputs,
        last_only=shape[1] == 1,
        vocabulary=shape[2] if isinstance(shape[2], int) else None,
        logits_dtype=_dtype(logits, "output"),
    )


def _cache_form(entry: Any, width: int | None) -> CacheForm:
    shape = list(entry.shape)
    if len(shape) == 4 and width is not None and not isinstance(shape[3], int):
        shape[3] = width
    if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ResqError(
            f"input {entry.name} has shape {shape}; a cache must have four dimensions, and the "
            f"second (kv heads) and fourth (bytes or values of a record) must be fixed numbers"
        )
    return CacheForm(shape[1], shape[3], _dtype(entry, "input"))


def _dtype(entry: Any, kind: str) -> type[np.generic]:
    if entry.type not in TYPES:
        raise ResqError(
            f"{kind} {entry.name} is a {entry.type}; it must be one of {', '.join(TYPES)}"
        )
    return TYPES[entry.type]


def steps_do_not_matter(session: onnxruntime.InferenceSession) -> bool:
    """Whether a cache is bitwise the same for any division of the text into steps.

    This holds if our operators do all arithmetic of the file, and their kernels run.
    """
    return is_indifferent_to_steps(session.get_modelmeta().custom_metadata_map.get(RECIPE_KEY))


def is_indifferent_to_steps(found: str | None) -> bool:
    """As `steps_do_not_matter`, from the value of the metadata `RECIPE_KEY`."""
    recipe = parse_json(found, f"metadata {RECIPE_KEY}", "export the model again") if found else {}
    return (
        recipe.get("format") == "custom"
        and recipe.get("method") != "none"
        and recipe.get("activations") == recipe.get("cache") == "quantised"
    )
