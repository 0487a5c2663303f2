from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import pytest

import resq_onnx
from resq_onnx import cli
from resq_onnx.cli.generate import generate
from resq_onnx.recipe import Recipe
from resq_onnx.runtime.providers import CPU, PROVIDERS
from tests.command_line import error_line, run, run_successfully
from tests.runtime import toy
from tests.tiny_models import write_tokenizer

HEAVY = ("torch", "transformers", "onnxruntime", "onnxscript", "onnx", "datasets", "numpy")
"""What nobody should wait for who only asks for help."""

SECONDS_FOR_HELP = 5.0
"""Importing torch and transformers takes as long on a slow machine; --help a tenth of this."""

CALIBRATION_OPTIONS = (
    "--recipe",
    "--method",
    "--calibration",
    "--samples",
    "--sequence-length",
    "--dtype-compute",
    "--high-fraction",
    "--down-high",
    "--low-bits",
    "--high-bits",
    "--seed",
)

OPTIONS = {
    "export": (
        *CALIBRATION_OPTIONS,
        "--weights",
        "--format",
        "--logits",
        "--projections",
        "--save-rotated",
        "--dump-passes",
        "--report",
        "--threads",
        "--quiet",
    ),
    "calibrate": (*CALIBRATION_OPTIONS, "--threads", "--quiet"),
    "rewrite": (
        "--recipe",
        "--projections",
        "--model",
        "--method",
        "--weights",
        "--target",
        "--threads",
        "--quiet",
    ),
    "generate": (
        "--prompt",
        "--chat",
        "--max-new-tokens",
        "--temperature",
        "--top-p",
        "--seed",
        "--speculate",
        "--draft",
        "--threads",
        "--no-kernels",
        "--provider",
    ),
    "evaluate": (
        "--text",
        "--reference",
        "--per-layer",
        "--window",
        "--stride",
        "--max-windows",
        "--token-by-token",
        "--json",
        "--quiet",
        "--threads",
        "--no-kernels",
        "--provider",
    ),
    "bench": (
        "--against",
        "--prompt-tokens",
        "--new-tokens",
        "--repeat",
        "--threads",
        "--no-kernels",
        "--provider",
        "--no-spinning",
        "--per-node",
        "--json",
        "--quiet",
    ),
    "doctor": ("--json",),
    "inspect": ("--json",),
    "report": ("--evaluation", "--benchmark", "--out"),
    "serve": (
        "--host",
        "--port",
        "--name",
        "--max-length",
        "--max-concurrent",
        "--max-waiting",
        "--timeout",
        "--api-key",
        "--threads",
        "--no-kernels",
        "--provider",
    ),
    "web": ("--port", "--open", "--write", "--packages"),
}


@pytest.mark.parametrize("command", ["", *OPTIONS])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from resq_onnx.cli import main\n"
        "main(sys.argv[1:], prog_name='resq-onnx')\n"
        f"print('imported:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: resq-onnx" in result.stdout
    assert result.stdout.splitlines()[-1] == "imported:"
    assert time.monotonic() - start < SECONDS_FOR_HELP


def test_help_lists_the_commands() -> None:
    listed = run_successfully("--help").stdout
    assert [command for command in OPTIONS if f"  {command} " not in listed] == []


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_a_command_lists_its_options(command: str) -> None:
    words = run_successfully(command, "--help").stdout.replace(",", " ").split()
    assert [option for option in OPTIONS[command] if option not in words] == []


OF_THE_TARGET: Final = {"format", "logits"}
"""Fields whose default is that of the runtime the folder is for."""


@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_the_options_of_a_recipe_default_to_those_of_a_recipe(command: str) -> None:
    defaults = {option.name: option.default for option in cli.main.commands[command].params}
    recipe = Recipe().to_json()
    shared = recipe.keys() & defaults.keys() - OF_THE_TARGET
    assert {name: defaults[name] for name in shared} == {name: recipe[name] for name in shared}
    if command == "export":
        assert shared | OF_THE_TARGET == recipe.keys()


def test_the_providers_of_the_command_line_are_those_of_a_session() -> None:
    (option,) = (option for option in generate.params if option.name == "provider")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(PROVIDERS)
    assert option.default == CPU


@pytest.mark.parametrize("command", ["generate", "bench", "inspect", "report"])
def test_a_command_takes_the_folder_that_export_wrote(command: str, tmp_path: Path) -> None:
    toy.save_toy(tmp_path / "model.onnx")
    write_tokenizer(tmp_path, 256)
    more: dict[str, list[object]] = {
        "generate": ["--prompt", "A", "--max-new-tokens", 2],
        "bench": ["--prompt-tokens", 5, "--new-tokens", 3, "--repeat", 1],
    }
    result = run(command, tmp_path, *more.get(command, []))
    # The toy is no model that export wrote: what reads more than its graph says so of the file.
    assert result.exit_code == 0 or f"{tmp_path / 'model.onnx'}: " in error_line(result.stderr)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = run(command, empty, *more.get(command, []))
    assert f"{empty}: holds no .onnx file" in error_line(refused.stderr)


@pytest.mark.parametrize(
    "command", ["generate", "evaluate", "bench", "serve", "export", "rewrite", "calibrate"]
)
def test_more_threads_than_any_machine_uses_are_refused_at_once(command: str) -> None:
    result = run(command, "none", "--threads", 100_000)
    assert result.exit_code == 1
    assert error_line(result.stderr).startswith("Error: threads is 100000; this machine takes")


def toy_with_positions(folder: Path, positions: int) -> Path:
    """A toy that says how many positions it has, and never that it has ended."""
    toy.save_toy(folder / "model.onnx")
    write_tokenizer(folder, 256)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": positions}))
    return folder


def test_a_text_ends_at_the_models_last_position_and_says_so(tmp_path: Path) -> None:
    folder = toy_with_positions(tmp_path, 30)
    asked = ("generate", folder, "--prompt", "A prompt", "--max-new-tokens")
    whole = run_successfully(*asked, 1_000_000_000)
    assert whole.stderr == "stopped: the model has 30 positions\n"
    assert whole.stdout.startswith("A prompt")
    part = run_successfully(*asked, 3)
    assert part.stderr == ""
    assert whole.stdout.startswith(part.stdout.rstrip("\n"))


def test_a_prompt_longer_than_the_models_positions_is_refused(tmp_path: Path) -> None:
    result = run("generate", toy_with_positions(tmp_path, 3), "--prompt", "A prompt of more tokens")
    assert result.exit_code == 1
    assert "tokens, and the model 3 positions; shorten the prompt" in error_line(result.stderr)


@pytest.mark.parametrize("command", ["generate", "evaluate", "bench", "serve"])
def test_a_command_that_gets_no_gpu_says_what_to_install(command: str, tmp_path: Path) -> None:
    model = toy.save_toy(tmp_path / "toy.onnx")
    write_tokenizer(tmp_path, 256)
    text = tmp_path / "text.txt"
    text.write_text("A text. " * 50)
    more: dict[str, list[object]] = {
        "generate": ["--prompt", "A"],
        "evaluate": ["--text", text],
        "serve": ["--port", 0, "--max-length", 16],
    }
    result = run(command, model, *more.get(command, []), "--provider", "cuda")
    assert result.exit_code == 1
    assert "resq-onnx[gpu]" in error_line(result.stderr)


def test_the_command_line_tells_the_version() -> None:
    assert resq_onnx.__version__ in run_successfully("--version").stdout


def test_the_module_is_the_command_line_too() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "resq_onnx", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert resq_onnx.__version__ in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export"], "Missing argument 'MODEL'"),
        (["export", "model"], "Missing argument 'OUT.onnx'"),
        (["exprot"], "No such command 'exprot'"),
        (["export", "model", "out.onnx", "--smaples", "3"], "--smaples"),
        (["export", "model", "out.onnx", "--method", "qarot"], "'quarot'"),
        (["export", "model", "out.onnx", "--weights", "awq"], "'gptq', 'rtn'"),
        (["export", "model", "out.onnx", "--format", "gguf"], "'custom', 'qdq', 'contrib', 'web'"),
        (["export", "model", "out.onnx", "--logits", "first"], "'all', 'last'"),
        (["export", "model", "out.onnx", "--samples", "many"], "'many' is not a valid integer"),
        (["generate", "out.onnx"], "Missing option '--prompt'"),
        (["generate", "out.onnx", "--prompt", "a", "--max-new-tokens", "0"], "max-new-tokens"),
        (["generate", "out.onnx", "--prompt", "a", "--temperature", "-1"], "temperature"),
        (["generate", "out.onnx", "--prompt", "a", "--top-p", "1.5"], "top-p"),
        (["evaluate", "out.onnx"], "Missing option '--text'"),
        (["evaluate", "--text", "a.txt"], "Missing argument 'MODEL...'"),
        (["evaluate", "out.onnx", "--text", "a.txt", "--window", "1"], "--window"),
        (["evaluate", "out.onnx", "--text", "a.txt", "--stride", "0"], "--stride"),
        (["evaluate", "out.onnx", "--text", "a.txt", "--per-layer"], "needs --reference"),
        (["bench"], "Missing argument 'FOLDER'"),
        (["report"], "Missing argument 'FOLDER'"),
        (["web"], "Missing argument 'FOLDER'"),
        (["web", "folder", "--port", "70000"], "--port"),
        (["bench", "out.onnx", "--new-tokens", "0"], "--new-tokens"),
        (["bench", "out.onnx", "--repeat", "0"], "--repeat"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_ends_with_2(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in error_line(result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--high-fraction", "2", "high_fraction is 2.0"),
        ("--down-high", "-0.5", "down_high is -0.5"),
        ("--samples", "0", "samples is 0"),
        ("--sequence-length", "-8", "sequence_length is -8"),
        ("--seed", "-1", "seed is -1; it must be 0 or more"),
        ("--low-bits", "3", "low_bits is 3; it must be one of 4, 8"),
        ("--high-bits", "16", "high_bits is 16; it must be one of 8"),
    ],
)
@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_a_number_out_of_its_range_is_named(
    command: str, option: str, value: str, words: str
) -> None:
    result = run(command, "model", "out.onnx", option, value)
    assert result.exit_code == 1
    assert words in error_line(result.stderr)


def test_bench_compares_models_as_a_table_and_as_json(tmp_path: Path) -> None:
    paths = [toy.save_toy(tmp_path / f"{name}.onnx") for name in "ab"]
    asked = ("bench", paths[0], "--against", paths[1], "--threads", 1, "--repeat", 2)
    sizes = ("--prompt-tokens", 5, "--new-tokens", 3)
    printed = run_successfully(*asked, *sizes).stdout
    assert "5 prompt tokens, 3 new, 1 thread; tokens per second, median of 2" in printed
    assert "onnxruntime" in printed
    quiet = run_successfully(*asked, *sizes, "--no-kernels", "--json", "--quiet")
    assert quiet.stderr == ""
    found = json.loads(quiet.stdout)
    assert found["workload"]["prompt_tokens"] == 5
    assert found["workload"]["kernels"] is False
    first, second = found["models"]
    assert [first["path"], second["path"]] == list(map(str, paths))
    assert (first["prefill_ratio"], first["decode_ratio"]) == (1.0, 1.0)
    ratio = second["decode_tokens_per_second"] / first["decode_tokens_per_second"]
    assert second["decode_ratio"] == pytest.approx(ratio)
    for model in found["models"]:
        assert len(model["turns"]["prefill"]) == len(model["turns"]["decode"]) == 2
        assert model["peak_memory_bytes"] > 0
        assert model["load_seconds"] > 0


def test_bench_says_which_nodes_take_the_time(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    asked = ("bench", path, "--per-node", "--threads", 1, "--repeat", 2)
    sizes = ("--prompt-tokens", 5, "--new-tokens", 3)
    printed = run_successfully(*asked, *sizes).stdout
    assert "of a prompt of 5 tokens and of a token after it" in " ".join(printed.split())
    assert "between nodes" in printed
    found = json.loads(run_successfully(*asked, *sizes, "--json").stdout)
    (model,) = found["models"]
    assert model["path"] == str(path)
    assert {"operator", "name", "nodes", "prefill", "decode"} == set(model["kinds"][0])


def test_verbose_shows_where_an_error_came_from() -> None:
    result = run("--verbose", "export", "model", "out.onnx", "--samples", "0")
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("Error: samples is 0")


def test_verbose_shows_what_each_step_of_a_benchmark_took(tmp_path: Path) -> None:
    asked = ("bench", toy.save_toy(tmp_path / "toy.onnx"), "--repeat", 1, "--verbose")
    sizes = ("--prompt-tokens", 5, "--new-tokens", 3, "--threads", 1)
    result = run_successfully(*asked, *sizes)
    assert " MB at most" in result.stderr.splitlines()[-1]


def test_a_defect_of_the_program_is_one_line_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("resq_onnx.graph.inspection.inspect_model", broken)
    result = run("inspect", toy.save_toy(tmp_path / "toy.onnx"))
    assert result.exit_code == 1
    line = error_line(result.stderr)
    assert line == "Error: unexpected ZeroDivisionError: two lines (--verbose shows where)"
