"""What constrained generation costs: time of a schema and of each token's mask.

    python -m tests.benchmarks.masks FOLDER [--tokens 400] [--seed 0]

FOLDER is an exported model. Tokens are drawn evenly among those that are allowed. xgrammar is
measured beside llguidance where it is installed (`pip install xgrammar`, which needs torch and
transformers).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from resq_onnx.runtime import Tokenizer
from resq_onnx.runtime.constraints import Constraints
from tests.benchmarks.masks_of_xgrammar import Grammars

STREET: Final = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["street", "zip"],
    "additionalProperties": False,
}
PERSON: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        "address": STREET,
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
SCHEMAS: Final[dict[str, Any]] = {"a person": PERSON, "any object": {"type": "object"}}


def main() -> None:
    """Print a line for each library and schema."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = Tokenizer.load(given.folder)
    vocabulary = json.loads((given.folder / "config.json").read_text())["vocab_size"]
    makers: dict[str, Callable[[], Any]] = {
        "llguidance": lambda: Constraints(tokenizer, vocabulary)
    }
    if importlib.util.find_spec("xgrammar") is not None:
        makers["xgrammar"] = lambda: Grammars(given.folder, vocabulary)
    for name, make in makers.items():
        began = time.perf_counter()
        library = make()
        library.of_schema({"type": "null"})
        print(f"{name}: ready after {time.perf_counter() - began:.2f} s")
        for title, schema in SCHEMAS.items():
            measure(title, library, schema, tokenizer.stop_ids, given.tokens, given.seed)


def measure(
    title: str, library: Any, schema: Any, stop_ids: frozenset[int], tokens: int, seed: int
) -> None:
    """Print the times of one schema."""
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    constraint = library.of_schema(schema)
    compiled, times = time.perf_counter() - began, list[float]()
    while len(times) < tokens and not constraint.is_complete:
        began = time.perf_counter()
        allowed = constraint.allowed()
        times.append(time.perf_counter() - began)
        token = int(rng.choice(np.flatnonzero(allowed)))
        if token in stop_ids:
            break
        constraint.note(token)
    found = np.array(times) * 1e6
    print(
        f"  {title}: schema {compiled * 1e3:.1f} ms; {len(found)} masks, microseconds: median "
        f"{np.median(found):.0f}, mean {found.mean():.0f}, longest {found.max():.0f}"
    )


if __name__ == "__main__":
    main()
