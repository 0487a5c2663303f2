"""A .gguf file as a model directory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from resq_onnx.checkpoint.gguf import LONGEST_TEXT, leading_texts
from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.errors import ResqError
from tests import tiny_models

GGUF_NAMES: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k as llama.cpp stores them: both halves of a head in turn."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(
    model: PreTrainedModel, folder: Path, file: Path, *, of_pieces: bool = False
) -> None:
    """A Llama in llama.cpp's format, float32, with the tokenizer of `folder`.

    That is a tokenizer.json, or `of_pieces` a tokenizer.model.
    """
    config: Any = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_license("other")
    writer.add_license_name("tiny-licence")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    (_add_pieces if of_pieces else _add_merges)(writer, folder)
    for add, token in ((writer.add_unk_token_id, 0), (writer.add_bos_token_id, 1)):
        add(token)
    writer.add_eos_token_id(2)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        module = name.removesuffix(".weight")
        if module.startswith("model.layers."):
            _, _, layer, role = module.split(".", 3)
            if role in ("self_attn.q_proj", "self_attn.k_proj"):
                heads = values.shape[0] // config.head_dim
                values = interleaved(values, heads)
            module = f"blk.{layer}.{GGUF_NAMES[role]}"
        else:
            module = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[module]
        writer.add_tensor(f"{module}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_merges(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    ordered = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(ordered)
    writer.add_token_types([3] * 3 + [1] * (len(ordered) - 3))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])


def _add_pieces(writer: gguf.GGUFWriter, folder: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ids = range(pieces.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(one) for one in ids])
    writer.add_token_scores([pieces.get_score(one) for one in ids])
    writer.add_token_types([3] * 3 + [1] * (len(ids) - 3))


def test_a_gguf_file_is_unpacked_into_a_directory_that_is_gone_afterwards(tmp_path: Path) -> None:
    original = tiny_models.write_model(tmp_path / "model", "llama", tied=True)
    file = tmp_path / "tiny.gguf"
    write_gguf(original, tmp_path / "model", file)
    with open_model(file) as source:
        folder = source.folder
        assert source.name == str(file)
        expected = ModelSource(tmp_path / "model", "model").layout
        # The format holds it in float32.
        epsilon = float(np.float32(expected.norm_epsilon))
        assert source.layout == replace(expected, norm_epsilon=epsilon)
        assert "quantization_config" not in source.config
        assert source.licence == {"license": "other", "license_name": "tiny-licence"}
        source.check()
        unpacked = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        stored = {tensor.name for tensor in source.weights}
        assert "tokenizer.json" in source.copy_companions(tmp_path)
    assert not folder.exists()
    assert stored == {name for name, _ in original.named_parameters()}
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        torch.testing.assert_close(unpacked(ids).logits, original(ids).logits)


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ResqError, match="cannot be read as a GGUF model"), open_model(file):
        pass


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """A file of metadata alone: texts with a number between them, then a list, then a text."""
    writer = gguf.GGUFWriter(tmp_path / "metadata.gguf", "llama")
    writer.add_name("Tiny")
    writer.add_quantization_version(2)
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_description("behind a list")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return tmp_path / "metadata.gguf"


def test_the_texts_before_the_first_list_are_read(metadata: Path) -> None:
    assert leading_texts(metadata) == {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.license": "mit",
    }


def test_of_a_file_cut_off_anywhere_the_beginning_is_read(metadata: Path) -> None:
    whole, expected = metadata.read_bytes(), leading_texts(metadata)
    for length in range(len(whole)):
        metadata.write_bytes(whole[:length])
        found = leading_texts(metadata)
        assert found.items() <= expected.items()


def test_a_length_that_cannot_be_true_ends_the_reading(metadata: Path) -> None:
    content = metadata.read_bytes()
    place = content.index(b"general.license") - 8
    broken = (LONGEST_TEXT + 1).to_bytes(8, "little")
    metadata.write_bytes(content[:place] + broken + content[place + 8 :])
    assert "general.license" not in leading_texts(metadata)
