"""Rows of the first two tables of docs/quality.md: exports and their options.

README.md shows some rows of the first table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: Text in the table.
        file: Name of the row's folder; rows of two tables with the same folder are exported once.
        options: Options of `resq-onnx export`, except those of the calibration.
        samples: Calibration sequences of 512 tokens; None for the script's `--samples`.
        text: Calibration text; None for the Brown corpus.
        tuned: Whether weights are tuned, as long as the options say or as by default. All other
            rows have `--tune 0`, so that they show what their options alone are worth.
    """

    label: str
    file: str
    options: tuple[str, ...] = ()
    samples: int | None = None
    text: str | None = None
    tuned: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """All options of `resq-onnx export`, except those of the calibration."""
        return self.options if self.tuned else (*self.options, "--tune", "0")

    def with_seed(self, seed: int) -> Row:
        """The same with another seed than 0."""
        if seed == 0:
            return self
        options = (*self.options, "--seed", str(seed))
        return replace(self, file=f"{self.file}-seed-{seed}", options=options)


FLOAT: Final = Row("float32, as traced", "float", ("--method", "none"))
ROTATED: Final = Row("float32, rotated (`--save-rotated`)", "rotated")
DEFAULT: Final = Row("`resq` (default)", "resq", tuned=True)
EIGHT_BITS: Final = Row("`resq --low-bits 8`, 8 bits everywhere", "low8", ("--low-bits", "8"))

EXPORTS: Final = (
    FLOAT,
    ROTATED,
    DEFAULT,
    Row("`resq --tune 0`, weights not tuned", "untuned"),
    Row("`resq --head-bits 4`", "head4", ("--head-bits", "4")),
    Row("`resq --tables separate`", "separate", ("--tables", "separate")),
    Row("`resq --activation-clip 1`", "unclipped", ("--activation-clip", "1")),
    Row(
        "`resq --activations float --cache float`, weights alone",
        "weights",
        ("--activations", "float", "--cache", "float"),
    ),
    Row(
        "`resq --format contrib`, the same in ONNX Runtime's own operators",
        "contrib",
        ("--format", "contrib"),
    ),
    Row(
        "`resq --format contrib --cache int8`",
        "contrib-int8",
        ("--format", "contrib", "--cache", "int8"),
    ),
    Row("`resq --down-high 0`, as in the paper", "paper", ("--down-high", "0")),
    EIGHT_BITS,
    Row("`spinquant`", "spinquant", ("--method", "spinquant")),
    Row("`outlier`", "outlier", ("--method", "outlier")),
    Row("`quarot`", "quarot", ("--method", "quarot")),
    Row("`rtn`, GPTQ weights", "rtn-gptq", ("--method", "rtn")),
    Row("`rtn --weights rtn`", "rtn", ("--method", "rtn", "--weights", "rtn")),
)

STUDY: Final = (
    FLOAT,
    DEFAULT,
    EIGHT_BITS,
    Row("`--weights rtn`", "resq-rtn", ("--weights", "rtn")),
    Row("`--target-bits 4.5`", "target", ("--target-bits", "4.5")),
    Row(
        "`--head-bits 4 --down-high 0`",
        "head4-paper",
        ("--head-bits", "4", "--down-high", "0"),
    ),
    Row(
        "`--head-bits 4 --target-bits 4.36`",
        "head4-target",
        ("--head-bits", "4", "--target-bits", "4.36"),
    ),
    *(
        Row(f"`--train {minutes}`", f"train-{minutes}", ("--train", f"{minutes}"))
        for minutes in (1, 5, 15)
    ),
    *(
        Row(f"`--tune {minutes}`", f"tune-{minutes}", ("--tune", f"{minutes}"), tuned=True)
        for minutes in (1, 5, 15)
    ),
    Row("`--tune 15 --samples 128`", "tune-15-128", ("--tune", "15"), samples=128, tuned=True),
    Row("`--method spinquant --train 5`", "spinquant-5", ("--method", "spinquant", "--train", "5")),
    Row("`--samples 8`", "samples-8", samples=8),
    Row("`--samples 128`", "samples-128", samples=128),
    Row(
        "`--calibration bundled`, without a text of one's own",
        "bundled",
        text="bundled",
        tuned=True,
    ),
    Row("`--calibration python-docs`", "python-docs", text="python-docs"),
)

TABLES: Final = {"exports": EXPORTS, "study": STUDY}
