"""Mistakes in a kernel are noticed: each of these deliberate ones fails a test.

Only the file with the mistake is compiled again. It is linked with the objects of the others.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.runtime import library

REPOSITORY: Final = Path(__file__).parents[2]
SOURCES: Final = REPOSITORY / "custom_ops" / "cuda"

OPERATORS: Final = "tests/custom_ops"
MATMUL: Final = (
    f"{OPERATORS}/test_matmul.py::"
    "test_every_form_agrees_with_integer_sums_and_with_its_body[both parts-{rows}]"
)
MANY_ROWS, FEW_ROWS = MATMUL.format(rows=21), MATMUL.format(rows=1)
HADAMARD: Final = (
    f"{OPERATORS}/test_hadamard.py::"
    "test_every_form_agrees_with_a_dense_matrix_and_with_its_body[outer factor of one-2]"
)
CACHE: Final = (
    f"{OPERATORS}/test_attention.py::"
    "test_every_form_writes_the_bytes_of_the_definition[plain-first token]"
)
CONTEXTS: Final = f"{OPERATORS}/test_attention.py::test_contexts_of_any_length[63-one token]"
FLASH: Final = (
    "tests/simt/test_half_precision.py::"
    "test_attention_on_tensor_cores_is_near_that_in_float32"
    "[float16-head of 64, three for each kv head-prefill of one tile]"
)

FAILED: Final = (1, -6)
"""Exit codes of pytest if a test fails, and if the process is aborted."""


@dataclass(frozen=True)
class Mutation:
    """A line of a file, what replaces it, and the test that must notice."""

    mistake: str
    file: str
    line: str
    replacement: str
    test: str


MUTATIONS: Final = (
    Mutation(
        "no barrier between the copies of a tile and its products",
        "matmul_many.cu",
        "        __syncthreads();  // tile i has arrived, and all threads are done with tile i - "
        "1\n",
        "",
        MANY_ROWS,
    ),
    Mutation(
        "a tile is multiplied before it has arrived",
        "matmul_many.cu",
        "wait_for_copies<kStages - 2>();",
        "wait_for_copies<kStages - 1>();",
        MANY_ROWS,
    ),
    Mutation(
        "a wrong fragment index of the rows",
        "matmul_many.cu",
        "const unsigned chunk = 2 * static_cast<unsigned>(step) + lane / 16;",
        "const unsigned chunk = 2 * static_cast<unsigned>(step) + lane / 8 % 2;",
        MANY_ROWS,
    ),
    Mutation(
        "results of one output too many",
        "matmul_many.cu",
        "if (row < p.rows && output < p.matmul.outputs) {",
        "if (row < p.rows && output <= p.matmul.outputs) {",
        MANY_ROWS,
    ),
    Mutation(
        "one row too many is read at a partial tile",
        "matmul_many.cu",
        "const bool exists = of_all < p.rows && byte < segment.bytes;",
        "const bool exists = of_all <= p.rows && byte < segment.bytes;",
        MANY_ROWS,
    ),
    Mutation(
        "even and odd columns exchanged",
        "matmul_few.cu",
        "mma_bytes(sums.products[tile], a, word_of(even[tile], j), word_of(odd[tile], j));",
        "mma_bytes(sums.products[tile], a, word_of(odd[tile], j), word_of(even[tile], j));",
        FEW_ROWS,
    ),
    Mutation(
        "no barrier between the warps' sums and their reader",
        "matmul_few.cu",
        "        share(m.parts[own.part], sums, shared[warp_index()]);\n        __syncthreads();\n",
        "        share(m.parts[own.part], sums, shared[warp_index()]);\n",
        FEW_ROWS,
    ),
    Mutation(
        "no barrier between two passes of the fast transform",
        "hadamard.cu",
        "            first[k * stride] = values[k];\n        }\n    }\n    __syncthreads();\n",
        "            first[k * stride] = values[k];\n        }\n    }\n",
        HADAMARD,
    ),
    Mutation(
        "a record begins one coefficient late",
        "attention_prepare.cu",
        "encode_record((i % 2 == 0 ? keys : values) + t * d, a.record,",
        "encode_record((i % 2 == 0 ? keys : values) + t * d + 1, a.record,",
        CACHE,
    ),
    Mutation(
        "a query sees one slot more than there are",
        "attention_few.cu",
        "const std::int64_t count = rest < kChunk ? rest : kChunk;",
        "const std::int64_t count = rest < kChunk ? rest + 1 : kChunk;",
        CONTEXTS,
    ),
    Mutation(
        "a wrong fragment index of the values",
        "attention_many.cu",
        "const unsigned slot = static_cast<unsigned>(step) * 16 + lane % 16;",
        "const unsigned slot = static_cast<unsigned>(step) * 16 + lane / 2;",
        FLASH,
    ),
    Mutation(
        "no barrier between decoding a chunk and multiplying with it",
        "attention_many.cu",
        "            *reinterpret_cast<uint4*>(rows + slot * kRowBytes + 2 * column) = words;\n"
        "        }\n        __syncthreads();\n",
        "            *reinterpret_cast<uint4*>(rows + slot * kRowBytes + 2 * column) = words;\n"
        "        }\n",
        FLASH,
    ),
)

NONE: Final = Mutation("none", "matmul_many.cu", "kStages = 4;", "kStages = 4;", MANY_ROWS)


def environment() -> dict[str, str]:
    """This process's, without the sanitizer that is loaded into it."""
    return {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}


def compiled(file: str, text: str, folder: Path) -> Path:
    """The library with another text in the place of one file."""
    original = library.library_path().resolve()
    build = original.parents[1]
    source, target = folder / file, folder / "mutated.o"
    source.write_text(text)
    commands = json.loads((build / "compile_commands.json").read_text())
    (command,) = (c["command"] for c in commands if c["file"] == str(SOURCES / file))
    words = shlex.split(command)
    words[words.index("-o") + 1] = str(target)
    words[words.index(str(SOURCES / file))] = str(source)
    # For one case, compiling takes longer than running does.
    words += ["-O0", f"-I{SOURCES}"]
    subprocess.run(words, check=True, cwd=folder, env=environment(), timeout=300)
    objects = f"CMakeFiles/{original.stem.removeprefix('lib')}.dir"
    link = shlex.split((original.parent / objects / "link.txt").read_text())
    mutant = folder / original.name
    link[link.index("-o") + 1] = str(mutant)
    link[link.index(f"{objects}/__/cuda/{file}.o")] = str(target)
    subprocess.run(link, check=True, cwd=original.parent, env=environment(), timeout=300)
    return mutant


def exit_code(mutation: Mutation, folder: Path) -> int:
    """Of pytest, which runs a mutation's test and stops at the first failure."""
    text = (SOURCES / mutation.file).read_text()
    assert text.count(mutation.line) == 1, mutation.mistake
    mutant = compiled(mutation.file, text.replace(mutation.line, mutation.replacement), folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", mutation.test],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "RESQ_ONNX_LIBRARY": str(mutant),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # half of the time of so short a run
        },
        capture_output=True,
        timeout=600,
    ).returncode


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mistake)
def test_a_mistake_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    assert exit_code(mutation, tmp_path) in FAILED


def test_a_kernel_without_a_mistake_passes(tmp_path: Path) -> None:
    """Compiling and linking a file in this way is no mistake by itself."""
    assert exit_code(NONE, tmp_path) == 0
