"""Mistakes in a kernel are noticed: each of these deliberate ones fails a test, and compare_cuda.

Only the file with the mistake is compiled again. It is linked with the objects of the others, to
the library for the test, and to the program.
"""

from __future__ import annotations

import json
import os
import re
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

KERNELS: Final = "resq_simt_kernels"
PROGRAM: Final = "compare_cuda_simt"

COMPARISONS: Final = {
    "matmul": "matmul float32",
    "hadamard": "hadamard float32",
    "attention": "attention float16",
}
"""What `compare_cuda --only` compares, by the first word of a file's name."""


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


@dataclass(frozen=True)
class Mutant:
    """The library and the program with another text in the place of one file."""

    library: Path
    program: Path


def compiled(file: str, text: str, folder: Path) -> Mutant:
    """Compile a file, and link it with the objects of all others."""
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
    name = original.stem.removeprefix("lib")
    return Mutant(
        linked(original.parent, name, file, target, folder / original.name),
        linked(build / "tests", PROGRAM, file, target, folder / PROGRAM),
    )


def linked(built: Path, name: str, file: str, target: Path, out: Path) -> Path:
    """Link what a folder of the build links, with one object in the place of a file's."""
    link = shlex.split((built / f"CMakeFiles/{name}.dir/link.txt").read_text())
    link[link.index("-o") + 1] = str(out)
    replaced = f"{KERNELS}.dir/__/cuda/{file}.o"
    (place,) = (i for i, word in enumerate(link) if word.endswith(replaced))
    link[place] = str(target)
    subprocess.run(link, check=True, cwd=built, env=environment(), timeout=300)
    return out


def mutant_of(mutation: Mutation, folder: Path) -> Mutant:
    text = (SOURCES / mutation.file).read_text()
    assert text.count(mutation.line) == 1, mutation.mistake
    return compiled(mutation.file, text.replace(mutation.line, mutation.replacement), folder)


def exit_code(mutation: Mutation, mutant: Mutant) -> int:
    """Of pytest, which runs a mutation's test and stops at the first failure."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", mutation.test],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "RESQ_ONNX_LIBRARY": str(mutant.library),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # half of the time of so short a run
        },
        capture_output=True,
        timeout=600,
    ).returncode


def comparison(mutation: Mutation, mutant: Mutant) -> tuple[int, str]:
    """Exit code and output of compare_cuda, for a part of its cases."""
    only = COMPARISONS[re.split(r"[_.]", mutation.file)[0]]
    done = subprocess.run(
        [mutant.program, "--quick", "--first", "--only", only],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.mistake)
def test_a_mistake_is_caught_by_a_test_and_by_compare_cuda(
    mutation: Mutation, tmp_path: Path
) -> None:
    mutant = mutant_of(mutation, tmp_path)
    assert exit_code(mutation, mutant) in FAILED
    code, output = comparison(mutation, mutant)
    assert code in FAILED, output


def test_a_kernel_without_a_mistake_passes(tmp_path: Path) -> None:
    """Compiling and linking a file in this way is no mistake by itself."""
    mutant = mutant_of(NONE, tmp_path)
    assert exit_code(NONE, mutant) == 0
    code, output = comparison(NONE, mutant)
    assert code == 0, output
    assert " 0 mismatches" in output.splitlines()[-1]
