"""`export --dtype`: what operators hand to each other in 16 bits, through the whole line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.graph.inspection import inspect_model
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from resq_onnx.runtime.decoder import decode_logits
from resq_onnx.runtime.library import CPU_DTYPES
from resq_onnx.runtime.taps import Embedder, layer_outputs, tapped_session
from tests.command_line import QUICK, error_line, run, run_successfully
from tests.end_to_end.tiny_text import TEXT, WINDOW, token_ids, torch_logits
from tests.tiny_models import write_model

KINDS: Final = {"llama": True, "qwen2": False}
"""By kind, whether the embedding is tied: with and without biases, tied and not."""

DTYPES: Final = ("float16", "bfloat16")

SHARE: Final = 0.6
"""How far a 16-bit file may be from that in float32, of how far that is from the model: a rounding
to 16 bits moves some coefficients to the other side of a 4-bit step, as float32's own do, but most
stay. Found are 0.2 with float16 and 0.3 with bfloat16: KL 0.06 and 0.09 of 0.31 nats, of another
model 0.008 and 0.015 of 0.047."""

REDRAWN: Final = 0.01
"""Nats between two draws of the noise of float sums, which move few coefficients: found are up to
0.0005. A token that is forgotten gives 0.05 in one model and 0.4 in the other."""

ROUNDED: Final = 0.03
"""Nats between kernels and functions: attention in 16 bits moves more of them. 0.011 was seen."""

PERPLEXITY: Final = 0.3
"""Relative, of models so small on a text so short: found are 0.01 to 0.16."""


@dataclass(frozen=True)
class Exported:
    """One tiny model in one type, and in float32."""

    dtype: str
    out: Path
    plain: Path
    model: Path
    original: PreTrainedModel

    @property
    def kernels(self) -> bool:
        return self.dtype in CPU_DTYPES

    @property
    def ids(self) -> NDArray[np.int64]:
        return token_ids(self.out.parent)

    def decoder(self) -> Decoder:
        return Decoder(create_session(self.out, kernels=self.kernels))

    def run(self, command: str, *options: object) -> str:
        """A command on the file, as its type wants it on a CPU."""
        how = () if self.kernels else ("--no-kernels",)
        return run_successfully(command, self.out, *options, *how).stdout


@pytest.fixture(scope="module", params=KINDS)
def plain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel]:
    """A tiny model in float32, with the model and its projections beside its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    original = write_model(folder / "model", request.param, tied=KINDS[request.param])
    run_successfully("calibrate", folder / "model", folder / "p.safetensors", *QUICK)
    return export(folder / "float32" / "model.onnx"), original


def export(out: Path, *options: object) -> Path:
    folder = out.parent.parent
    projections = ("--projections", folder / "p.safetensors")
    run_successfully("export", folder / "model", out, *projections, *options)
    return out


@pytest.fixture(scope="module")
def make(plain: tuple[Path, PreTrainedModel]) -> Callable[[str], Exported]:
    """Exports the model in a type, once."""
    made: dict[str, Exported] = {}

    def exported(dtype: str) -> Exported:
        if dtype not in made:
            folder = plain[0].parent.parent
            out = export(folder / dtype / "model.onnx", "--dtype", dtype)
            made[dtype] = Exported(dtype, out, plain[0], folder / "model", plain[1])
        return made[dtype]

    return exported


@pytest.fixture(params=DTYPES)
def exported(request: pytest.FixtureRequest, make: Callable[[str], Exported]) -> Exported:
    return make(request.param)


@pytest.fixture
def halves(make: Callable[[str], Exported]) -> Exported:
    """In float16, for which there are kernels."""
    return make("float16")


@pytest.mark.parametrize("command", [("generate", "--prompt", "A"), ("bench",), ("serve",)])
def test_kernels_that_do_not_know_the_type_are_refused_with_what_to_do(
    make: Callable[[str], Exported], command: tuple[str, ...]
) -> None:
    out = make("bfloat16").out
    of = out.parent if command == ("serve",) else out
    said = error_line(run(command[0], of, *command[1:]).stderr)
    assert said.endswith(
        f"{out}: its activations are bfloat16, for which there are no kernels on CPUs: run the "
        "functions in the file (--no-kernels) or use a GPU (--provider cuda), or export the model "
        "with --dtype float16"
    )


# The file


def test_only_what_layers_hand_on_changes_its_type(exported: Exported) -> None:
    onnx.checker.check_model(exported.out, full_check=True)
    stored = [
        {value.name: value.dtype for value in ir.load(path).graph.initializers.values()}
        for path in (exported.out, exported.plain)
    ]
    assert stored[0] == stored[1]
    data = [path.with_name("model.onnx.data") for path in (exported.out, exported.plain)]
    assert data[0].read_bytes() == data[1].read_bytes()
    graph = ir.load(exported.out).graph
    wanted = ir.DataType[exported.dtype.upper()]
    ours = {node.name: node.outputs[0].dtype for node in graph if node.domain == "ai.resq"}
    assert ours.pop("lm_head") == ir.DataType.FLOAT
    assert set(ours.values()) == {wanted}
    said = json.loads(exported.out.with_name("resq.json").read_text())
    assert said["recipe"]["dtype"] == exported.dtype
    found = inspect_model(exported.out)
    assert found.cache_bytes_per_token == inspect_model(exported.plain).cache_bytes_per_token
    assert f"dtype {exported.dtype}" in run_successfully("inspect", exported.out).stdout


def test_a_plain_session_runs_the_file(exported: Exported) -> None:
    """Neither a library of ours nor an option; logits in float32, the cache in bytes."""
    session = onnxruntime.InferenceSession(exported.out, providers=["CPUExecutionProvider"])
    logits, *caches = session.get_outputs()
    assert logits.type == "tensor(float)"
    assert {cache.type for cache in caches} == {"tensor(uint8)"}
    found, _ = Decoder(session).run(exported.ids)
    expected, _ = exported.decoder().run(exported.ids)
    assert compare(expected, found, exported.ids).kl_divergence < REDRAWN


def test_the_float_model_beside_it_stays_one(halves: Exported, tmp_path: Path) -> None:
    """As does a cache in float."""
    out, rotated = halves.out.with_name("again.onnx"), tmp_path / "rotated.onnx"
    export(out, "--dtype", "float16", "--save-rotated", rotated, "--cache", "float")
    types = {value.dtype for value in ir.load(rotated).graph.initializers.values()}
    assert types == {ir.DataType.FLOAT, ir.DataType.INT64}
    said = json.loads(halves.out.with_name("resq.json").read_text())
    assert said["parity"]["float"]["relative_error"] < FLOAT_TOLERANCE
    session = create_session(out)
    assert {entry.type for entry in session.get_inputs()[3:]} == {"tensor(float)"}
    assert np.isfinite(Decoder(session).run(halves.ids)[0]).all()


# Its logits


def test_its_logits_are_near_those_of_float32(exported: Exported) -> None:
    ids = exported.ids
    expected, _ = Decoder(create_session(exported.plain, kernels=exported.kernels)).run(ids)
    found, _ = exported.decoder().run(ids)
    quantisation = compare(torch_logits(exported.original, ids), expected, ids).kl_divergence
    assert compare(expected, found, ids).kl_divergence < SHARE * quantisation
    assert not np.array_equal(expected, found)


def test_prefill_and_token_by_token_agree(exported: Exported) -> None:
    decoder = exported.decoder()
    one_pass, steps = decoder.run(exported.ids)[0], decode_logits(decoder, exported.ids)
    assert compare(one_pass, steps, exported.ids).kl_divergence < REDRAWN
    if exported.kernels:
        np.testing.assert_array_equal(one_pass, steps)


def test_kernels_and_functions_agree_in_float16(halves: Exported) -> None:
    ids, functions = halves.ids, Decoder(create_session(halves.out, kernels=False))
    expected, found = (decoder.run(ids)[0] for decoder in (halves.decoder(), functions))
    assert compare(expected, found, ids).kl_divergence < ROUNDED
    assert compare(found, decode_logits(functions, ids), ids).kl_divergence < REDRAWN


def test_a_fixed_buffer_gives_what_concatenation_gives(exported: Exported) -> None:
    session = create_session(exported.out, threads=1, kernels=exported.kernels)
    buffered, plain, state = BufferedDecoder(session, 2 * WINDOW, batch=2), Decoder(session), None
    for start, end in ((0, 20), (20, 21), (21, 30), (30, 32)):
        found = buffered.run(exported.ids[:2, start:end])
        logits, state = plain.run(exported.ids[:2, start:end], state)
        np.testing.assert_array_equal(found, logits[:, -1])


def test_the_residual_stream_is_read_in_float32(exported: Exported) -> None:
    """NumPy has no bfloat16; 16 bits are what the numbers have all the same."""
    ids = exported.ids[:1]
    stream = layer_outputs(tapped_session(exported.out, kernels=exported.kernels), ids)
    assert stream.dtype == np.float32
    rounded = ir.tensor(stream).numpy().astype(ir.DataType[exported.dtype.upper()].numpy())
    np.testing.assert_array_equal(rounded.astype(np.float32), stream)
    embedded = Embedder(exported.out, kernels=exported.kernels).run(ids)
    np.testing.assert_array_equal(embedded, stream[0])


# The commands on it


def test_generate_continues_a_text_greedily(exported: Exported) -> None:
    printed = exported.run("generate", "--prompt", "A compound", "--max-new-tokens", 6)
    tokenizer = Tokenizer.load(exported.out.parent)
    ids, stops = tokenizer.encode("A compound"), tokenizer.stop_ids
    decoder = exported.decoder()
    buffered = BufferedDecoder(decoder.session, len(ids) + 6)
    tokens = list(generate(buffered, ids, 6, stop_ids=stops))
    assert printed == "A compound" + tokenizer.decode(tokens) + "\n"
    assert tokens[0] == decoder.run(np.array([ids]))[0][0, -1].argmax()


def test_evaluate_finds_the_perplexity_of_float32_or_nearly(
    exported: Exported, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    asked = (exported.plain, "--text", text, "--window", WINDOW, "--json", "--per-layer")
    said = json.loads(exported.run("evaluate", *asked, "--reference", exported.model))["models"]
    found, expected = (said[str(path)]["perplexity"] for path in (exported.out, exported.plain))
    assert found == pytest.approx(expected, rel=PERPLEXITY)
    assert found != expected


def test_bench_and_report_take_it(exported: Exported) -> None:
    sizes = ("--prompt-tokens", 8, "--new-tokens", 4, "--repeat", 1)
    assert "tokens per second" in exported.run("bench", *sizes)
    run_successfully("report", exported.out)
    assert "dtype" in exported.out.with_name("report.html").read_text()


def test_the_program_in_its_card_runs(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = exported.out.with_name("README.md").read_text()
    assert card.count(" --no-kernels\n") == (0 if exported.kernels else 2)
    monkeypatch.chdir(exported.out.parent)
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "card", "exec"), {"__name__": "card"})
    assert capsys.readouterr().out.strip()


def test_logits_of_the_last_token_alone(halves: Exported) -> None:
    out = export(halves.out.with_name("last.onnx"), "--dtype", "float16", "--logits", "last")
    every, _ = halves.decoder().run(halves.ids[:1])
    last, _ = Decoder(create_session(out)).run(halves.ids[:1])
    assert last.shape == (1, 1, every.shape[-1])
    np.testing.assert_array_equal(last[:, 0], every[:, -1])


# What is refused


@pytest.mark.parametrize(
    ("options", "said", "remedy"),
    [
        (("--format", "qdq"), "format qdq", "--format custom"),
        (("--format", "contrib"), "format contrib", "--format custom"),
        (("--target", "portable"), "format qdq", "--format custom"),
        (("--target", "web"), "format web", "--format custom"),
        (("--method", "none"), "method none", "--method resq"),
        (("--target", "genai", "--dtype", "bfloat16"), "no kernels", "--dtype float32 or float16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_written_in_float32_alone_is_refused_in_one_line(
    tmp_path: Path, options: tuple[str, ...], said: str, remedy: str
) -> None:
    asked = ("export", tmp_path / "absent", tmp_path / "out.onnx", "--dtype", "float16", *options)
    result = run(*asked)
    assert result.exit_code == 1
    line = error_line(result.stderr)
    assert said in line
    assert remedy in line
