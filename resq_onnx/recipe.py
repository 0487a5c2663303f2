"""Every number a user may choose, and what follows from it for a given width."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from resq_onnx.errors import ResqError

Method = Literal["resq", "spinquant", "quarot", "outlier", "rtn", "none"]
WeightMethod = Literal["gptq", "rtn"]
Format = Literal["custom", "qdq", "contrib", "web"]
Logits = Literal["all", "last"]
Precision = Literal["quantised", "float"]
Cache = Literal["quantised", "int8", "float16", "float"]
Tables = Literal["shared", "separate"]
Rotations = Literal["random", "trained"]
Dtype = Literal["float32", "float16", "bfloat16"]

LOW_BITS: Final = (4, 8)
"""Widths the low part may have: what ONNX stores without padding as INT4 or INT8."""

HIGH_BITS: Final = (8,)
"""Widths the high part may have."""

HEAD_BITS: Final = (4, 8)
"""Widths of the low part of the embedding's and lm_head's tables; with 8, all of it."""

ROUNDING: Final = 0.05
"""Coefficients by which a fraction of a width may miss a whole number: who is told that 1/3
would do gives 0.333333, and six digits of 100,000 coefficients are right to a twentieth."""

DOWN_SHARE: Final = 0.125
"""Least share of the input of down_proj that forms its high part, unless a user names one."""

CLIPPED_BITS: Final = 4
"""Bits of the activations whose range is clipped; with 255 levels clipping does not pay."""

METHODS_WITHOUT_HIGH_PART: Final = ("spinquant", "quarot", "rtn", "none")
"""Baselines that quantise every coefficient alike."""


@dataclass(frozen=True)
class BitSplit:
    """How one width is divided: `low` coefficients first, then `high` ones.

    Attributes:
        low: Number of coefficients in `low_bits`; may be 0.
        high: Number of coefficients in `high_bits`; may be 0.
        low_bits: 4 or 8.
        high_bits: 8.
    """

    low: int
    high: int
    low_bits: int = 4
    high_bits: int = 8

    @property
    def width(self) -> int:
        """Number of coefficients in both parts together."""
        return self.low + self.high

    @property
    def mean_bits(self) -> float:
        """Bits per coefficient, averaged over both parts."""
        return (self.low * self.low_bits + self.high * self.high_bits) / self.width


@dataclass(frozen=True)
class Recipe:
    """What to do to a model; the same recipe, model and seed give the same file.

    Attributes:
        method: How projections are found: `resq` (PCA), `spinquant` (trained, no high part),
            `quarot` (random Hadamard, no high part), `outlier` (permutation by magnitude), `rtn`
            (identity, no high part) or `none` (nothing is quantised: the float model).
        rotations: Whether the rotations inside `resq`'s parts are `random`, or `trained`, as
            `spinquant`'s always are.
        training_steps: Steps of that training, each on a sequence of the calibration text.
        weights: `gptq`, or `rtn` (round to nearest).
        low_bits: Width of the low part of weights, activations and cache.
        high_bits: Width of the high part.
        high_fraction: Share of the coefficients that form the high part.
        down_high: The same for the input of down_proj, exactly; 0 is the scheme of the paper. None
            is an eighth, and up to a third more where both parts can then be rotated with far
            fewer multiplications (`splits.down_split`).
        calibration: A .txt or .jsonl file, a name known to `datasets`, or `python-docs`.
        samples: Number of calibration sequences.
        sequence_length: Tokens per calibration sequence.
        bos: Whether texts begin with BOS, in the calibration and in every check: None for as the
            model's tokenizer begins them.
        seed: Seeds the random rotations and the choice of calibration sequences.
        format: `custom` keeps the ai.resq functions, `qdq` inlines them. `contrib` uses the
            operators that ONNX Runtime has beyond the standard: they know 4-bit weights, but
            neither our activations nor our cache, so both are `float` then. `web` is the same for
            a runtime whose operators for 4-bit weights are slow, as onnxruntime-web's are: the
            weights become floats when the file is opened.
        logits: Positions of which the file computes logits: `all` new tokens, or the `last` one.
        activation_clip: Share of an activation's range that the 4-bit integers of the layers'
            inputs span; 1 is the whole range.
        activations: `quantised`, or `float`: then only the weights have few bits.
        cache: `quantised`, or `float`. Format contrib knows `float`, its default, `float16`, and
            `int8`: one scale for each coefficient of a head, chosen from the calibration.
        target_bits: Mean bits of the layers' weights. Ranks are then chosen by site and layer,
            instead of by `high_fraction` and `down_high`; the cache keeps `high_fraction`.
        tables: Whether an embedding and an lm_head that are tied have one `shared` table in the
            file, or `separate` ones.
        head_bits: 8, or 4: then the tables of embedding and lm_head are split as the residual
            stream is, into a low part of 4 bits and a high part.
        dtype: Type in which one operator hands its activations to the next: the residual stream and
            all else of a layer. For format `custom` with quantised activations. Operators compute
            in float32 whatever it is, parameters are float32, and so are lm_head and the logits.
    """

    method: Method = "resq"
    rotations: Rotations = "random"
    training_steps: int = 100
    weights: WeightMethod = "gptq"
    low_bits: int = 4
    high_bits: int = 8
    high_fraction: float = 0.125
    down_high: float | None = None
    calibration: str = "python-docs"
    samples: int = 32
    sequence_length: int = 512
    bos: bool | None = None
    seed: int = 0
    format: Format = "custom"
    logits: Logits = "all"
    activation_clip: float = 0.85
    activations: Precision = "quantised"
    cache: Cache = "quantised"
    target_bits: float | None = None
    tables: Tables = "shared"
    head_bits: int = 8
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        choices: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("method", self.method, get_args(Method)),
            ("rotations", self.rotations, get_args(Rotations)),
            ("weights", self.weights, get_args(WeightMethod)),
            ("format", self.format, get_args(Format)),
            ("logits", self.logits, get_args(Logits)),
            ("activations", self.activations, get_args(Precision)),
            ("cache", self.cache, get_args(Cache)),
            ("tables", self.tables, get_args(Tables)),
            ("dtype", self.dtype, get_args(Dtype)),
            ("low_bits", self.low_bits, LOW_BITS),
            ("high_bits", self.high_bits, HIGH_BITS),
            ("head_bits", self.head_bits, HEAD_BITS),
        ]
        for name, value, known in choices:
            if value not in known:
                listed = ", ".join(str(choice) for choice in known)
                raise ResqError(f"{name} is {value!r}; it must be one of {listed}")
        if self.uses_contrib:
            if self.method == "none":
                raise ResqError(
                    f"format {self.format} stores quantised weights, and method none has none; use "
                    "format custom or qdq"
                )
            object.__setattr__(self, "activations", "float")
            if self.cache == "quantised":
                object.__setattr__(self, "cache", "float")
        if self.cache in ("int8", "float16") and self.format != "contrib":
            raise ResqError(
                f"cache {self.cache} is for format contrib; format {self.format} has "
                f"{'float' if self.uses_contrib else 'quantised or float'}"
            )
        for name in ("high_fraction", "down_high"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ResqError(f"{name} is {value}; it must be at least 0 and less than 1")
        if not 0.0 < self.activation_clip <= 1.0:
            raise ResqError(
                f"activation_clip is {self.activation_clip}; it must be above 0 and at most 1"
            )
        self._check_target_bits()
        self._check_dtype()
        if self.rotations == "trained" and self.method not in ("resq", "spinquant"):
            raise ResqError(f"rotations of method {self.method} cannot be trained; resq's can")
        for name in ("samples", "sequence_length", "training_steps"):
            value = getattr(self, name)
            if value < 1:
                raise ResqError(f"{name} is {value}; it must be at least 1")

    def _check_target_bits(self) -> None:
        if self.target_bits is None:
            return
        if self.method != "resq":
            raise ResqError(f"target_bits is for method resq; leave it away for {self.method}")
        if not self.low_bits <= self.target_bits < self.high_bits:
            raise ResqError(
                f"target_bits is {self.target_bits}; it must be at least low_bits "
                f"({self.low_bits}) and less than high_bits ({self.high_bits})"
            )

    def _check_dtype(self) -> None:
        if self.dtype == "float32":
            return
        for name, refused, needed in (
            ("method", self.method == "none", "resq"),
            ("format", self.format != "custom", "custom"),
            ("activations", self.activations == "float", "quantised"),
        ):
            if refused:
                raise ResqError(
                    f"dtype {self.dtype} is for format custom with quantised activations, and "
                    f"{name} {getattr(self, name)} is written in float32; leave --dtype away, or "
                    f"use --{name} {needed}"
                )

    @property
    def uses_contrib(self) -> bool:
        """Whether the file has operators that ONNX Runtime has beyond the standard."""
        return self.format in ("contrib", "web")

    @property
    def has_high_part(self) -> bool:
        """Whether the method keeps some coefficients in more bits."""
        return self.method not in METHODS_WITHOUT_HIGH_PART

    @property
    def trains(self) -> bool:
        """Whether rotations are learned by gradient descent."""
        return self.rotations == "trained" or self.method == "spinquant"

    @property
    def needs_calibration(self) -> bool:
        """Whether second moments of the activations are used at all."""
        for_bases, for_weights = self.method in ("resq", "outlier"), self.weights == "gptq"
        needs_moments = for_bases or for_weights or self.cache == "int8"
        return self.method != "none" and needs_moments

    def split(self, width: int, site: str) -> BitSplit:
        """Divide a width of the residual stream or of a head.

        Args:
            width: Number of coefficients.
            site: What the width is, for the message of a refusal.

        Raises:
            ResqError: `high_fraction` of `width` is not a whole even number.
        """
        return self._split(width, self.high_fraction, "high-fraction", site)

    def least_down_split(self, width: int) -> BitSplit:
        """Divide the input width of down_proj, as `split` does, by `down_high` or `DOWN_SHARE`.

        What the model has is `splits.down_split`, whose high part may be larger.
        """
        share = DOWN_SHARE if self.down_high is None else self.down_high
        return self._split(width, share, "down-high", "the intermediate size")

    def table_split(self, width: int) -> BitSplit:
        """How the columns of embedding and lm_head are divided, for a hidden size of `width`.

        Raises:
            ResqError: The low part in 4 bits would not fill whole bytes, or as for `split`.
        """
        if self.head_bits == 8:
            return BitSplit(0, width, high_bits=self.high_bits)
        split = dataclasses.replace(self.split(width, "the hidden size"), low_bits=self.head_bits)
        if split.low % 2:
            raise ResqError(
                f"--head-bits 4 needs an even hidden size, and this model's is {width}; use 8"
            )
        return split

    def low_clip(self, split: BitSplit) -> float:
        """Share of its range that the integers of the low part of an activation span."""
        return self.activation_clip if split.low_bits == CLIPPED_BITS else 1.0

    def shares_table(self, *, tied: bool) -> bool:
        """Whether the file of a model has one table for embedding and lm_head."""
        return tied and self.tables == "shared"

    def _split(self, width: int, fraction: float, option: str, site: str) -> BitSplit:
        if not self.has_high_part or fraction == 0.0:
            return BitSplit(width, 0, self.low_bits, self.high_bits)
        high = width * fraction
        if not _is_even(high) or width % 2:
            raise ResqError(
                f"--{option} {fraction:g} of {site} {width} is {high:g} coefficients, and both "
                f"parts must be whole even numbers; these fractions would do: "
                f"{_fractions_that_divide(width)}"
            )
        return BitSplit(width - round(high), round(high), self.low_bits, self.high_bits)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for resq.json and for the metadata of a projections file."""
        return dataclasses.asdict(self)


def _is_even(value: float) -> bool:
    return abs(value - round(value)) < ROUNDING and round(value) % 2 == 0


def _fractions_that_divide(width: int) -> str:
    """The fractions 1/2, 1/3, ... 1/32 of `width` that leave two even parts."""
    if width % 2:
        return "only 0, because the size is odd"
    found = [f"1/{n} ({1 / n:.6g})" for n in range(2, 33) if width % n == 0 and width // n % 2 == 0]
    return ", ".join([*found, "0"])
