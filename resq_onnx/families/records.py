"""One record per model family. To add a family, add a record and a tiny model to the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Family:
    """Names of the modules of one family, as `named_modules()` of its causal LM gives them.

    Names under a layer are relative to `layer` with its number filled in.

    Attributes:
        name: What the user calls it.
        architecture: The class name in `architectures` of config.json.
        activations: Values of `hidden_act` whose MLP is act(gate) * up with act = SiLU.
        rope_types: Values of `rope_type` whose tables this project has checked.
    """

    name: str
    architecture: str
    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    attention: str = "self_attn"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    attention_out: str = "self_attn.o_proj"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    rotary: str = "model.rotary_emb"
    activations: tuple[str, ...] = ("silu", "swish")
    rope_types: tuple[str, ...] = ("default", "linear", "llama3")


LLAMA: Final = Family(name="Llama", architecture="LlamaForCausalLM")
QWEN2: Final = Family(name="Qwen2", architecture="Qwen2ForCausalLM")

FAMILIES: Final[dict[str, Family]] = {f.architecture: f for f in (LLAMA, QWEN2)}
"""Every family that can be exported, by the architecture its config.json names."""
