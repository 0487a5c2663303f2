"""The program that compares and times the CUDA kernels without ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
from typing import Final

import pytest

from resq_onnx.runtime import library

FEW: Final = ("--quick", "--every", "60", "--only", "hadamard")


def run(*arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    program = library.library_path().resolve().parents[1] / "tests" / "compare_cuda_simt"
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run(
        [program, *arguments],
        input=lines,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_every_type_and_the_seed_are_in_what_it_prints() -> None:
    done = run(*FEW, "--seed", "7")
    assert done.returncode == 0, done.stderr
    *each, summary = done.stdout.splitlines()
    assert [line.split()[:2] for line in each] == [
        ["hadamard", "float32"],
        ["hadamard", "float16"],
        ["hadamard", "bfloat16"],
    ]
    assert ", seed 7: " in summary
    assert summary.endswith(" 0 mismatches")


def test_comparing_nothing_is_a_failure() -> None:
    assert run("--only", "no such operator").returncode == 1


def test_a_line_of_each_kind_has_a_time() -> None:
    linear = "rows=1 outputs=64 groups=1 low=56 high=8 norm=1 adds=1"
    kinds = [f"{kind} {linear}" for kind in ("linear", "quantise", "multiply")]
    done = run("--time", lines="\n".join([*kinds, "stack layers=2", kinds[0], "end"]))
    assert done.returncode == 0, done.stderr
    device, *times = done.stdout.splitlines()
    assert device == "device capability=90 clock=0 free=1073741824 name=simt, this CPU"
    assert times == ["us=1000.000"] * 4


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("unheard rows=1", '"unheard" is no step'),
        ("gate rows=1", "gate has no low_outer"),
        ("gate rows", '"rows" is not name=number'),
    ],
)
def test_a_line_that_is_not_understood_is_refused(line: str, complaint: str) -> None:
    done = run("--time", lines=line)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.parametrize("arguments", [("--every", "0"), ("--unheard",), ("--only",)])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
