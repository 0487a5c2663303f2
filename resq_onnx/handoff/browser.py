"""A browser: the folder that `resq-onnx web` makes a chat page of."""

from __future__ import annotations

from typing import Final

from resq_onnx.handoff.target import Target

BROWSER: Final = Target(
    name="web",
    about="browsers, by onnxruntime-web",
    formats=("web", "contrib"),
    usage="""\
With resq-onnx and npm installed, this serves a chat page at an address of this machine:

```console
$ resq-onnx web . --open
```

`resq-onnx web . --write SITE` writes the page, the model and all they need into a folder for a
server of your own, which must send the headers `Cross-Origin-Opener-Policy: same-origin` and
`Cross-Origin-Embedder-Policy: require-corp`: without them a browser gives the model one thread.

`resq-onnx generate {{ model }} --prompt "Once upon a time"` runs it without a browser.
""",
    defaults={"logits": "last"},
)
