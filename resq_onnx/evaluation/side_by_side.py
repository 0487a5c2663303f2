"""evaluate_files(): models, named by their files, side by side on one text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import Evaluation, Windowing, evaluate_models
from resq_onnx.evaluation.subjects import HowToRun, Subject, open_subject
from resq_onnx.progress import Progress


@dataclass(frozen=True)
class FileEvaluation:
    """One model, and what was measured of it.

    Attributes:
        path: As the user gave it.
        bytes: Size of the files it was read from.
        evaluation: What was measured.
    """

    path: Path
    bytes: int
    evaluation: Evaluation


def evaluate_files(
    paths: Sequence[Path],
    document: str,
    windowing: Windowing,
    how: HowToRun,
    reference: Path | None = None,
    progress: Progress | None = None,
) -> list[FileEvaluation]:
    """Measure models on a text.

    Without a reference one model is open at a time. With one all are, and each window goes through
    all of them; a model that is the reference itself is opened and run once.

    Args:
        paths: Exported .onnx files, Hugging Face directories, .gguf files.
        document: The text.
        windowing: How it is cut into windows.
        how: How the models are run; `layers` asks for the noise in each layer's output, and needs
            a reference.
        reference: What to measure the distance from; of the same kinds.
        progress: Receives progress updates.

    Raises:
        ResqError: A model cannot be opened or run, the text is too short, or models do not fit the
            reference.
    """
    progress = progress or Progress()
    if reference is None:
        return list(_one_by_one(paths, document, windowing, how, progress))
    with ExitStack() as stack:
        subjects: dict[Path, Subject] = {}
        for path in (reference, *paths):
            if path.resolve() not in subjects:
                progress.step(f"Opening {path.name}")
                subjects[path.resolve()] = stack.enter_context(open_subject(path, how))
        against = subjects[reference.resolve()]
        ids = _same_ids(against, subjects.values(), document)
        progress.step("Evaluating")
        measured = [subjects[path.resolve()] for path in paths]
        evaluations = evaluate_models(
            [subject.model for subject in measured],
            ids,
            dataclasses.replace(windowing, opening=against.opening),
            reference=against.model,
            per_layer=how.layers,
            progress=progress.advance,
        )
        found = zip(paths, measured, evaluations, strict=True)
        return [
            FileEvaluation(path, subject.bytes, evaluation) for path, subject, evaluation in found
        ]


def _one_by_one(
    paths: Sequence[Path], document: str, windowing: Windowing, how: HowToRun, progress: Progress
) -> Iterator[FileEvaluation]:
    for path in paths:
        progress.step(f"Evaluating {path.name}")
        with open_subject(path, how) as subject:
            ids = subject.encode(document)
            begun = dataclasses.replace(windowing, opening=subject.opening)
            (evaluation,) = evaluate_models([subject.model], ids, begun, progress=progress.advance)
            yield FileEvaluation(path, subject.bytes, evaluation)


def _same_ids(reference: Subject, subjects: Iterable[Subject], document: str) -> NDArray[np.int64]:
    """The text's token ids, if all agree about them: else there is nothing to compare."""
    expected = _read(reference, document)
    for subject in subjects:
        if subject is reference:
            continue
        found = _read(subject, document)
        if not np.array_equal(found, expected):
            common = min(len(found), len(expected))
            differing = np.flatnonzero(found[:common] != expected[:common])
            place = int(differing[0]) if differing.size else common
            raise ResqError(
                f"{subject.path}: its tokenizer makes {len(found)} tokens of the text, the "
                f"reference's {len(expected)}, and token {place} is the first to differ; models "
                f"can be compared only if they read the same tokens"
            )
    return expected[len(reference.opening) :]


def _read(subject: Subject, document: str) -> NDArray[np.int64]:
    return np.asarray([*subject.opening, *subject.encode(document)], np.int64)
