"""Whole models: kernels against function bodies, and against themselves to the last bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import Distance, compare
from resq_onnx.functions import DOMAIN
from resq_onnx.runtime import Decoder, library
from tests.custom_ops.kernels import open_session
from tests.custom_ops.texts import text_ids
from tests.smollm2 import Exported

Array = NDArray[Any]

OPERATORS: Final = {"MixedPrecisionMatMul", "MixedPrecisionAttention", "GatedHadamard"}
EMBEDDING: Final = "MixedPrecisionGather"

PERPLEXITY: Final = 1e-3
"""Relative: kernels compute what the bodies say, so perplexity stays within 0.1 %."""

STANDARD_ERRORS: Final = 3.0
"""What chance may add. A float sum in another order moves an integer here and there, and then every
token after it: two ways to compute the same logits are two draws of the same rounding noise."""

NOISE: Final = 1.3
"""How many times further than two ways to run the bodies, kernels and bodies may be from each
other. On SmolLM2 both pairs are 0.15 to 0.20 nats per token apart; measured ratios are 0.99 and
1.03. One token that attention forgets alone makes 0.4 nats."""

REDRAWN: Final = 0.02
"""Nats that may be between kernels and bodies where the bodies have no noise among themselves, as
on the tiny model: attention in 16 bits moves an integer of a token here and there. 0.007 was
seen."""
OTHERS: Final = 0.1
"""Share of tokens for which the most likely one may be another then: 0.03 was seen."""

LENGTH: Final = 48


@pytest.fixture(scope="module")
def tiny_ids(tiny: Path) -> NDArray[np.int64]:
    """Text as tokens of the tiny model, (4, LENGTH)."""
    return text_ids(tiny, 4, LENGTH)


def prefill(model: Path, ids: NDArray[np.int64], **options: Any) -> Array:
    """Logits (B, S, vocabulary) of one pass."""
    return Decoder(open_session(model, **options)).run(ids)[0]


def agreement(model: Path, ids: NDArray[np.int64]) -> tuple[Distance, Distance]:
    """How near kernels, and the bodies in another order of sums, are to the bodies; printed too."""
    bodies = prefill(model, ids, kernels=False)
    others = {
        "kernels": prefill(model, ids, threads=2),
        "bodies, not optimised": prefill(model, ids, kernels=False, optimised=False),
    }
    found = [compare(bodies, logits, ids) for logits in others.values()]
    for name, one in zip(others, found, strict=True):
        print(
            f"{name}: perplexity {one.perplexity_ratio - 1:+.3%} ± {one.standard_error:.3%}, "
            f"KL {one.kl_divergence:.2e} nats, top-1 {one.top1_agreement:.2%}"
        )
    return found[0], found[1]


def assert_near(kernels: Distance, noise: Distance) -> None:
    """Kernels are as good as the bodies, and no further from them than rounding takes them."""
    allowed = PERPLEXITY + STANDARD_ERRORS * kernels.log_error
    assert abs(np.log(kernels.perplexity_ratio)) < allowed
    assert kernels.kl_divergence <= max(NOISE * noise.kl_divergence, REDRAWN)
    assert 1 - kernels.top1_agreement <= max(NOISE * (1 - noise.top1_agreement), OTHERS)


# Against the function bodies


def operators(model: onnx.ModelProto) -> list[str]:
    """Our operators in the graph, sorted."""
    return sorted(node.op_type for node in model.graph.node if node.domain == DOMAIN)


def test_a_kernel_runs_each_operator_of_the_model(tiny: Path, tmp_path: Path) -> None:
    """With the library ONNX Runtime keeps our nodes; without it their bodies take their place.

    The embedding has no kernel: what it gathers of a table is next to nothing.
    """
    written = onnx.load(tiny, load_external_data=False)
    ours = [name for name in operators(written) if name != EMBEDDING]
    assert set(ours) == OPERATORS
    for kernels in (True, False):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{kernels}.onnx")
        if kernels:
            library.register(options)
        ort.InferenceSession(tiny, options, providers=["CPUExecutionProvider"])
        run = onnx.load(options.optimized_model_filepath, load_external_data=False)
        assert operators(run) == (ours if kernels else [])


def test_kernels_agree_with_the_bodies_on_a_tiny_model(
    tiny: Path, tiny_ids: NDArray[np.int64]
) -> None:
    assert_near(*agreement(tiny, tiny_ids))


@pytest.mark.slow
def test_kernels_agree_with_the_bodies_on_smollm2(smollm2_exported: Exported) -> None:
    model = smollm2_exported.out
    assert_near(*agreement(model, text_ids(model, 8, 256)))


# Against themselves


def in_pieces(decoder: Decoder, ids: NDArray[np.int64], stops: list[int]) -> Array:
    """Logits of all pieces, which end at `stops`."""
    state, outputs = None, []
    for start, stop in pairwise([0, *stops]):
        logits, state = decoder.run(ids[:, start:stop], state)
        outputs.append(logits)
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_one_pass_pieces_and_token_by_token_have_the_same_logits(
    tiny: Path, tiny_ids: NDArray[np.int64], threads: int
) -> None:
    wanted = prefill(tiny, tiny_ids)
    decoder = Decoder(open_session(tiny, threads=threads))
    for stops in ([LENGTH], [1, 3, 20, 21, LENGTH], list(range(1, LENGTH + 1))):
        np.testing.assert_array_equal(in_pieces(decoder, tiny_ids, stops), wanted)


def test_a_sequence_alone_and_in_a_batch_has_the_same_logits(
    tiny: Path, tiny_ids: NDArray[np.int64]
) -> None:
    decoder = Decoder(open_session(tiny, threads=2))
    alone = [decoder.run(row[None])[0] for row in tiny_ids]
    for batch in range(1, len(tiny_ids) + 1):
        together, _ = decoder.run(tiny_ids[:batch])
        np.testing.assert_array_equal(together, np.concatenate(alone[:batch]))


def test_padding_on_the_right_changes_no_logit_before_it(
    tiny: Path, tiny_ids: NDArray[np.int64]
) -> None:
    decoder = Decoder(open_session(tiny, threads=2))
    lengths = [LENGTH, 7, 31, 1]
    mask = np.arange(LENGTH) < np.array(lengths)[:, None]
    padded, _ = decoder.run(tiny_ids * mask, attention_mask=mask.astype(np.int64))
    for row, length in enumerate(lengths):
        alone, _ = decoder.run(tiny_ids[row : row + 1, :length])
        np.testing.assert_array_equal(padded[row : row + 1, :length], alone)


def test_every_run_has_the_same_logits(tiny: Path, tiny_ids: NDArray[np.int64]) -> None:
    decoder = Decoder(open_session(tiny, threads=3))
    first, _ = decoder.run(tiny_ids)
    for _ in range(20):
        np.testing.assert_array_equal(decoder.run(tiny_ids)[0], first)


@pytest.mark.slow
def test_a_real_model_decodes_as_it_prefills(smollm2_exported: Exported) -> None:
    model = smollm2_exported.out
    ids = text_ids(model, 1, 96)
    wanted = prefill(model, ids, threads=1)
    decoder = Decoder(open_session(model, threads=2))
    for stops in ([96], [64, *range(65, 97)]):
        np.testing.assert_array_equal(in_pieces(decoder, ids, stops), wanted)
