"""Tokenizers: files, streaming, stop tokens, and chat templates against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from resq_onnx.errors import ResqError
from resq_onnx.runtime import Tokenizer

SPECIAL = ["<|begin|>", "<|end|>"]
BEGIN, END = 256, 257

CHATML = """\
{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
    {%- endif %}
    {% if message.role not in ('system', 'user', 'assistant') %}
        {{ raise_exception('unknown role ' + message.role) }}
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
"""

FEATURES = """\
{% set ns = namespace(count=0) %}{{ bos_token }}{% for m in messages %}
{% if m.role == 'tool' %}{% continue %}{% endif %}
{% set ns.count = ns.count + 1 %}
{% generation %}{{ m.content }}{% endgeneration %}{{ m | tojson }}
{% endfor %}{{ ns.count }}{{ dict(a=1) | tojson(indent=2) }}{{ eos_token }}"""

MESSAGES = [
    {"role": "user", "content": '  Is 3 < 5 & "true"?\n'},
    {"role": "tool", "content": "calculator"},
    {"role": "assistant", "content": "Yes. Ü"},
]


def byte_tokenizer() -> tokenizers.Tokenizer:
    """One token per byte, so that characters come in parts; begins a text with <|begin|>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", BEGIN)]
    )
    return backend


def write(folder: Path, **files: Any) -> Path:
    """A tokenizer folder; `files` are contents by name without suffix, JSON unless text."""
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    for name, contents in files.items():
        if isinstance(contents, str):
            (folder / f"{name}.jinja").write_text(contents, encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(contents), encoding="utf-8")
    return folder


def test_text_survives_encoding_and_decoding(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path))
    ids = tokenizer.encode("Grüße, 世界 🌍!")
    assert ids[0] == BEGIN
    assert tokenizer.decode(ids) == "Grüße, 世界 🌍!"
    assert tokenizer.decode(ids, skip_special_tokens=False).startswith("<|begin|>")
    assert tokenizer.encode("a", add_special_tokens=False) == tokenizer.encode("a")[1:]


def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path))
    with pytest.raises(ResqError, match=r"refuses the text: .* half a character .*; give it in"):
        tokenizer.encode("caf\udce9")


def test_truncation_and_padding_left_in_the_file_are_ignored(tmp_path: Path) -> None:
    write(tmp_path)
    backend = byte_tokenizer()
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).encode("x" * 30)) == 31


def test_streamed_pieces_hold_whole_characters_only(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path))
    ids = tokenizer.encode("aé🌍b")
    assert list(tokenizer.stream(ids)) == ["a", "é", "🌍", "b"]


def test_streaming_emits_a_character_as_soon_as_it_is_whole(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path))
    taken: list[int] = []

    def tokens() -> Any:
        for token in tokenizer.encode("a🌍b", add_special_tokens=False):
            taken.append(token)
            yield token

    pieces = tokenizer.stream(tokens())
    assert (next(pieces), len(taken)) == ("a", 1)
    assert (next(pieces), len(taken)) == ("🌍", 5)
    assert (next(pieces), len(taken)) == ("b", 6)


def test_what_never_becomes_whole_comes_last(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path))
    ids = tokenizer.encode("a🌍", add_special_tokens=False)[:-1]
    assert list(tokenizer.stream(ids)) == ["a", "\N{REPLACEMENT CHARACTER}"]


BYTES = byte_tokenizer()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 257), max_size=20))
def test_streamed_pieces_joined_are_the_whole_text(ids: list[int]) -> None:
    tokenizer = Tokenizer(BYTES)
    assert "".join(tokenizer.stream(ids)) == tokenizer.decode(ids)


def test_streaming_keeps_the_spaces_of_a_sentencepiece_decoder() -> None:
    vocabulary = {"▁Hello": 0, "▁big": 1, "▁world": 2, "s": 3}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="s"))
    backend.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(backend)
    assert list(tokenizer.stream([0, 1, 2, 3])) == ["Hello", " big", " world", "s"]


def test_every_end_that_any_file_names_is_a_stop(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        config={"eos_token_id": 7},
        generation_config={"eos_token_id": [8, 9]},
        tokenizer_config={"eos_token": {"content": "<|end|>", "lstrip": False}},
    )
    assert Tokenizer.load(folder).stop_ids == {7, 8, 9, END}


def test_files_may_name_no_end(tmp_path: Path) -> None:
    folder = write(tmp_path, config={"eos_token_id": None}, tokenizer_config={"eos_token": None})
    assert Tokenizer.load(folder).stop_ids == frozenset()


@pytest.mark.parametrize("template", [CHATML, FEATURES])
@pytest.mark.parametrize("prompt", [True, False])
def test_a_chat_is_rendered_as_transformers_does(
    tmp_path: Path, template: str, prompt: bool
) -> None:
    folder = write(
        tmp_path,
        tokenizer_config={"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}},
        chat_template=template,
    )
    messages = MESSAGES if template is FEATURES else [MESSAGES[0], MESSAGES[2]]
    reference = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token="<|begin|>", eos_token="<|end|>"
    )
    expected = reference.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
    )
    assert Tokenizer.load(folder).apply_chat_template(messages, prompt) == expected


def test_a_template_may_be_in_the_configuration(tmp_path: Path) -> None:
    one = write(tmp_path, tokenizer_config={"chat_template": "one"})
    assert Tokenizer.load(one).apply_chat_template([]) == "one"
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    several = write(tmp_path, tokenizer_config={"chat_template": named})
    assert Tokenizer.load(several).apply_chat_template([]) == "b"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match="no chat template"):
        Tokenizer.load(write(tmp_path)).apply_chat_template(MESSAGES)


def test_a_template_that_refuses_is_an_error_for_the_user(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, chat_template=CHATML))
    with pytest.raises(ResqError, match="unknown role judge"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "guilty"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
        "{{ dict.__globals__ }}{{ dict.__globals__['json'].x }}",
        "{{ messages.append(1) }}",
        "{% if %}",
        "{{ 1 + 'a' }}",
    ],
)
def test_a_template_that_breaks_or_leaves_its_sandbox_is_refused(
    tmp_path: Path, template: str
) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, chat_template=template))
    with pytest.raises(ResqError, match="chat template"):
        tokenizer.apply_chat_template(MESSAGES)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer", "config", "tokenizer_config"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / f"{name}.json").write_text('{"half')
    with pytest.raises(ResqError, match=rf"{name}\.json"):
        Tokenizer.load(tmp_path)
