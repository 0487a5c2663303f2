"""Key figures of a report: formatted numbers with titles, units and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resq_onnx.graph.inspection import Inspection, TensorGroup
from resq_onnx.methods import METHODS

LARGEST_GROUPS: Final = 6
"""Number of kinds of float tensors that are listed separately in a file without quantised
matrices."""


@dataclass(frozen=True)
class Headline:
    """One large number with its title, its unit and a line below."""

    title: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class StoredKind:
    """One kind of tensor: count, storage, and bytes by number of bits.

    Attributes:
        name: Name of the module, or of the tensors.
        count: Number of tensors in the model.
        columns: Storage of the columns, in words.
        bytes: Total bytes.
        low_bytes: Bytes of coefficients in less than 8 bits.
        high_bytes: Bytes of coefficients in 8 bits.
    """

    name: str
    count: int
    columns: str
    bytes: int
    low_bytes: int = 0
    high_bytes: int = 0

    @property
    def float_bytes(self) -> int:
        """All other bytes: scales, and tensors that are not quantised."""
        return self.bytes - self.low_bytes - self.high_bytes


def headlines(inspection: Inspection, summary: Mapping[str, Any]) -> list[Headline]:
    """The figures at the top of a page; unknown ones are omitted."""
    size = inspection.graph_bytes + inspection.data_bytes
    source = summary.get("bytes", {}).get("source_float32")
    found = [Headline("Size", *_size(size), _compared(source, size, "float32", megabytes))]
    if inspection.layer_weight_bits is not None:
        note = "average over the coefficients of the layers, without scales"
        found.append(Headline("Weights", f"{inspection.layer_weight_bits:.2f}", "bits", note))
    cache, float16 = inspection.cache_bytes_per_token, inspection.cache_bytes_per_token_float16
    if cache:
        note = _compared(float16, cache, "float16", "{:,} B".format)
        found.append(Headline("Cache", f"{cache:,}", "B per token", note))
    quality = summary.get("quality")
    if quality:
        kl, top1 = quality["kl_divergence"], quality["top1_agreement"]
        note = f"KL {kl:.3f} nats, top-1 {top1:.1%}, on {quality['tokens']} tokens"
        ratio = f"{quality['perplexity_ratio']:.3f}"
        found.append(Headline("Perplexity", ratio, "× float", note))
    return found


def method_in_words(recipe: Mapping[str, Any] | None) -> str:
    """The method and its bits in words; empty if the file has no recipe."""
    if not recipe:
        return ""
    name = str(recipe.get("method"))
    method = METHODS.get(name)  # a file of a newer version may have an unknown method
    words = [method.words if method else name]
    if method is None or method.quantises:
        low, high = recipe.get("low_bits"), recipe.get("high_bits")
        has_high_part = (method is None or method.has_high_part) and recipe.get("high_fraction")
        mixed = has_high_part and low != high
        words.append(f"{low} and {high} bits" if mixed else f"{low} bits")
    floats = [site for site in ("activations", "cache") if recipe.get(site) == "float"]
    if floats:
        words.append(f"{' and '.join(floats)} in float")
    return ", ".join(words)


def stored_kinds(inspection: Inspection) -> list[StoredKind]:
    """Kinds of quantised matrices, largest first, then everything else."""
    if not inspection.matrices:
        return _float_kinds(inspection.groups)
    kinds = []
    for kind in inspection.matrices:
        of_kind = [group for group in inspection.groups if _is_part_of(group, kind.name)]
        low = sum(group.bytes for group in of_kind if group.dtype == "INT4")
        high = sum(group.bytes for group in of_kind if group.dtype == "INT8")
        words = " + ".join(f"{n:,} in {bits} bits" for bits, n in sorted(kind.columns.items()))
        kinds.append(StoredKind(_short(kind.name), kind.count, words, kind.bytes, low, high))
    rest = sum(g.bytes for g in inspection.groups) - sum(kind.bytes for kind in kinds)
    count = sum(
        group.count
        for group in inspection.groups
        if not any(_is_part_of(group, kind.name) for kind in inspection.matrices)
    )
    return [*kinds, StoredKind("everything else", count, "in float", rest)]


def megabytes(count: float) -> str:
    """Bytes in MB, or in GB from 1000 MB."""
    return " ".join(_size(count))


def number(value: float | None, form: str) -> str:
    """A number in a format such as {:.3f}; a dash if it was not measured."""
    return "–" if value is None else form.format(value)


def share_in_words(share: Mapping[str, float] | None) -> str:
    """A share of energy in per cent, with its range if curves differ."""
    if share is None:
        return ""
    low, middle, high = (f"{share[name]:.0%}" for name in ("minimum", "median", "maximum"))
    return middle if low == high else f"{middle} (median; {low} to {high})"


def _float_kinds(groups: list[TensorGroup]) -> list[StoredKind]:
    kinds = [
        StoredKind(_short(group.name), group.count, group.dtype.lower(), group.bytes)
        for group in groups[:LARGEST_GROUPS]
    ]
    rest = groups[LARGEST_GROUPS:]
    if rest:
        count, size = sum(group.count for group in rest), sum(group.bytes for group in rest)
        kinds.append(StoredKind("everything else", count, "", size))
    return kinds


def _is_part_of(group: TensorGroup, module: str) -> bool:
    return group.name.rpartition(".")[0] == module


def _short(name: str) -> str:
    return name.rpartition("*.")[2]


def _size(count: float) -> tuple[str, str]:
    """A number of bytes and its unit."""
    return (f"{count / 1e9:.2f}", "GB") if count >= 1e9 else (f"{count / 1e6:.1f}", "MB")


def _compared(original: int | None, now: int, name: str, in_words: Any) -> str:
    if not original:
        return ""
    return f"{original / now:.2f} times less than in {name} ({in_words(original)})"
