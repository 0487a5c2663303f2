"""The site: which address has which file, and what the page is told of the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.files import copy_file, find_model, writing_to
from resq_onnx.files.checks import check_stays_inside
from resq_onnx.files.contents import read_json
from resq_onnx.graph.data_file import check_data, data_file
from resq_onnx.runtime.tokenizer import Tokenizer

PAGE: Final = Path(__file__).parent / "page"
MANIFEST: Final = "manifest.json"

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Site:
    """A page for one model.

    Attributes:
        files: By address, without the first slash, each file that is served.
        manifest: What the page is told, as JSON at the address `manifest.json`.
    """

    files: Mapping[str, Path]
    manifest: Mapping[str, Any]


def make_site(model: Path, packages: Mapping[str, Path]) -> Site:
    """Put together the page, what it needs from npm, and a model.

    Args:
        model: The .onnx file, or a folder that holds one.
        packages: As `fetch_packages` returned them.

    Raises:
        ResqError: There is no such model, its tokenizer is missing, the data is another model's,
            or a file is a link out of the folder.
    """
    model = find_model(model)
    check_data(model)
    tokenizer = Tokenizer.load(model.parent)
    parts = [path for path in (model, data_file(model)) if path.is_file()]
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.is_file()}
    files |= {f"vendor/{name}": path for name, path in packages.items()}
    files |= {f"model/{path.name}": path for path in parts}
    for name in TOKENIZER_FILES:
        if (model.parent / name).is_file():
            files[f"model/{name}"] = model.parent / name
    for address, path in files.items():
        if address.startswith("model/"):
            check_stays_inside(path)
    summary = model.parent / "resq.json"
    said = read_json(summary, "export the model again", optional=True)
    manifest = {
        "name": str(said.get("model") or "") or model.resolve().parent.name,
        "graph": model.name,
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in parts],
        "has_tokenizer_config": "model/tokenizer_config.json" in files,
        "stop_ids": sorted(tokenizer.stop_ids),
        "special_tokens": dict(tokenizer.special_tokens),
        "chat_template": tokenizer.chat_template,
    }
    return Site(files, manifest)


def write_site(site: Site, folder: Path) -> None:
    """Copy a site into a folder that any server can serve.

    Threads run where that server sends `Cross-Origin-Opener-Policy: same-origin` and
    `Cross-Origin-Embedder-Policy: require-corp`; without these headers the page uses one.

    Raises:
        ResqError: The folder is there already and not empty, or cannot be written; nothing is
            left of the site then.
    """
    with writing_to(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ResqError(f"{folder}: is there already and not empty; name a new folder")
        with _whole_or_not(folder):
            for address, path in site.files.items():
                target = folder / address
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_file(path, target)
            (folder / MANIFEST).write_text(json.dumps(site.manifest, indent=2) + "\n")


@contextmanager
def _whole_or_not(folder: Path) -> Iterator[None]:
    """Remove what was written into an empty or new folder, and that, if not all of it could be."""
    there = [one for one in (folder, *folder.parents) if one.exists()]
    try:
        yield
    except BaseException:  # Ctrl-C too
        for path in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for one in (folder, *folder.parents):
            if one in there:
                break
            with suppress(OSError):
                one.rmdir()
        raise
