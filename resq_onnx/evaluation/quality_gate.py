"""Refuse a quantised model that is of no use, and warn of one that is unusually far from float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import Quality
from resq_onnx.recipe import Recipe

MOST_DIVERGENCE: Final = 2.0
"""Mean divergence from the float model, nats per token, past which a model is refused.

Its perplexity is then some e² = 7 times the float model's: it has lost what it knew of the text.
Of SmolLM2-135M, `resq` is at 0.15 and the weakest rotated baseline, `spinquant`, below 1; what came
out as gibberish was at 5 and more (docs/quality.md).
"""

USUAL_DIVERGENCE: Final = 0.7
"""The same, past which the user is warned: more than four times that of the default recipe."""


def check_quality(
    quality: Quality, recipe: Recipe, force: bool, warn: Callable[[str], None]
) -> None:
    """Refuse or warn, naming the place where the noise grows most, and what may help.

    Args:
        quality: Of the quantised model.
        recipe: Its settings.
        force: Warn of what would be refused.
        warn: Receives one line.

    Raises:
        ResqError: The divergence is more than `MOST_DIVERGENCE`, or not a number, and `force` is
            false.
    """
    distance = quality.distance
    if distance.kl_divergence <= USUAL_DIVERGENCE:
        return
    found = (
        f"quality: the predictions are {distance.kl_divergence:.2f} nats per token away from the "
        f"float model's (top-1 {distance.top1_agreement:.1%}, perplexity "
        f"{distance.perplexity_ratio:.3g} times, on {quality.tokens} tokens); the noise grows most "
        f"in {quality.steepest}"
    )
    if distance.kl_divergence <= MOST_DIVERGENCE:
        warn(f"{found}; {_remedies(recipe)} may help")
    elif force:
        warn(f"{found}; it is written because of --force")
    else:
        raise ResqError(
            f"{found}; nothing was written, since no model of more than {MOST_DIVERGENCE:g} nats "
            f"is known to be of use; try {_remedies(recipe)}, or write it with --force"
        )


def _remedies(recipe: Recipe) -> str:
    """Options that usually bring a model nearer to the float one, which the recipe lacks."""
    choices = (
        (recipe.head_bits == 4, "--head-bits 8"),
        (recipe.method != "resq", "--method resq"),
        (recipe.weights == "rtn", "--weights gptq"),
        (recipe.low_bits == 4 and recipe.target_bits is None, "--low-bits 8"),
        (recipe.needs_calibration, "a --calibration text like your own"),
    )
    *others, last = (option for lacks, option in choices if lacks)
    return f"{', '.join(others)} or {last}" if others else last
