"""Devices and work folders of a computation, by its `Resources`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.files import reading
from resq_onnx.files.work_folder import WorkFolder, usual_folder, working
from resq_onnx.progress import Progress
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources


def torch_device(device: str) -> str:
    """PyTorch's name of a device: `auto` is a GPU if there is one.

    Raises:
        ResqError: There is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ResqError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(device.partition(":")[2] or 0)
    if device != "cpu" and number >= count:
        there = f"there are {count}" if count else "PyTorch finds no GPU"
        raise ResqError(f"device is {device}, and {there}; use --device cpu")
    return device


@contextmanager
def opened_work(
    target: Path,
    source: ModelSource,
    recipe: Recipe,
    resources: Resources,
    progress: Progress,
    projections: str | Path | None = None,
) -> Iterator[WorkFolder]:
    """Open the work folder of an output; processes beside the first wait until it is there.

    Raises:
        ResqError: As for `files.work_folder.working`.
    """
    folder, share = resources.work or usual_folder(target), share_of_this_process()
    if share.rank > 0:
        share.wait()
        yield WorkFolder(folder)
        share.wait()
        return
    identity = {
        "model": source.digest,
        "recipe": recipe.to_json(),
        "calibration": _digest(recipe.calibration),
        "projections": None if projections is None else _digest(projections),
        "device": torch_device(resources.device),
        "processes": share.size,
        "torch": torch.__version__,
    }
    try:
        with working(target, identity, folder, fresh=resources.fresh) as (work, changed):
            if changed:
                progress.warn(
                    f"{folder}: holds parts of another run ({', '.join(changed)} changed); they "
                    "are removed"
                )
            share.wait()
            yield work
            share.wait()
    except BaseException:
        if WorkFolder(folder).holds_parts:
            progress.warn(
                f"{folder}: holds what is finished, and the same command goes on from there; "
                "--fresh starts anew, or remove the folder"
            )
        raise


def _digest(path: Any) -> str | None:
    """SHA-256 of a file; None if there is none, as of a data set's name."""
    path = Path(path)
    if not path.is_file():
        return None
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
