"""A model of two layers: prompts, in 16 bits on tensor cores, then token by token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import compare
from resq_onnx.runtime import Decoder
from tests.command_line import QUICK
from tests.custom_ops.kernels import REPOSITORY, open_session
from tests.custom_ops.texts import text_ids
from tests.once import once

LENGTH: Final = 48
PROMPT: Final = 33
"""Tokens of the prompt, more than the 16 from which on tensor cores attend."""

WAYS: Final = ([PROMPT], [PROMPT, *range(PROMPT + 1, LENGTH)], list(range(1, LENGTH)))
"""Where pieces end: a prompt and a rest, a prompt and tokens, tokens alone."""

REDRAWN: Final = 0.01
"""Nats between two draws of the noise of float sums, which move few coefficients."""

SHARE: Final = 1.0
"""How far two ways to compute the same 16-bit model may be from each other, of how far that model
is from the one in float32: both move some coefficients to the other side of a 4-bit step. Found are
0.06 to 0.52."""


WRITE: Final = """
import pathlib, sys
from tests.tiny_models import write_model
write_model(pathlib.Path(sys.argv[1]), "llama", tied=True, head_dim=64)
"""


def python(*arguments: object) -> None:
    """A process of its own without the sanitizer, under which PyTorch is slow."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "RESQ_ONNX_LIBRARY")}
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, env=kept, cwd=REPOSITORY, timeout=600)


@pytest.fixture(scope="module")
def folder(shared_folder: Path) -> Path:
    """A Llama with heads of 64, calibrated."""

    def make(made: Path) -> None:
        python("-c", WRITE, made / "model")
        python("-m", "resq_onnx", "calibrate", made / "model", made / "p.safetensors", *QUICK)

    return once(shared_folder / "wide", make)


def exported(folder: Path, dtype: str) -> Path:
    how = ("--projections", folder / "p.safetensors", "--dtype", dtype)

    def make(made: Path) -> None:
        python("-m", "resq_onnx", "export", folder / "model", made / "model.onnx", *how)

    return once(folder / dtype, make) / "model.onnx"


def logits_of(model: Path, ids: NDArray[np.int64], *stops: int) -> NDArray[np.float32]:
    """Logits of pieces of the tokens, which end at `stops`."""
    decoder, state, pieces = Decoder(open_session(model)), None, []
    for start, stop in zip((0, *stops), (*stops, ids.shape[1]), strict=True):
        logits, state = decoder.run(ids[:, start:stop], state)
        pieces.append(logits)
    return np.concatenate(pieces, axis=1)


def test_in_float32_all_ways_to_cut_a_text_give_the_same_bits(folder: Path) -> None:
    model = exported(folder, "float32")
    ids = text_ids(model, 2, LENGTH)
    one_pass = logits_of(model, ids)
    for stops in WAYS:
        np.testing.assert_array_equal(logits_of(model, ids, *stops), one_pass)
    bodies = Decoder(open_session(model, kernels=False)).run(ids)[0]
    assert compare(bodies, one_pass, ids).kl_divergence < REDRAWN


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_prompt_and_tokens_after_it_agree_with_one_pass(folder: Path, dtype: str) -> None:
    model, plain = exported(folder, dtype), exported(folder, "float32")
    ids = text_ids(model, 2, LENGTH)
    one_pass = logits_of(model, ids)
    rounding = compare(logits_of(plain, ids), one_pass, ids).kl_divergence
    for stops in WAYS:
        found = compare(one_pass, logits_of(model, ids, *stops), ids).kl_divergence
        print(f"{dtype}: {found:.2e} nats between two ways, {rounding:.2e} to float32")
        assert found < SHARE * rounding
