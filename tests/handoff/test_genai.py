"""A tiny model's folder in onnxruntime-genai itself, against our own session.

Our kernels give a token the same bits whatever rows run beside it and however long the prompt's
slices are, so tokens are compared one by one, with prompts on which nothing is a tie.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime_genai as og
import pytest
from numpy.typing import NDArray

import resq_onnx
from resq_onnx.handoff.genai import CONFIG_NAME, genai_config
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from resq_onnx.runtime.library import library_path
from resq_onnx.runtime.text_stream import INCOMPLETE
from tests.command_line import contents, run_successfully
from tests.handoff.genai import begin
from tests.tiny_models import SIZES, change_config

TEXT: Final = "A compound statement contains other statements; they affect"
NEW: Final = 16
MAX_LENGTH: Final = 128

Generator = Callable[..., Any]


@pytest.fixture(scope="module")
def model(for_genai: Path) -> Any:
    return og.Model(str(for_genai.parent))


@pytest.fixture(scope="module")
def tokenizer(for_genai: Path) -> Tokenizer:
    return Tokenizer.load(for_genai.parent)


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(TEXT)


@pytest.fixture(scope="module")
def own(for_genai: Path) -> Callable[[Sequence[int], int], list[int]]:
    """A prompt with its greedy continuation by our own session."""
    decoder = BufferedDecoder(create_session(for_genai), MAX_LENGTH)

    def continued(prompt: Sequence[int], new: int = NEW) -> list[int]:
        return [*prompt, *generate(decoder, prompt, new)]

    return continued


@pytest.fixture(params=[True, False], ids=["shared buffer", "concatenation"])
def shared(request: pytest.FixtureRequest) -> bool:
    """Whether past and present are one buffer."""
    found: bool = request.param
    return found


@pytest.fixture
def start(model: Any, shared: bool) -> Generator:
    """Begins a generation from one prompt, or from several that are padded on the right."""

    def begun(*prompts: Sequence[int], **options: Any) -> Any:
        chosen = {"max_length": MAX_LENGTH, "past_present_share_buffer": shared, **options}
        return begin(model, prompts, **chosen)

    return begun


def advance(generator: Any, tokens: int) -> Any:
    for _ in range(tokens):
        generator.generate_next_token()
    return generator


def sequence(generator: Any, row: int = 0) -> list[int]:
    return [int(token) for token in generator.get_sequence(row)]


# What is written


def test_the_configuration_says_what_the_graph_takes(for_genai: Path) -> None:
    config = json.loads((for_genai.parent / CONFIG_NAME).read_text())
    decoder = config["model"]["decoder"]
    record = (SIZES["head_dim"] - 2) // 2 + 2 + 6
    assert decoder["head_size"] == record
    assert decoder["num_key_value_heads"] == SIZES["num_key_value_heads"]
    assert decoder["num_hidden_layers"] == SIZES["num_hidden_layers"]
    assert decoder["filename"] == for_genai.name
    assert decoder["session_options"]["custom_ops_library"] == library_path().name
    assert config["model"]["eos_token_id"] == [2]
    assert config["model"]["context_length"] == SIZES["max_position_embeddings"]
    assert config["search"]["do_sample"] is False


def test_the_search_is_as_the_model_s_authors_sample(for_genai: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(for_genai.parent, tmp_path / "copy")
    generation = {"do_sample": True, "temperature": 0.7, "top_p": None, "pad_token_id": 5}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    change_config(folder, max_position_embeddings=100_000, eos_token_id=[7, 3])
    config = genai_config(folder / for_genai.name)
    found = {name: config["search"][name] for name in ("do_sample", "temperature", "top_p")}
    assert found == {"do_sample": True, "temperature": 0.7, "top_p": 1.0}
    assert config["model"]["eos_token_id"] == [2, 3, 7]  # tokenizer_config.json says 2
    assert config["model"]["pad_token_id"] == 5
    assert config["search"]["max_length"] < config["model"]["context_length"] == 100_000


def test_the_folder_runs_elsewhere_and_without_this_package(
    for_genai: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """What its card says is run, in a copy, by a process that cannot import resq_onnx."""
    copy = shutil.copytree(for_genai.parent, tmp_path / "elsewhere")
    for name, content in contents(copy).items():
        for place in (for_genai.parent, Path(resq_onnx.__file__).parents[1], Path(sys.prefix)):
            assert str(place).encode() not in content, name
    card = (copy / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    program = f"import sys\nsys.modules['resq_onnx'] = None\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    messages = [{"role": "user", "content": "Tell me about the sea."}]
    prompt = tokenizer.encode(tokenizer.apply_chat_template(messages), add_special_tokens=False)
    decoder = BufferedDecoder(create_session(for_genai), len(prompt) + 60)
    expected = list(generate(decoder, prompt, 60, stop_ids=tokenizer.stop_ids))
    # A random model writes halves of characters: one tokenizer drops them, the other marks them.
    said, own = (text.replace("\ufffd", "") for text in (done.stdout, tokenizer.decode(expected)))
    assert said.replace("</s>", "") == own


# Text


def test_both_tokenizers_agree(model: Any, tokenizer: Tokenizer) -> None:
    theirs = og.Tokenizer(model)
    for text in (TEXT, " x\n\ny = [1, 2]", "a"):
        assert [int(token) for token in theirs.encode(text)] == tokenizer.encode(text)


def test_both_chat_templates_agree(model: Any, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    theirs = og.Tokenizer(model).apply_chat_template(json.dumps(messages))
    assert theirs == tokenizer.apply_chat_template(messages, add_generation_prompt=True)


def test_streamed_pieces_are_the_text(
    model: Any, start: Generator, ids: list[int], tokenizer: Tokenizer
) -> None:
    generator, stream = start(ids), og.Tokenizer(model).create_stream()
    pieces = []
    for _ in range(NEW):
        generator.generate_next_token()
        pieces.append(stream.decode(generator.get_next_tokens()[0]))
    whole = tokenizer.decode(sequence(generator)[len(ids) :])
    assert "".join(pieces) == whole.replace(INCOMPLETE, "")  # theirs leaves broken UTF-8 away


# Tokens


def test_greedy_tokens_are_our_own(start: Generator, ids: list[int], own: Any) -> None:
    expected = own(ids)
    assert len(set(expected[len(ids) :])) > NEW // 2  # a model that repeats one token shows little
    assert sequence(advance(start(ids), NEW)) == expected


def test_the_logits_of_a_prompt_are_our_own(
    for_genai: Path, start: Generator, ids: list[int]
) -> None:
    logits, _ = Decoder(create_session(for_genai)).run(np.array([ids]))
    np.testing.assert_array_equal(start(ids).get_logits(), logits)


def test_a_prompt_in_slices_gives_the_same_tokens(
    start: Generator, ids: list[int], own: Any
) -> None:
    assert sequence(advance(start(ids, chunk_size=4), NEW)) == own(ids)


def test_prompts_of_unequal_length_run_in_one_batch(
    start: Generator, ids: list[int], own: Any
) -> None:
    """Padding stays in the middle of the cache; the attention mask leaves it out."""
    prompts = [ids, ids[:9], ids[5:22], ids[:1]]
    generator = advance(start(*prompts), NEW)
    for row, prompt in enumerate(prompts):
        assert sequence(generator, row)[len(ids) :] == own(prompt)[len(prompt) :]


def test_sampling_with_a_seed_is_repeated(start: Generator, ids: list[int]) -> None:
    options = {"do_sample": True, "temperature": 1.5, "top_k": 0}
    drawn = [sequence(advance(start(ids, random_seed=seed, **options), NEW)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


# Beams


def likeliest(decoder: Decoder, ids: list[int], beams: int, new: int) -> list[list[int]]:
    """Beam search, slow and obvious: every sequence is read from its beginning at every step."""
    found = [(0.0, ids)]
    for _ in range(new):
        logits, _ = decoder.run(np.array([tokens for _, tokens in found]))
        candidates = [
            (score + gain, [*tokens, token])
            for (score, tokens), row in zip(found, log_softmax(logits[:, -1]), strict=True)
            for token, gain in enumerate(row)
        ]
        found = sorted(candidates, reverse=True)[:beams]
    return [tokens for _, tokens in found]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_finds_the_likeliest_sequences(
    for_genai: Path, start: Generator, ids: list[int], own: Any, beams: int
) -> None:
    """The rows of the cache, bytes to onnxruntime-genai, change places with their beams."""
    expected = likeliest(Decoder(create_session(for_genai)), ids, beams, NEW)
    assert all(2 not in tokens[len(ids) :] for tokens in expected)  # none of them ends early
    assert expected[0] != own(ids)  # greedy search would not have found it
    options = {"num_beams": beams, "num_return_sequences": beams, "max_length": len(ids) + NEW}
    generator = start(ids, **options)
    while not generator.is_done():
        generator.generate_next_token()
    assert [sequence(generator, row) for row in range(beams)] == expected


# Going back


def test_after_rewinding_other_tokens_may_follow(
    start: Generator, ids: list[int], own: Any
) -> None:
    generator = advance(start(ids), NEW)
    generator.rewind_to(8)
    assert sequence(generator) == ids[:8]
    generator.append_tokens(np.array([20, 30, 40], np.int32))
    expected = own([*ids[:8], 20, 30, 40])
    assert sequence(advance(generator, NEW)) == expected


def test_a_conversation_goes_on_after_two_tokens_are_read_again(
    start: Generator, ids: list[int], own: Any
) -> None:
    """onnxruntime-genai 0.18 has not run the newest token when others are appended to it."""
    said = sequence(advance(start(ids), NEW))
    generator = advance(start(ids), NEW)
    generator.rewind_to(len(said) - 2)
    generator.append_tokens(np.array([*said[-2:], 20, 30, 40], np.int32))
    assert sequence(advance(generator, NEW)) == own([*said, 20, 30, 40])


def test_a_batch_is_rewound_to_its_beginning(start: Generator, ids: list[int], own: Any) -> None:
    prompts = [ids[:7], ids[7:14]]
    generator = advance(start(*prompts), 3)
    generator.rewind_to(0)
    generator.append_tokens(np.array(prompts[::-1], np.int32))
    advance(generator, NEW)
    assert [sequence(generator, row) for row in range(2)] == [own(row) for row in prompts[::-1]]


REFUSALS: Final = {
    "beams": "RewindToLength is not supported with beam search",
    "batch": "RewindToLength must be called with new_length=0 when batch_size > 1",
}
"""What onnxruntime-genai itself does not do, whatever the model; docs/runtimes.md says so."""


def test_what_genai_does_not_rewind(start: Generator, ids: list[int]) -> None:
    generators = {"beams": start(ids, num_beams=2), "batch": start(ids[:7], ids[7:14])}
    for name, generator in generators.items():
        advance(generator, 1)
        with pytest.raises(RuntimeError, match=REFUSALS[name]):
            generator.rewind_to(3)


# Other recipes


def test_a_folder_without_our_operators_needs_no_library(
    tiny_model: Path, projections: Path, tmp_path: Path, ids: list[int]
) -> None:
    """Plain ONNX, logits of all tokens and a cache in float: genai takes type and width from it."""
    out = tmp_path / "model.onnx"
    options = ("--target", "genai", "--format", "qdq", "--logits", "all", "--cache", "float")
    run_successfully("export", tiny_model, out, *options, "--projections", projections)
    assert not list(tmp_path.glob("lib*"))
    config = json.loads((tmp_path / CONFIG_NAME).read_text())["model"]["decoder"]
    assert config["head_size"] == SIZES["head_dim"]
    assert "custom_ops_library" not in config["session_options"]
    model = og.Model(str(tmp_path))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=MAX_LENGTH)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(ids, np.int32))
    decoder = BufferedDecoder(create_session(out), MAX_LENGTH)
    expected = [*ids, *generate(decoder, ids, NEW)]
    assert sequence(advance(generator, NEW)) == expected
