"""One portable file in every runtime that reads ONNX: its prefill, its cached decode, its text.

What they are held against is a session of ours on the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import Logits, compare
from resq_onnx.runtime import BufferedDecoder, Decoder, create_session, generate
from resq_onnx.runtime.decoder import decode_logits
from tests.handoff.portable import RUNTIMES, Portable, export_portable, token_ids
from tests.tiny_exports import TinyExports

MAX_DIVERGENCE: Final = 0.005
"""Nats per token. Without ties 1e-12 was found. Where the last bit of a float sum, whose order is a
runtime's choice, decides between two integers, one of them gives 2e-4 here; quantisation itself is
more than 0.05 away from the float model."""

NEAR_TIE: Final = 0.05
"""Difference of logits below which such an integer may turn a token; they spread by about 3."""

MAX_NEW: Final = 32

Open = Callable[[Path], Decoder]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def portable(request: pytest.FixtureRequest, tiny_exports: TinyExports) -> Portable:
    return export_portable(tiny_exports, request.param, floats=True)


@pytest.fixture(params=RUNTIMES)
def open_in(request: pytest.FixtureRequest) -> Open:
    """Each runtime in turn."""
    return RUNTIMES[request.param]


def own(path: Path) -> Decoder:
    return Decoder(create_session(path, threads=1, kernels=False))


def assert_agree(expected: Logits, found: Logits, ids: NDArray[np.int64]) -> None:
    """The same predictions but for what a last bit may turn."""
    agreement = compare(expected, found, ids)
    assert agreement.kl_divergence < MAX_DIVERGENCE
    chosen = np.take_along_axis(expected, found.argmax(-1)[..., None], -1)[..., 0]
    assert (expected.max(-1) - chosen).max() < NEAR_TIE


def test_prefill_agrees(portable: Portable, open_in: Open) -> None:
    ids = token_ids()
    expected = own(portable.file).run(ids)[0]
    assert_agree(expected, open_in(portable.file).run(ids)[0], ids)


def test_cached_decode_agrees(portable: Portable, open_in: Open) -> None:
    ids = token_ids()
    expected = decode_logits(own(portable.file), ids)
    assert_agree(expected, decode_logits(open_in(portable.file), ids), ids)


def test_portions_behind_padding_agree(portable: Portable, open_in: Open) -> None:
    """The first text is five tokens shorter; its padding is on the left."""
    ids, mask = token_ids(), np.ones((2, token_ids().shape[1]), np.int64)
    mask[0, :5] = 0
    results = []
    for decoder in (own(portable.file), open_in(portable.file)):
        state, portions = None, []
        for start, end in ((0, 16), (16, 17), (17, 24)):
            logits, state = decoder.run(ids[:, start:end], state, mask[:, :end])
            portions.append(logits)
        results.append(np.concatenate(portions, axis=1)[:, 5:])
    assert_agree(results[0], results[1], ids[:, 5:])


def test_greedy_tokens_are_the_same_until_a_near_tie(portable: Portable, open_in: Open) -> None:
    prompt = token_ids(1, 12, seed=3)
    session = own(portable.file).session
    expected = list(generate(BufferedDecoder(session, 12 + MAX_NEW), prompt[0].tolist(), MAX_NEW))
    decoder = open_in(portable.file)
    logits, state = decoder.run(prompt)
    for place, token in enumerate(expected):
        last = logits[0, -1]
        assert last.max() - last[token] < NEAR_TIE, place
        logits, state = decoder.run(np.array([[token]]), state)


def test_the_bounds_are_below_what_quantisation_costs(portable: Portable) -> None:
    assert portable.floats is not None
    ids = token_ids()
    floats, found = (own(path).run(ids)[0] for path in (portable.floats, portable.file))
    assert compare(floats, found, ids).kl_divergence > 10 * MAX_DIVERGENCE
