"""The target web: a folder for onnxruntime-web, which `resq-onnx web` serves."""

from __future__ import annotations

from typing import Final

from resq_onnx.handoff.target import Target

WEB: Final = Target(
    name="web",
    about="a browser with onnxruntime-web",
    formats=("web", "contrib", "qdq"),
    usage="""\
```console
$ resq-onnx web .
```

in this folder serves a chat page on this machine. `--write SITE` writes the page and all its files
into a folder, for a server that sends `Cross-Origin-Opener-Policy: same-origin` and
`Cross-Origin-Embedder-Policy: require-corp`; without these headers the browser uses one thread.
{% if recipe.format == "web" %}

The weights are stored in {{ recipe.low_bits }} and {{ recipe.high_bits }} bits, and converted to
floats when the browser opens the file.
{% endif %}
""",
    defaults={"logits": "last"},
)
