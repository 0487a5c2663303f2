"""Penalties and biases: the logits that they leave."""

from __future__ import annotations

import numpy as np

from resq_onnx.runtime.penalties import Penalties

LOGITS = np.array([1.0, 2.0, 3.0], np.float32)


def test_without_any_the_logits_are_the_very_same() -> None:
    penalties = Penalties()
    penalties.note(1)
    assert penalties.applied(LOGITS) is LOGITS


def test_frequency_counts_and_presence_does_not() -> None:
    penalties = Penalties(presence=0.25, frequency=0.5)
    assert penalties.applied(LOGITS) is LOGITS
    for token in (2, 2, 0):
        penalties.note(token)
    assert penalties.applied(LOGITS).tolist() == [0.25, 2.0, 1.75]
    assert LOGITS.tolist() == [1.0, 2.0, 3.0]


def test_a_bias_is_added_once_whatever_is_said() -> None:
    penalties = Penalties(bias={0: 5.0, 2: -100.0})
    penalties.note(0)
    assert penalties.applied(LOGITS).tolist() == [6.0, 2.0, -97.0]


def test_negative_penalties_invite() -> None:
    penalties = Penalties(presence=-1.0)
    penalties.note(1)
    assert penalties.applied(LOGITS).tolist() == [1.0, 3.0, 3.0]
