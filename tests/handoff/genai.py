"""onnxruntime-genai, begun on one prompt or on several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime_genai as og


def begin(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
    """A generator that has read the prompts, the shorter of them padded on the right.

    Args:
        model: An og.Model.
        prompts: Token ids.
        options: Of the search; `max_length` among them.
    """
    width = max(map(len, prompts))
    params = og.GeneratorParams(model)
    params.set_search_options(**{"batch_size": len(prompts), **options})
    generator = og.Generator(model, params)
    pad = og.Tokenizer(model).pad_token_id
    rows = [[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts]
    generator.append_tokens(np.array(rows if len(rows) > 1 else rows[0], np.int32))
    return generator
