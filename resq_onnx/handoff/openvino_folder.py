"""The target OpenVINO: its formats and usage text; `openvino.py` runs the folder."""

from __future__ import annotations

from typing import Final

from resq_onnx.handoff.target import Target

OPENVINO: Final = Target(
    name="openvino",
    about="OpenVINO",
    formats=("qdq",),
    usage="""\
With resq-onnx, which sets the options that rounding needs and keeps the cache inside OpenVINO:

```console
$ pip install resq-onnx openvino
```

```python
from resq_onnx.handoff.openvino import StatefulDecoder
from resq_onnx.runtime import Tokenizer, generate

tokenizer = Tokenizer.load(".")
decoder = StatefulDecoder("{{ model }}", max_length=512)
{% if chat %}
messages = [{"role": "user", "content": "Tell me about the sea."}]
prompt = tokenizer.encode(tokenizer.apply_chat_template(messages), add_special_tokens=False)
{% else %}
prompt = tokenizer.encode("Once upon a time")
{% endif %}
tokens = generate(decoder, prompt, 60, stop_ids=tokenizer.stop_ids)
for piece in tokenizer.stream(tokens):
    print(piece, end="", flush=True)
```

Without resq-onnx, in any language, read and compile `{{ model }}` like any other model:

```python
import openvino as ov

settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
model = ov.Core().compile_model("{{ model }}", "CPU", settings)
```

The inputs are `input_ids`, `attention_mask` over old and new tokens, `position_ids` and the caches,
which are empty in the first call. The outputs are `logits` and the caches for the next call.
OpenVINO keeps the weights in 4 and 8 bits.
""",
    defaults={"logits": "last"},
)
