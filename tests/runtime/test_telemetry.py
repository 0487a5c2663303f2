"""What runs models tells nobody: no name is looked up, and no file left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.runtime import toy

SECONDS: Final = 12
"""ONNX Runtime 1.32 looks up where to send its telemetry 8 to 9 seconds after it is loaded."""

LOOKUPS: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  FILE *log = fopen(getenv("LOOKUPS"), "a");
  fprintf(log, "%s\\n", name ? name : "(none)");
  fclose(log);
  return EAI_FAIL;
}
"""
"""Takes the place of the C library's function, for native code too, and finds nothing."""

RUNS_A_MODEL: Final = """
import socket, sys, time
import numpy as np
from resq_onnx.runtime import BufferedDecoder, create_session
decoder = BufferedDecoder(create_session(sys.argv[1], kernels=False), 4)
decoder.run(np.array([[1, 2]], np.int64))
{more}
time.sleep(float(sys.argv[2]))
"""

LOOKS_UP: Final = """
try: socket.getaddrinfo('a.example', 80)
except OSError: pass
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is Linux's")
def test_running_a_model_looks_up_no_name_and_leaves_no_file(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")
    source, library = tmp_path / "lookups.c", tmp_path / "lookups.so"
    source.write_text(LOOKUPS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    model = toy.save_toy(tmp_path / "toy.onnx")

    def lookups(more: str, seconds: int) -> list[str]:
        log, scratch = tmp_path / "log", tmp_path / "scratch"
        log.write_text("")
        scratch.mkdir(exist_ok=True)
        ours = {"LD_PRELOAD": str(library), "LOOKUPS": str(log), "TMPDIR": str(scratch)}
        code = RUNS_A_MODEL.format(more=more)
        inherited = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k}
        subprocess.run(
            [sys.executable, "-c", code, str(model), str(seconds)], env=inherited | ours, check=True
        )
        assert list(scratch.iterdir()) == []
        return log.read_text().split()

    assert lookups(LOOKS_UP, 0) == ["a.example"]  # it would be seen
    assert lookups("", SECONDS) == []


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "import sys\n"
        "from resq_onnx.handoff.openvino import _openvino\n"
        "_openvino()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[]"]


@pytest.mark.parametrize("name", ["ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"])
def test_what_the_user_says_of_telemetry_stays(name: str) -> None:
    code = f"import resq_onnx, os; print(os.environ[{name!r}])"
    for given, expected in ({}, "1"), ({name: "0"}, "0"):
        inherited = {k: v for k, v in os.environ.items() if k != name}
        done = subprocess.run([sys.executable, "-c", code], env=inherited | given,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout.strip() == expected
