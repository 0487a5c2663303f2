"""The site: which address has which file, and what the page is told of the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file, model_files, writing_to
from resq_onnx.reading import read_json
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
        ResqError: There is no such model, or its tokenizer is missing.
    """
    model = _find_model(model)
    tokenizer = Tokenizer.load(model.parent)
    parts = [model, *sorted(model.parent.glob(f"{model.name}.data*"))]
    files = {path.name: path for path in sorted(PAGE.iterdir()) if path.is_file()}
    files |= {f"vendor/{name}": path for name, path in packages.items()}
    files |= {f"model/{path.name}": path for path in parts}
    for name in TOKENIZER_FILES:
        if (model.parent / name).is_file():
            files[f"model/{name}"] = model.parent / name
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
        ResqError: The folder is there already and not empty, or cannot be written.
    """
    with writing_to(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ResqError(f"{folder}: is there already and not empty; name a new folder")
        for address, path in site.files.items():
            target = folder / address
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (folder / MANIFEST).write_text(json.dumps(site.manifest, indent=2) + "\n")


def _find_model(path: Path) -> Path:
    if not path.is_dir():
        check_is_file(path)
        return path
    found = model_files(path)
    if len(found) == 1:
        return found[0]
    many = ", ".join(one.name for one in found) or "none"
    raise ResqError(f"{path}: holds no model.onnx, and of other .onnx files {many}; name one")
