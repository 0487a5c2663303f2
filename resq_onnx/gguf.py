"""A .gguf file as a Hugging Face model directory, dequantised to float32."""

from __future__ import annotations

from pathlib import Path

from resq_onnx.errors import ResqError
from resq_onnx.quiet import quiet_libraries


def unpack_gguf(file: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer of `file` into `folder`.

    Args:
        file: The .gguf file; transformers must know its architecture.
        folder: An existing, empty folder.

    Raises:
        ResqError: The file is damaged, or transformers cannot read it.
    """
    with quiet_libraries():
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ResqError(f"{file}: cannot be read as a GGUF model: {first_line}") from error
        state = model.state_dict()
        if model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        # The config still says the weights are GGUF's; they are plain float32 from here on.
        del model.config.quantization_config
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
