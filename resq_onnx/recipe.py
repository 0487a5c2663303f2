"""Recipe: all settings of a quantisation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from resq_onnx.errors import ResqError
from resq_onnx.methods import FORMATS, METHODS, Format, Method

WeightMethod = Literal["gptq", "rtn"]
Logits = Literal["all", "last"]
Precision = Literal["quantised", "float"]
Cache = Literal["quantised", "int8", "float16", "float"]
Tables = Literal["shared", "separate"]
Rotations = Literal["random", "fitted", "trained"]
Dtype = Literal["float32", "float16", "bfloat16"]
ComputeDtype = Literal["float32", "bfloat16"]

LOW_BITS: Final = (4, 8)
"""Bits that the low part may have: those that ONNX stores without padding, as INT4 or INT8."""

HIGH_BITS: Final = (8,)
"""Bits that the high part may have."""

HEAD_BITS: Final = (4, 8)
"""Bits of the low part of the embedding's and lm_head's tables; with 8, the whole table has 8."""

CLIPPED_BITS: Final = 4
"""Bits of the activations whose range is clipped; with 255 levels clipping does not help."""

LEAST_LENGTH: Final = 64
"""Smallest `max_length`: no less than the texts on which an export checks the graph."""


@dataclass(frozen=True)
class BitSplit:
    """Division of one width: `low` coefficients first, then `high` ones.

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
    """Settings of a quantisation; the recipe that an export records gives the same file again.

    Attributes:
        method: How projections are found: `resq` (PCA), `spinquant` (trained, no high part),
            `quarot` (random Hadamard, no high part), `outlier` (permutation by magnitude), `rtn`
            (identity, no high part) or `none` (nothing is quantised: the float model).
        rotations: Whether the rotations inside `resq`'s parts are `random`, `fitted` to a sample of
            what is rounded, or `trained`, as `spinquant`'s always are.
        training_minutes: How long that training may take, after the fit with which it begins;
            decides the number of steps.
        training_steps: Steps of that training, each on a sequence of the calibration text. None is
            as many as the minutes allow: an export records them, since only their number repeats
            it.
        weights: `gptq`, or `rtn` (round to nearest).
        low_bits: Width of the low part of weights, activations and cache.
        high_bits: Width of the high part.
        high_fraction: Share of the coefficients that form the high part.
        down_high: The same for the input of down_proj, exactly; 0 is the scheme of the paper. None
            is an eighth, and up to a third more where both parts can then be rotated with far
            fewer multiplications (`splits.down_split`).
        calibration: A file of texts or chats, the name of a data set on the Hugging Face hub,
            `prose`, `python-code` or `python-docs`, which are there, `self`, text that the float
            model writes, or a mix, `bundled` or `auto` (`calibration.built_in`).
        samples: Number of calibration sequences.
        sequence_length: Tokens per calibration sequence.
        bos: Whether texts begin with BOS, in the calibration and in every check: None follows the
            model's tokenizer.
        seed: Seeds the random rotations and the choice of calibration sequences; 0 or more.
        format: `custom` keeps the ai.resq functions, `qdq` inlines them. `contrib` uses ONNX
            Runtime's contrib operators: they support 4-bit weights, but neither our activations nor
            our cache, so both are then `float`. `web` is the same for a runtime whose operators for
            4-bit weights are slow, as onnxruntime-web's are: the weights become floats when the
            file is opened.
        logits: Positions of which the file computes logits: `all` new tokens, or the `last` one.
        activation_clip: Share of an activation's range that the 4-bit integers of the layers'
            inputs span; 1 is the whole range.
        activations: `quantised`, or `float`: then only the weights have few bits.
        cache: `quantised`, or `float`. Format contrib supports `float`, its default, `float16`, and
            `int8`: one scale for each coefficient of a head, chosen from the calibration.
        tuning_minutes: For how long the layers' weights are tuned, with the whole model, before
            they are rounded; decides the number of steps.
        tuning_steps: Steps of that tuning, each on a sequence of the calibration text; 0 for no
            tuning. None is as many as the minutes allow. Without minutes it is a few for `resq`,
            if the model, the memory and the disk permit, and 0 for other methods. An export
            records their number, which repeats it.
        target_bits: Mean bits of the layers' weights. Ranks are then chosen by site and layer,
            instead of by `high_fraction` and `down_high`; the cache keeps `high_fraction`.
        tables: Whether an embedding and an lm_head that are tied have one `shared` table in the
            file, or `separate` ones.
        head_bits: 8, or 4: then the tables of embedding and lm_head are split as the residual
            stream is, into a low part of 4 bits and a high part.
        dtype: Type of the activations between operators: the residual stream and everything inside
            a layer. For format `custom` with quantised activations. Operators always compute in
            float32; parameters, lm_head and the logits are float32, too.
        dtype_compute: Type in which PyTorch runs the layers on the calibration text, weights and
            activations. Sums, the texts of the checks and training are in float32 or finer.
        max_length: Tokens of the longest text that the exported model is for. None is all that the
            model's config.json gives; for models with LongRoPE, all with the short factors.
    """

    method: str = "resq"
    rotations: Rotations = "fitted"
    training_minutes: float = 15.0
    training_steps: int | None = None
    tuning_minutes: float | None = None
    tuning_steps: int | None = None
    weights: WeightMethod = "gptq"
    low_bits: int = 4
    high_bits: int = 8
    high_fraction: float = 0.125
    down_high: float | None = None
    calibration: str = "bundled"
    samples: int = 32
    sequence_length: int = 512
    bos: bool | None = None
    seed: int = 0
    format: str = "custom"
    logits: Logits = "all"
    activation_clip: float = 0.85
    activations: Precision = "quantised"
    cache: Cache = "quantised"
    target_bits: float | None = None
    tables: Tables = "shared"
    head_bits: int = 8
    dtype: Dtype = "float32"
    dtype_compute: ComputeDtype = "float32"
    max_length: int | None = None

    def __post_init__(self) -> None:
        choices: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("method", self.method, tuple(METHODS)),
            ("rotations", self.rotations, get_args(Rotations)),
            ("weights", self.weights, get_args(WeightMethod)),
            ("format", self.format, tuple(FORMATS)),
            ("logits", self.logits, get_args(Logits)),
            ("activations", self.activations, get_args(Precision)),
            ("cache", self.cache, get_args(Cache)),
            ("tables", self.tables, get_args(Tables)),
            ("dtype", self.dtype, get_args(Dtype)),
            ("dtype_compute", self.dtype_compute, get_args(ComputeDtype)),
            ("low_bits", self.low_bits, LOW_BITS),
            ("high_bits", self.high_bits, HIGH_BITS),
            ("head_bits", self.head_bits, HEAD_BITS),
        ]
        for name, value, known in choices:
            if value not in known:
                listed = ", ".join(str(choice) for choice in known)
                raise ResqError(f"{name} is {value!r}; it must be one of {listed}")
        self._check_format()
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
        self._check_training()
        for name, least in (
            ("samples", 1),
            ("sequence_length", 1),
            ("training_steps", 1),
            ("tuning_steps", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ResqError(f"{name} is {value}; it must be at least {least}")
        if self.max_length is not None and self.max_length < LEAST_LENGTH:
            raise ResqError(
                f"max_length is {self.max_length}; it must be at least {LEAST_LENGTH}, because an "
                f"export tries the model on a text that long"
            )
        if self.seed < 0:
            raise ResqError(f"seed is {self.seed}; it must be 0 or more")

    def _check_format(self) -> None:
        """Reject settings that the format lacks; set its defaults for activations and cache."""
        form = self.form
        if form.uses_contrib:
            if not self.how.quantises:
                raise ResqError(
                    f"format {self.format} stores quantised weights, and method {self.method} has "
                    "none; use format custom or qdq"
                )
            object.__setattr__(self, "activations", "float")
            if self.cache == "quantised":
                object.__setattr__(self, "cache", form.caches[0])
        if self.cache not in form.caches:
            able = [one.name for one in FORMATS.values() if self.cache in one.caches]
            raise ResqError(
                f"cache {self.cache} is for format {' or '.join(able)}; format {self.format} has "
                f"{' or '.join(form.caches)}"
            )

    def _check_target_bits(self) -> None:
        if self.target_bits is None:
            return
        if self.how.basis != "pca":
            raise ResqError(f"target_bits is for method resq; omit it for {self.method}")
        if not self.low_bits <= self.target_bits < self.high_bits:
            raise ResqError(
                f"target_bits is {self.target_bits}; it must be at least low_bits "
                f"({self.low_bits}) and less than high_bits ({self.high_bits})"
            )

    def _check_training(self) -> None:
        for name in ("training_minutes", "tuning_minutes"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ResqError(f"{name} is {value}; it must be above 0")
        if self.rotations == "trained" and self.how.training == "never":
            raise ResqError(f"rotations of method {self.method} cannot be trained; resq's can")
        if self.trains and not self.rounds:
            remedy = "--method quarot" if self.how.training == "always" else "--rotations random"
            raise ResqError(
                f"rotations are trained on rounded activations and a rounded cache, and here "
                f"neither is rounded (format {self.format}); use {remedy}"
            )
        if self.must_tune and not self.rounds:
            raise ResqError(
                f"weights are tuned for rounded activations and a rounded cache, and here neither "
                f"is rounded (method {self.method}, format {self.format}); use --tune 0"
            )

    def _check_dtype(self) -> None:
        if self.dtype == "float32":
            return
        for name, refused, needed in (
            ("method", not self.how.quantises, "resq"),
            ("format", not self.form.keeps_functions, "custom"),
            ("activations", self.activations == "float", "quantised"),
        ):
            if refused:
                raise ResqError(
                    f"dtype {self.dtype} is for format custom with quantised activations, and "
                    f"{name} {getattr(self, name)} is written in float32; omit --dtype, or "
                    f"use --{name} {needed}"
                )

    @property
    def how(self) -> Method:
        """The record of the method."""
        return METHODS[self.method]

    @property
    def form(self) -> Format:
        """The record of the format."""
        return FORMATS[self.format]

    @property
    def rounds(self) -> bool:
        """Whether anything is rounded when the model runs."""
        quantised = self.activations == "quantised" or self.cache == "quantised"
        return self.how.quantises and quantised

    @property
    def trains(self) -> bool:
        """Whether rotations are learned by gradient descent."""
        return self.rotations == "trained" or self.how.training == "always"

    @property
    def fits(self) -> bool:
        """Whether rotations are fitted to rows of what is rounded; training begins with these."""
        fitted = self.rotations == "fitted" and self.how.training == "optional" and self.rounds
        return fitted or self.trains

    @property
    def must_tune(self) -> bool:
        """Whether the layers' weights are tuned before they are rounded, or else it is an error."""
        if self.tuning_steps is None:
            return self.tuning_minutes is not None
        return self.tuning_steps > 0

    @property
    def tunes(self) -> bool:
        """Whether they are tuned, if nothing about the model or the machine prevents it."""
        unasked = self.tuning_steps is None and self.how.tuning_steps > 0 and self.rounds
        return self.must_tune or unasked

    @property
    def needs_calibration(self) -> bool:
        """Whether the model runs on the calibration text: for second moments, or for rows."""
        moments = self.how.needs_moments or self.weights == "gptq" or self.cache == "int8"
        return self.how.quantises and (moments or self.fits)

    def low_clip(self, split: BitSplit) -> float:
        """Share of its range that the integers of the low part of an activation span."""
        return self.activation_clip if split.low_bits == CLIPPED_BITS else 1.0

    def shares_table(self, *, tied: bool) -> bool:
        """Whether the file of a model has one table for embedding and lm_head."""
        return tied and self.tables == "shared"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for resq.json and for the metadata of a projections file."""
        return dataclasses.asdict(self)
