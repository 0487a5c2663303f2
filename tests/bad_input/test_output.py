"""Outputs that cannot be written, and exports that fail on their way: what was there stays."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx import finishing, pipeline
from resq_onnx.errors import ResqError
from resq_onnx.evaluation import float_model, parity
from resq_onnx.files.work_folder import usual_folder
from resq_onnx.passes import folding
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from resq_onnx.runtime.decoder import Decoder, decode_logits
from tests.bad_input.refusals import FAST, assert_untouched, refusal
from tests.command_line import QUICK, contents, error_line, program, run

SMALL_FILE: Final = 60_000
"""Bytes: less than the tiny model's weights, in float32 as well as quantised, and more than its
graph and everything before it."""

PATIENCE: Final = 120.0
"""Seconds for a process to come to the step that a test waits for."""


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


@pytest.mark.parametrize("step", ["trace", "exporting"])
def test_a_disk_that_is_full_after_a_step(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The next that is written is a layer, or the quantised model; the writes really fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
        return original(*arguments)

    module = pipeline if step == "trace" else finishing
    original = getattr(module, step)
    monkeypatch.setattr(module, step, limited)
    try:
        line = refusal(out, model, *FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    place = usual_folder(out) if step == "trace" else out
    assert f"{place}: cannot be written: no room for all of it" in line


def test_a_full_disk_for_the_last_files(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfileobj(source: BinaryIO, target: BinaryIO, length: int) -> None:
        if target.name.endswith("tokenizer.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target, length)

    original = shutil.copyfileobj
    monkeypatch.setattr("resq_onnx.files.checks.shutil.copyfileobj", copyfileobj)
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
    assert_untouched(out, result.stderr)


def test_a_float_graph_that_is_not_the_model(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_gains(*arguments: Any) -> list[Any]:
        return [one for one in folding(*arguments) if not isinstance(one, FuseNormGains)]

    monkeypatch.setattr(finishing, "folding", without_gains)
    line = refusal(out, model, *FAST, "--save-rotated", out.with_name("rotated.onnx"))
    assert "parity: layer 0: the residual stream behind model.layers.0.self_attn.o_proj" in line
    assert "q_proj, model.layers.0.self_attn.k_proj, model.layers.0.self_attn.v_proj, or" in line


def test_a_float_model_that_does_not_fit_together(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer is right, and the whole of them is checked too where it is small."""

    def refuse(*_: Any) -> None:
        raise ResqError("parity: of the whole")

    monkeypatch.setattr(float_model, "check_float_parity", refuse)
    assert "parity: of the whole" in refusal(out, model, *FAST)


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
    assert_untouched(out, stderr)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the process did not come so far"
        time.sleep(0.001)
