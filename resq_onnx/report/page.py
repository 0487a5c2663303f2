"""One HTML page about one exported file: pictures, tables and styles in one file, no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jinja2

from resq_onnx.checkpoint.folder import files_of
from resq_onnx.files import refuse_overwriting, replacing, writing_to
from resq_onnx.graph.data_file import data_file
from resq_onnx.graph.inspection import Inspection, inspect_model
from resq_onnx.report import figures
from resq_onnx.report.charts import layer_ratios, spectrum
from resq_onnx.report.inputs import (
    EXPORT,
    Benchmark,
    Evaluation,
    read_benchmark,
    read_evaluation,
    read_summary,
    refusals,
)
from resq_onnx.report.summary import FILE_NAME as SUMMARY_NAME

FILE_NAME: Final = "report.html"
"""Of the page that an export writes."""

TEMPLATE: Final = "page.html.jinja"

WIDE, NARROW = 960, 440
"""Widths of a picture over the whole page, on a screen and on a phone."""

MOST_CURVES: Final = 5
"""Models in one picture of layers: as many as the page has colours for."""

SITES: Final = {
    "hidden": ("Residual stream", "Input of q, k, v, gate and up; one basis for all layers."),
    "value": ("Values", "Output of v_proj; a basis for each layer and kv head."),
    "key": ("Keys", "After rotary embedding; a basis for each layer and kv head."),
    "down": ("Inside the MLP", "Input of down_proj; channels are ordered, layer by layer."),
}
"""By site of the spectra: title, and what is measured there."""


def write_report(
    model: Path,
    target: Path,
    evaluations: Sequence[Path] = (),
    benchmarks: Sequence[Path] = (),
) -> None:
    """Write the page; an older one is replaced by a complete one only.

    Args:
        model: The .onnx file; resq.json is looked for beside it.
        target: The .html file.
        evaluations: Files that `resq-onnx evaluate --json` printed.
        benchmarks: Files that `resq-onnx bench --json` printed.

    Raises:
        ResqError: A file cannot be read, is of another kind, or cannot be written; or the page
            would take the place of one of them.
    """
    beside = (data_file(model), model.with_name(SUMMARY_NAME), *files_of(model.parent))
    refuse_overwriting([target], [model, *beside, *evaluations, *benchmarks])
    page = render_report(
        inspect_model(model),
        [read_evaluation(path) for path in evaluations],
        [read_benchmark(path) for path in benchmarks],
    )
    with writing_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_text(page, encoding="utf-8")


def render_report(
    inspection: Inspection,
    evaluations: Sequence[Evaluation] = (),
    benchmarks: Sequence[Benchmark] = (),
) -> str:
    """The page as text.

    Raises:
        ResqError: The resq.json beside the model cannot be read.
    """
    summary = read_summary(inspection)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"megabytes": figures.megabytes, "number": figures.number}
    with refusals(inspection.path.parent / SUMMARY_NAME, EXPORT):
        content = _content(inspection, summary)
        for evaluation in evaluations:
            content["layers"] += _layers_of(evaluation)
        return environment.get_template(TEMPLATE).render(
            content, evaluations=evaluations, benchmarks=benchmarks
        )


def _content(inspection: Inspection, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of the model itself."""
    recipe = inspection.recipe or summary.get("recipe")
    kinds = figures.stored_kinds(inspection)
    written = datetime.fromtimestamp(inspection.path.stat().st_mtime, tz=UTC)
    quality = _quality(summary)
    layers = quality.get("layer_sqnr_db", [])
    return {
        "title": summary.get("model") or inspection.path.name,
        "file": inspection.path.name,
        "method": figures.method_in_words(recipe),
        "written": f"{written.day} {written:%B %Y}",
        "headlines": figures.headlines(inspection, summary),
        "spectra": [_site(name, record) for name, record in summary.get("spectra", {}).items()],
        "layers": [_layers("Measured by the export", {"": layers})] if layers else [],
        "quality": quality,
        "kinds": kinds,
        "largest_kind": max((kind.bytes for kind in kinds), default=0) or 1,
        "total_bytes": sum(kind.bytes for kind in kinds),
        "operators": inspection.operators,
        "parity": summary.get("parity", {}),
        "recipe": recipe or {},
        "versions": summary.get("versions", {}),
    }


def _layers(about: str, ratios: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """One picture of models' noise, in two widths; the page shows the one that fits."""
    sizes = ((WIDE, "wide"), (NARROW, "narrow"))
    return {
        "about": about,
        "names": list(ratios) if len(ratios) > 1 else [],
        "pictures": [layer_ratios(list(ratios.values()), width, css) for width, css in sizes],
    }


def _layers_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    found = {one.path: one.layer_sqnr_db for one in evaluation.models if one.layer_sqnr_db}
    shown = dict(list(found.items())[:MOST_CURVES])
    return [_layers(f"{evaluation.text}, against {evaluation.reference}", shown)] if shown else []


def _site(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    title, about = SITES.get(name, (name, ""))
    return {
        "title": title,
        "about": about,
        "picture": spectrum(title, record),
        "share": figures.share_in_words(record["high_share"]),
        **record,
    }


def _quality(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The distance from the float model, with the standard error of the perplexity ratio."""
    quality = dict(summary.get("quality") or {})
    if quality and summary.get("format_version") == 1:  # it was that of the ratio's logarithm
        quality["standard_error"] *= quality["perplexity_ratio"]
    return quality
