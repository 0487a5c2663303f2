"""Table of targets: the runtimes for which `export --target` writes a folder."""

from __future__ import annotations

from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.handoff.genai import GENAI
from resq_onnx.handoff.openvino_folder import OPENVINO
from resq_onnx.handoff.target import Target
from resq_onnx.handoff.web import WEB
from resq_onnx.methods import FORMATS

DEFAULT: Final = "ort"

ORT: Final = Target(
    name=DEFAULT,
    about="ONNX Runtime",
    formats=tuple(FORMATS),
    usage="""\
{% set how = " --no-kernels" if recipe.dtype == "bfloat16" else "" %}
With resq-onnx installed, on the command line or in Python:

```console
$ resq-onnx generate {{ model }} --prompt "Once upon a time"{{ how }}
{% if chat %}
$ resq-onnx generate {{ model }} --chat --prompt "Tell me about the sea."{{ how }}
{% endif %}
```
{% if how %}

The CPU kernels do not support bfloat16, so on a CPU the functions in the file run. On a GPU, use
`--provider cuda` instead of `--no-kernels`, or `provider="cuda"` instead of `kernels=False`.
{% endif %}

```python
from resq_onnx import create_session
from resq_onnx.runtime import BufferedDecoder, Tokenizer, generate

tokenizer = Tokenizer.load(".")
{% if how %}
session = create_session("{{ model }}", kernels=False)
decoder = BufferedDecoder(session, max_length=512)
{% else %}
decoder = BufferedDecoder(create_session("{{ model }}"), max_length=512)
{% endif %}
prompt = tokenizer.encode("Once upon a time")
tokens = generate(decoder, prompt, 40, stop_ids=tokenizer.stop_ids)
for piece in tokenizer.stream(tokens):
    print(piece, end="", flush=True)
```
{% if recipe.format == "custom" %}

The file contains its operators of the domain `ai.resq` as ONNX functions, so a plain
`onnxruntime.InferenceSession` of 1.31 or newer can open it too, without the speed of the kernels.
{% endif %}
""",
)

PORTABLE: Final = Target(
    name="portable",
    about="any runtime that supports ONNX opset 23",
    formats=("qdq",),
    usage="""\
`{{ model }}` contains only standard operators. Weights are INT4 and INT8 with DequantizeLinear;
activations and cache are quantised by plain arithmetic.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{{ model }}", providers=["CPUExecutionProvider"])
ids = np.array([[1, 2, 3]])  # from tokenizer.json
feeds = {
    "input_ids": ids,
    "attention_mask": np.ones_like(ids),
    "position_ids": np.arange(ids.shape[1])[None],
}
for past in session.get_inputs():
    if past.name.startswith("past_key_values"):  # empty at first; later the values of `present`
        heads, width = past.shape[1], past.shape[3]
        kind = np.uint8 if past.type == "tensor(uint8)" else np.float32
        feeds[past.name] = np.zeros((1, heads, 0, width), kind)
logits, *present = session.run(None, feeds)
```

`resq-onnx generate {{ model }} --prompt "Once upon a time"` also runs it.
""",
)

TARGETS: Final = {target.name: target for target in (ORT, GENAI, OPENVINO, WEB, PORTABLE)}
"""Targets by name; the first is the default."""


def target_named(name: str) -> Target:
    """Find a target.

    Raises:
        ResqError: There is no target of this name.
    """
    if name not in TARGETS:
        raise ResqError(f"target is {name!r}; it must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
