"""Records of the methods by which bases are found, and of the formats that are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Method:
    """A method of finding the bases in which a model is quantised.

    Attributes:
        name: The value of `--method`.
        words: A readable name of the method and its basis.
        basis: `pca`, the eigenvectors of the second moments; `hadamard`, a random Hadamard matrix;
            `channels`, a permutation by energy; `identity`.
        has_high_part: Whether it keeps some coefficients in more bits.
        training: Whether the rotations are trained: `never`, `optional` (`Recipe.rotations`) or
            `always`.
        tuning_steps: Steps by which the layers' weights are tuned without being asked. Those of
            `resq` take SmolLM2-135M about as long as all the rest of an export, and twice as many
            are worth no more than the seeds' spread (docs/quality.md).
        quantises: False for the float model.
    """

    name: str
    words: str
    basis: Literal["pca", "hadamard", "channels", "identity"]
    has_high_part: bool = False
    training: Literal["never", "optional", "always"] = "never"
    tuning_steps: int = 0
    quantises: bool = True

    @property
    def needs_moments(self) -> bool:
        """Whether the bases are computed from calibration statistics."""
        return self.basis in ("pca", "channels")

    @property
    def rotates(self) -> bool:
        """Whether no basis vector is a single coefficient of the model."""
        return self.basis in ("pca", "hadamard")

    @property
    def trains_keys(self) -> bool:
        """Whether training also turns the keys: SpinQuant's have fixed Hadamard matrices."""
        return self.training == "optional"


METHODS: Final = {
    method.name: method
    for method in (
        Method("resq", "ResQ: principal components", "pca", True, "optional", tuning_steps=16),
        Method(
            "spinquant",
            "SpinQuant: rotations learned from the quantised loss",
            "hadamard",
            training="always",
        ),
        Method("quarot", "QuaRot: random Hadamard rotations", "hadamard"),
        Method("outlier", "outlier channels", "channels", True),
        Method("rtn", "no change of basis", "identity"),
        Method("none", "float, not quantised", "identity", quantises=False),
    )
}
"""All methods by name; all but resq are baselines."""


@dataclass(frozen=True)
class Format:
    """A file format: the operators that a file uses.

    Attributes:
        name: The value of `--format`.
        keeps_functions: Whether the file has ai.resq operators, as functions; else they are
            inlined.
        portable: Whether the inlined functions are written so that other runtimes can also read
            them.
        uses_contrib: Whether it uses ONNX Runtime's contrib operators. They support neither
            quantised activations nor a quantised cache.
        contrib_products: Whether the matrix products are such operators.
        caches: Supported values of `Recipe.cache`; the first is the default.
    """

    name: str
    keeps_functions: bool = False
    portable: bool = False
    uses_contrib: bool = False
    contrib_products: bool = False
    caches: tuple[str, ...] = ("quantised", "float")


FORMATS: Final = {
    form.name: form
    for form in (
        Format("custom", keeps_functions=True),
        Format("qdq", portable=True),
        Format(
            "contrib",
            uses_contrib=True,
            contrib_products=True,
            caches=("float", "float16", "int8"),
        ),
        Format("web", uses_contrib=True, caches=("float",)),
    )
}
"""All formats by name."""
