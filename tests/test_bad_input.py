"""Bad input: one clear line, a non-zero exit, and nothing in the output folder has changed.

Every export here has an older one to overwrite, and every test looks at all the files there.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from resq_onnx import pipeline
from resq_onnx.evaluation import parity
from resq_onnx.families import FAMILIES
from resq_onnx.passes import folding
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from resq_onnx.runtime.decoder import Decoder, decode_logits
from tests.command_line import QUICK, contents, error_line, program, run
from tests.runtime import toy
from tests.tiny_models import change_config, write_model, write_tokenizer

OLD_EXPORT: Final = {"out.onnx": b"graph", "out.onnx.data": b"data", "tokenizer.json": b"old"}
"""What is in the output folder before; only its bytes matter."""

FAST: Final = ("--method", "quarot", "--weights", "rtn")
"""A recipe without a calibration, for exports that fail after it."""

SMALL_FILE: Final = 60_000
"""Bytes: less than the tiny model's weights, in float32 as well as quantised, and more than its
graph and everything before it."""

PATIENCE: Final = 120.0
"""Seconds for a process to come to the step that a test waits for."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be exported: not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "good"
    write_model(folder, "llama", tied=True, num_hidden_layers=1)
    return folder


@pytest.fixture
def damaged(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be damaged."""
    return shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to export to; there is an export already."""
    folder = tmp_path / "out"
    folder.mkdir()
    for name, old in OLD_EXPORT.items():
        (folder / name).write_bytes(old)
    return folder / "out.onnx"


def refusal(out: Path, *arguments: object) -> str:
    """Run an export to `out` that must be refused; returns the line that says why."""
    result = run("export", *arguments[:1], out, *arguments[1:])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert_untouched(out)
    return error_line(result.stderr)


def assert_untouched(out: Path) -> None:
    assert contents(out.parent) == OLD_EXPORT
    assert {path.name for path in out.parent.iterdir()} == OLD_EXPORT.keys()


# The model


def test_a_model_that_is_not_there(tmp_path: Path, out: Path) -> None:
    assert f"{tmp_path / 'absent'}: no such model" in refusal(out, tmp_path / "absent")


def test_a_file_that_is_no_model(model: Path, out: Path) -> None:
    line = refusal(out, model / "config.json")
    assert "config.json: neither a model directory nor a .gguf file" in line


def test_a_damaged_gguf_file(tmp_path: Path, out: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF, or not")
    refusal(out, file)


def test_a_folder_without_weights(damaged: Path, out: Path) -> None:
    (damaged / "model.safetensors").unlink()
    assert f"{damaged}: no .safetensors file" in refusal(out, damaged)


def test_pickled_weights_are_refused(damaged: Path, out: Path) -> None:
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    line = refusal(out, damaged)
    assert "only pickled weights (pytorch_model.bin)" in line
    assert "convert them to .safetensors" in line


@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["all", "length", "header", "a byte"])
def test_weights_that_are_cut_off(damaged: Path, out: Path, kept: int) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: not a complete .safetensors file" in refusal(out, damaged)


def test_a_shard_that_is_missing(damaged: Path, out: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (damaged / "model.safetensors").rename(damaged / shards["a"])
    (damaged / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )
    line = refusal(out, damaged)
    assert "model-00002-of-00002.safetensors named by model.safetensors.index.json is miss" in line
    assert shards["a"] not in line


def test_a_tensor_that_is_missing(damaged: Path, out: Path) -> None:
    change_config(damaged, num_hidden_layers=2)
    line = refusal(out, damaged)
    assert f"{damaged}: the safetensors files have no tensor model.layers.1." in line


def test_a_tensor_of_another_shape(damaged: Path, out: Path) -> None:
    change_config(damaged, intermediate_size=128)
    line = refusal(out, damaged)
    assert "model.layers.0.mlp.gate_proj.weight has shape (192, 64); config.json asks for" in line


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_weights_that_are_no_numbers(damaged: Path, out: Path, value: float) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    file = damaged / "model.safetensors"
    tensors = load_file(file)
    tensors[name][3, 5] = value
    save_file(tensors, file, {"format": "pt"})
    line = refusal(out, damaged)
    assert f"{file}: tensor {name} holds NaN or infinite values" in line


def test_weights_that_are_quantised_already(damaged: Path, out: Path) -> None:
    file = damaged / "model.safetensors"
    tensors: dict[str, NDArray[Any]] = dict(load_file(file))
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, file, {"format": "pt"})
    assert "already quantised" in refusal(out, damaged)


def test_an_unknown_architecture_is_told_the_known_ones(damaged: Path, out: Path) -> None:
    change_config(damaged, architectures=["GPT2LMHeadModel"])
    line = refusal(out, damaged)
    assert "GPT2LMHeadModel is not supported" in line
    assert [name for name in FAMILIES if name not in line] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architectures": ["LlamaForCausalLM"]}'])
def test_a_damaged_config(damaged: Path, out: Path, text: str) -> None:
    (damaged / "config.json").write_text(text)
    line = refusal(out, damaged)
    assert f"{damaged}: config.json" in line
    assert "unexpected" not in line


def test_an_adapter_is_to_be_merged_first(damaged: Path, out: Path) -> None:
    (damaged / "adapter_config.json").write_text("{}")
    (damaged / "config.json").unlink()
    assert f"{damaged}: an adapter, not a model: merge it into its base model" in refusal(
        out, damaged
    )


def test_a_folder_that_is_no_model(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json; is this a model directory?" in refusal(out, tmp_path / "empty")


def test_a_model_without_a_tokenizer(damaged: Path, out: Path) -> None:
    for file in damaged.glob("tokenizer*"):
        file.unlink()
    line = refusal(out, damaged)
    assert f"{damaged}: no tokenizer" in line
    assert "put the right tokenizer.json beside the weights" in line


# The recipe


@pytest.mark.parametrize(
    ("sizes", "option", "site", "remedies"),
    [
        ({"head_dim": 8}, "--high-fraction", "the head size 8 is 1 ", "1/2 (0.5), 1/4 (0.25), 0"),
        (
            {"hidden_size": 72},
            "--high-fraction",
            "the hidden size 72 is 9 ",
            "1/2 (0.5), 1/3 (0.333333), 1/4 (0.25), 1/6 (0.166667), 1/9 (0.111111)",
        ),
        ({"intermediate_size": 36}, "--down-high", "the intermediate size 36 is 4.5 ", "1/3 "),
        ({"intermediate_size": 41}, "--down-high", "the intermediate size 41 is 5.125", "only 0"),
    ],
)
def test_a_width_that_cannot_be_split_says_which_fractions_would_do(
    damaged: Path, out: Path, sizes: dict[str, Any], option: str, site: str, remedies: str
) -> None:
    write_model(damaged, "llama", tied=True, num_hidden_layers=1, **sizes)
    line = refusal(out, damaged)
    assert f"{option} 0.125 of {site}" in line
    assert remedies in line.split("these fractions would do: ")[1]


def test_a_fraction_that_was_named_does(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=1, head_dim=8)
    target = tmp_path / "projections.safetensors"
    result = run("calibrate", tmp_path / "model", target, *QUICK, "--high-fraction", "0.25")
    assert result.exit_code == 0, result.stderr
    assert target.is_file()


def test_a_calibration_text_shorter_than_one_sequence(
    model: Path, tmp_path: Path, out: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.")
    line = refusal(out, model, "--calibration", text)
    assert f"calibration text {text} has " in line
    assert "less than one sequence of 512" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "no such file"),
        ("latin1.txt", "Größe".encode("latin1"), "not UTF-8 text"),
        ("broken.jsonl", b'{"text": "a"}\n{"tex', "line 2: cannot be read: not JSON"),
        ("table.csv", b"a,b\n1,2", 'no column "text"'),
    ],
)
def test_a_calibration_text_that_cannot_be_read(
    model: Path, tmp_path: Path, out: Path, name: str, content: bytes | None, words: str
) -> None:
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    line = refusal(out, model, "--calibration", text)
    assert str(text) in line
    assert words in line


# The projections


@pytest.fixture(scope="module")
def projections(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("projections") / "projections.safetensors"
    result = run("calibrate", model, file, *QUICK)
    assert result.exit_code == 0, result.stderr
    return file


def test_projections_of_another_model(tmp_path: Path, out: Path, projections: Path) -> None:
    other = tmp_path / "other"
    write_model(other, "llama", tied=True, num_hidden_layers=1, seed=1)
    line = refusal(out, other, "--projections", projections)
    assert f"{projections}: made for another model" in line
    assert f"resq-onnx calibrate {other}" in line


@pytest.mark.parametrize("kept", [0, 100, -1], ids=["all", "header", "a byte"])
def test_projections_that_are_cut_off(
    model: Path, tmp_path: Path, out: Path, projections: Path, kept: int
) -> None:
    file = tmp_path / "projections.safetensors"
    file.write_bytes(projections.read_bytes()[:kept])
    line = refusal(out, model, "--projections", file)
    assert f"{file}: not a readable projections file" in line


def test_projections_that_are_none(model: Path, out: Path) -> None:
    line = refusal(out, model, "--projections", model / "model.safetensors")
    assert "make the file anew with `resq-onnx calibrate`" in line


def test_projections_that_are_not_there(model: Path, tmp_path: Path, out: Path) -> None:
    line = refusal(out, model, "--projections", tmp_path / "absent.safetensors")
    assert f"{tmp_path / 'absent.safetensors'}: no such file" in line


# The output


def assert_cannot_be_written(model: Path, target: Path, *options: object) -> str:
    result = run("export", model, target, *QUICK, *options)
    assert result.exit_code == 1
    return error_line(result.stderr)


def test_an_output_that_is_a_folder(model: Path, tmp_path: Path) -> None:
    line = assert_cannot_be_written(model, tmp_path)
    assert f"{tmp_path}: is a directory; name the file to write" in line
    assert contents(tmp_path) == {}


def test_an_output_below_a_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as it was")
    target = file / "folder" / "out.onnx"
    assert f"{target}: cannot be written: " in assert_cannot_be_written(model, target)
    assert contents(tmp_path) == {"file": b"as it was"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_read_only(model: Path, out: Path) -> None:
    out.parent.chmod(0o500)
    try:
        assert "cannot be written: Permission denied" in refusal(out, model)
    finally:
        out.parent.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_an_output_folder_in_which_nobody_can_write(model: Path) -> None:
    line = assert_cannot_be_written(model, Path("/proc/out.onnx"))
    assert "/proc/out.onnx: cannot be written: " in line


def test_a_new_output_folder_is_gone_after_a_refusal(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "out.onnx"
    assert run("export", tmp_path / "absent", target).exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--save-rotated", "--dump-passes"])
def test_a_second_output_that_cannot_be_written(
    model: Path, tmp_path: Path, out: Path, option: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    line = refusal(out, model, option, file / "second")
    assert f"{file / 'second'}: cannot be written: " in line


def test_the_rotated_model_cannot_have_the_place_of_the_quantised_one(
    model: Path, out: Path
) -> None:
    assert "name another file for --save-rotated" in refusal(out, model, "--save-rotated", out)


def test_projections_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    result = run("calibrate", model, file / "projections.safetensors", *QUICK)
    assert result.exit_code == 1
    assert "projections.safetensors: cannot be written: " in error_line(result.stderr)


# A step of the export that fails


@pytest.mark.parametrize("step", ["trace", "quantising"])
def test_a_disk_that_is_full_after_a_step(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next that is written is the float model, or the quantised one; the writes really fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
        return original(*arguments)

    original = getattr(pipeline, step)
    monkeypatch.setattr(pipeline, step, limited)
    try:
        line = refusal(out, model, *FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{out}: cannot be written: no room for all of it" in line


def test_a_full_disk_for_the_last_files(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfile(source: Path, target: Path) -> Path:
        if target.name == "tokenizer.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(source, target)

    original = shutil.copyfile
    monkeypatch.setattr("resq_onnx.checkpoint.source.shutil.copyfile", copyfile)
    line = refusal(out, model, *FAST)
    assert f"{out}: cannot be written: No space left on device" in line


def test_a_file_that_cannot_be_replaced_leaves_the_others_as_they_were(
    model: Path, out: Path
) -> None:
    obstacle = out.parent / "resq.json"
    obstacle.mkdir()
    result = run("export", model, out, *FAST)
    assert result.exit_code == 1
    assert f"{obstacle}: cannot be written: " in error_line(result.stderr)
    obstacle.rmdir()
    assert_untouched(out)


def test_a_float_graph_that_is_not_the_model(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_gains(*arguments: Any) -> list[Any]:
        return [one for one in folding(*arguments) if not isinstance(one, FuseNormGains)]

    monkeypatch.setattr(pipeline, "folding", without_gains)
    line = refusal(out, model, *FAST, "--save-rotated", out.with_name("rotated.onnx"))
    assert "parity: the logits of the rotated float graph differ from PyTorch's" in line


def test_a_cached_decode_that_does_not_agree_with_prefill(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_lost_token(decoder: Decoder, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        # The second token is decoded as if there had been no first.
        return np.concatenate(
            [original(decoder, token_ids[:, :1]), original(decoder, token_ids[:, 1:])], axis=1
        )

    original = decode_logits
    monkeypatch.setattr(parity, "decode_logits", with_a_lost_token)
    line = refusal(out, model, *FAST, "--save-rotated", out.with_name("rotated.onnx"))
    assert "parity: token by token, " in line


@pytest.mark.parametrize(
    ("number", "step"),
    [(signal.SIGINT, "*"), (signal.SIGTERM, "*/float.onnx.data")],
    ids=["at the beginning", "while writing"],
)
def test_an_export_that_is_interrupted(
    model: Path, out: Path, number: signal.Signals, step: str
) -> None:
    command = program(
        *("export", model, out, *FAST),
        # A shell that starts a job in the background has it ignore Ctrl-C.
        before="import signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any(out.parent.glob(f".out.onnx.*/{step}".removesuffix("/*"))))
            process.send_signal(number)
            _, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert error_line(stderr) == "Interrupted; nothing was written."
    assert_untouched(out)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the process did not come so far"
        time.sleep(0.001)


# The commands that run a model


@pytest.fixture
def toy_model(tmp_path: Path) -> Path:
    """A decoder that runs, with a tokenizer beside it."""
    folder = tmp_path / "toy"
    folder.mkdir()
    write_tokenizer(folder, 256)
    return toy.save_toy(folder / "model.onnx")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("A text of several words.")
    return path


def error_of(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    return error_line(result.stderr)


def test_the_toy_model_is_good(toy_model: Path, text: Path) -> None:
    asked = ("--prompt", "A", "--max-new-tokens", 1)
    assert run("generate", toy_model, *asked).exit_code == 0
    assert run("generate", toy_model, *asked, "--chat").exit_code == 0
    assert run("inspect", toy_model).exit_code == 0


@pytest.mark.parametrize("command", ["generate", "evaluate", "inspect"])
@pytest.mark.parametrize("content", [None, b"", b"no model"], ids=["absent", "empty", "text"])
def test_an_exported_file_that_cannot_be_read(
    toy_model: Path, text: Path, command: str, content: bytes | None
) -> None:
    toy_model.unlink()
    if content is not None:
        toy_model.write_bytes(content)
    options: dict[str, list[object]] = {
        "generate": ["--prompt", "A"],
        "evaluate": ["--text", text],
        "inspect": [],
    }
    assert f"{toy_model}: " in error_of(command, toy_model, *options[command])


@pytest.mark.parametrize("command", [["generate", "--prompt", "A"], ["evaluate", "--text"]])
def test_a_tokenizer_that_is_not_beside_the_file(
    toy_model: Path, text: Path, command: list[str]
) -> None:
    (toy_model.parent / "tokenizer.json").unlink()
    options = [*command[1:], text] if command[0] == "evaluate" else command[1:]
    line = error_of(command[0], toy_model, *options)
    assert f"{toy_model.parent / 'tokenizer.json'}: no such file" in line


def test_an_empty_prompt(toy_model: Path) -> None:
    assert "give a --prompt to continue" in error_of("generate", toy_model, "--prompt", "")


def test_a_chat_with_a_model_that_has_no_template(toy_model: Path) -> None:
    (toy_model.parent / "chat_template.jinja").unlink()
    line = error_of("generate", toy_model, "--prompt", "A", "--chat")
    assert "no chat template" in line


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.txt", None, "no such file"),
        ("empty.txt", b"", "the text has 0 tokens"),
        ("latin1.txt", b"\xff", "not UTF-8 text"),
    ],
)
def test_a_text_that_cannot_be_evaluated(
    toy_model: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    assert words in error_of("evaluate", toy_model, "--text", text)


def test_a_model_that_is_no_decoder(toy_model: Path) -> None:
    toy.save_toy(toy_model, without="logits")
    line = error_of("generate", toy_model, "--prompt", "A")
    assert "the model is not a decoder with a cache: it has no logits" in line
