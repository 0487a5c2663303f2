"""A model's configuration as transformers understands it."""

from __future__ import annotations

import copy
from typing import Any

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import blaming


def load_config(source: ModelSource) -> Any:
    """Read config.json, for the length of the exported model.

    The attention is the one that can be traced, whatever the file names.

    Raises:
        ResqError: transformers does not understand it.
    """
    import transformers

    remedy = "correct it, or download it again"
    with blaming(f"{source.name}: config.json", "not one that transformers can load", remedy):
        config: Any = transformers.AutoConfig.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False
        )
        if source.config != source.stored_config:  # transformers changes what it is given
            config = type(config).from_dict(copy.deepcopy(source.config))
        # The file may name one that is not installed, and models are checked for it.
        config._attn_implementation = source.layout.family.traced_attention
    return config
