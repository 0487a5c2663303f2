"""Names of models and data sets on the hub, most of which are none."""

from __future__ import annotations

import random
from typing import Final

PARTS: Final = (
    *(
        "meta-llama",
        "Llama-3.2-1B",
        "a",
        "A.b_c-d",
        "..",
        ".",
        "-",
        "_",
        "a..b",
        "a--b",
        ".a",
        "a.",
    ),
    *("", " ", "é", "x" * 97, "x" * 5000, "\udcff", "%2e", "a b", "a\nb", "[bold]", "datasets"),
    *("model.gguf", "a.onnx", "a.json", "wikitext", "~", "C:", "a:b", "a@main", "\U0001f40b"),
)

BEFORE: Final = (
    *("hf://", "hf:/", "HF://", "https://huggingface.co/", "http://huggingface.co/", "ftp://"),
    *("https://www.huggingface.co/", "https://huggingface.co/datasets/", "https://evil.example/"),
    *("https://huggingface.co@evil.example/", "file:///", "hf://datasets/", "./", "~/"),
)

BEHIND: Final = ("/", "//", "/tree/main", "?x=1", "#x", ":configuration", "::", "@" + "0" * 40, " ")


def strange_name(dice: random.Random) -> str:
    """A few parts, perhaps with an address before and something behind."""
    name = "/".join(dice.choices(PARTS, k=dice.choice([1, 2, 2, 2, 2, 3])))
    if dice.random() < 0.3:
        name = dice.choice(BEFORE) + name
    if dice.random() < 0.3:
        name += dice.choice(BEHIND)
    return name
