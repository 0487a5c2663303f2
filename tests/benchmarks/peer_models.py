"""Prepares each peer's form of one model, from one .gguf file, under a folder that is kept.

| folder        | what                                                                         |
|---------------|------------------------------------------------------------------------------|
| ours          | `resq-onnx export`                                                           |
| ours_…        | `resq-onnx export` for another runtime, or in another format                 |
| float32       | `resq-onnx export --method none`                                             |
| huggingface   | the .gguf file dequantised to float32 safetensors                            |
| genai         | onnxruntime-genai's builder: int4, block 32, accuracy level 4, last logits   |
| genai_cuda_…  | the same builder for CUDA: float16, or int4 in blocks of 32 with float16     |
| llama_cpp     | a .gguf file of Q4_0; what was not Q4_1 (embedding and head: Q8_0) stays     |
| openvino      | OpenVINO's own reading of that file, saved                                   |
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Workshop:
    """Where models come from and go to.

    Attributes:
        source: The .gguf file.
        folder: Gets one folder for each form.
        python: The interpreter that has the peers' packages.
    """

    source: Path
    folder: Path
    python: str

    def prepared(self, form: str) -> Path:
        """The folder of a form, made first where it is missing: complete, or not there."""
        target = self.folder / form
        if not target.is_dir():
            print(f"preparing {target}", file=sys.stderr)
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as unfinished:
                made = Path(unfinished) / form
                made.mkdir()
                FORMS[form](self, made)
                made.rename(target)
        return target


def _export(*options: str) -> Callable[[Workshop, Path], None]:
    def export(shop: Workshop, target: Path) -> None:
        command = [sys.executable, "-m", "resq_onnx", "export"]
        model = str(target / "model.onnx")
        _run([*command, str(shop.source), model, "--logits", "last", *options])

    return export


def _huggingface(shop: Workshop, target: Path) -> None:
    from resq_onnx.checkpoint.gguf import unpack_gguf

    unpack_gguf(shop.source, target)


def _genai(precision: str, device: str, *options: str) -> Callable[[Workshop, Path], None]:
    def build(shop: Workshop, target: Path) -> None:
        source = str(shop.prepared("huggingface"))
        with tempfile.TemporaryDirectory() as cache:
            builder = [shop.python, "-m", "onnxruntime_genai.models.builder"]
            builder += ["-i", source, "-o", str(target), "-c", cache, "-p", precision]
            _run([*builder, "-e", device, "--extra_options", "prune_lm_head=true", *options])

    return build


def _llama_cpp(shop: Workshop, target: Path) -> None:
    """Copy every field and tensor; those of Q4_1 become Q4_0."""
    import gguf

    old, new = gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_0
    reader = gguf.GGUFReader(shop.source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target / "model.gguf", architecture)
    for field in reader.fields.values():
        if field.name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
        elif field.name != "general.architecture" and not field.name.startswith("GGUF."):
            is_array = field.types[0] == gguf.GGUFValueType.ARRAY
            element = field.types[-1] if is_array else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == old:
            data, kind = gguf.quants.quantize(gguf.quants.dequantize(data, old), new), new
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _openvino(shop: Workshop, target: Path) -> None:
    copy = target / "model.gguf"
    shutil.copyfile(shop.prepared("llama_cpp") / "model.gguf", copy)
    program = "import sys, openvino_genai as g; "
    program += "g.LLMPipeline(sys.argv[1], 'CPU', enable_save_ov_model=True)"
    _run([shop.python, "-c", program, str(copy)])
    copy.unlink()
    if not (target / "openvino_model.xml").is_file():
        raise RuntimeError("OpenVINO GenAI did not save the model it read from the .gguf file")


def _run(command: list[str]) -> None:
    """Run a program, and show what it printed if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


FORMS: Final[dict[str, Callable[[Workshop, Path], None]]] = {
    "ours": _export(),
    "ours_float16": _export("--dtype", "float16"),
    "ours_genai": _export("--target", "genai"),
    "ours_openvino": _export("--target", "openvino"),
    "ours_portable": _export("--target", "portable"),
    "ours_contrib": _export("--format", "contrib"),
    "ours_contrib_int8": _export("--format", "contrib", "--cache", "int8"),
    "float32": _export("--method", "none"),
    "huggingface": _huggingface,
    "genai": _genai("int4", "cpu", "accuracy_level=4", "block_size=32"),
    "genai_cuda_float16": _genai("fp16", "cuda"),
    "genai_cuda_int4": _genai("int4", "cuda", "block_size=32"),
    "llama_cpp": _llama_cpp,
    "openvino": _openvino,
}
"""By name of a form, what fills its empty folder."""
