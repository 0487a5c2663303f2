"""A layout whose sizes are small and all different."""

from typing import Final

from resq_onnx.families import FAMILIES, ModelLayout

LAYOUT: Final = ModelLayout(
    family=FAMILIES["LlamaForCausalLM"],
    num_layers=2,
    hidden_size=48,
    num_heads=6,
    num_kv_heads=3,
    head_dim=16,
    intermediate_size=96,
    vocab_size=32,
    max_positions=64,
    norm_epsilon=1e-5,
    tied=False,
)
