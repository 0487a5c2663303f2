"""Damage to files: of their bytes, and of what the bytes say."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnx

DEEP: Final = 100_000

STRANGE: Final[tuple[Any, ...]] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 255, 256, 257, 2**31, 2**32, 2**63, 10**30),
    *(0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "\ud800", "\0", "../../etc/passwd", "x" * 5000, "é", "{{ a", "{% for %}"),
    *([], [[]], [None], ["x"], [0, -1], {}, {"a": 1}, {"": {}}),
)
"""Values of JSON that are seldom meant."""

EXTREMES: Final = (0, 1, 2, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)

STRANGE_RECIPE: Final = json.dumps({"method": 5, "low_bits": None, "high_fraction": "x"})

Dice = random.Random


def damage_file(path: Path, dice: Dice) -> str:
    """Damage a file by what its name says it is; returns what was done."""
    if dice.random() < 0.03:
        return _replaced(path, dice)
    of_kind = {
        ".json": _damage_json,
        ".safetensors": _damage_safetensors,
        ".onnx": _damage_onnx,
        ".jinja": _damage_template,
        ".jsonl": _damage_lines,
        ".gguf": _damage_gguf,
    }.get(path.suffix)
    if of_kind is None or dice.random() < 0.2:
        return _damage_file_bytes(path, dice)
    return of_kind(path, dice)


def _replaced(path: Path, dice: Dice) -> str:
    """Something else under its name, or nothing."""
    path.unlink()
    match what := dice.choice(["nothing", "empty", "folder", "deep", "zeros", "dangling"]):
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "deep":
            path.write_text("[" * DEEP)
        case "zeros":
            path.write_bytes(bytes(1000))
        case "dangling":
            path.symlink_to("nowhere")
    return what


def _damage_file_bytes(path: Path, dice: Dice) -> str:
    data = bytearray(path.read_bytes())
    done = damage_bytes(data, dice)
    path.write_bytes(data)
    return done


def _damage_gguf(path: Path, dice: Dice) -> str:
    """Damage one entry of the metadata, which is most of what can be misunderstood."""
    data = bytearray(path.read_bytes())
    names = list(re.finditer(rb"(?:general|llama|tokenizer)\.[a-z_.]{2,40}", data))
    name = dice.choice(names)
    begin = name.start() - 8 if dice.random() < 0.2 else name.end()
    part = data[begin:]
    done = damage_bytes(part, dice, (4, 12, 24, 100))
    path.write_bytes(data[:begin] + part)
    return f"{name[0].decode()}: {done}"


def damage_bytes(data: bytearray, dice: Dice, reaches: Sequence[int] = (16, 200, 2000)) -> str:
    """Damage bytes in place, within one of the reaches or anywhere; returns what was done."""
    # What says how the rest is to be read comes first in most formats.
    reach = dice.choice([*reaches, len(data)])
    place = dice.randrange(max(1, min(len(data), reach)))
    match what := dice.choice(["cut", "flip", "integer", "insert", "remove", "append", "text"]):
        case "cut":
            del data[place:]
        case "flip":
            for _ in range(dice.choice([1, 1, 8])):
                if data:
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case "integer":
            form = dice.choice(["<B", "<H", "<I", "<Q"])
            size = struct.calcsize(form)
            number = dice.choice(EXTREMES) % 256**size
            data[place : place + size] = struct.pack(form, number)
        case "insert":
            data[place:place] = dice.randbytes(dice.choice([1, 4, 100]))
        case "remove":
            del data[place : place + dice.choice([1, 4, 100])]
        case "append":
            data += dice.randbytes(dice.choice([1, 8, 1000]))
        case "text":
            data[place:place] = dice.choice([b"\xff", b"\xef\xbb\xbf", b"\0", b"\xed\xa0\x80"])
    return f"{what} at {place}"


def _damage_json(path: Path, dice: Dice) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    content, done = damage_value(content, dice)
    path.write_text(json.dumps(content), encoding="utf-8")
    return done


def damage_value(content: Any, dice: Dice) -> tuple[Any, str]:
    """Change one or two places of a tree of JSON."""
    done = []
    for _ in range(dice.choice([1, 1, 2])):
        place, name = _some_place(content, dice)
        if place is None:
            return dice.choice(STRANGE), "all of it"
        match dice.choice(["remove", "strange", "strange", "strange", "wrap", "near", "double"]):
            case "remove":
                place.pop(name)
                done.append(f"{name} removed")
                continue
            case "strange":
                place[name] = dice.choice(STRANGE)
            case "wrap":
                place[name] = [place[name]]
            case "near":
                place[name] = _near(place[name], dice)
            case "double":
                place[name] = [place[name], place[name]]
        done.append(f"{name} = {place[name]!r}"[:80])
    return content, ", ".join(done)


def _some_place(content: Any, dice: Dice) -> tuple[Any, Any]:
    """A container in the tree and a key of it; None for a tree without any."""
    place, name = None, None
    while isinstance(content, dict | list) and content:
        keys = list(content) if isinstance(content, dict) else range(min(len(content), 50))
        place, name = content, dice.choice(keys)
        content = content[name]
        if dice.random() < 0.3:
            break
    return place, name


def _near(value: Any, dice: Dice) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return dice.choice([value + 1, value - 1, 2 * value, -value, value * 10**9, str(value)])
    if isinstance(value, str):
        return dice.choice([value[:-1], f"{value}x", value.upper(), f"{value}\ud800", 5])
    if value is None:
        return 0
    return list(value) if isinstance(value, dict) else dict.fromkeys(map(str, value), 1)


def _damage_safetensors(path: Path, dice: Dice) -> str:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, done = damage_value(json.loads(data[8 : 8 + length]), dice)
    text = json.dumps(header).encode()
    said = len(text) if dice.random() < 0.9 else dice.choice(EXTREMES)
    path.write_bytes(struct.pack("<Q", said) + text + data[8 + length :])
    return done


def _damage_lines(path: Path, dice: Dice) -> str:
    lines = path.read_text().splitlines()
    place = dice.randrange(len(lines))
    content, done = damage_value(json.loads(lines[place]), dice)
    lines[place] = json.dumps(content)
    path.write_text("\n".join(lines))
    return f"line {place}: {done}"


def _damage_template(path: Path, dice: Dice) -> str:
    text = path.read_text()
    place = dice.randrange(len(text))
    pieces = ["{{", "}}", "{%", "%}", "{% for %}", "{{ x.y.z }}", "{{ 1/0 }}", "{{ ''.__class__ }}"]
    piece = dice.choice([*pieces, "{% include 'a' %}", "{{ messages[9] }}", "{{ [] | first }}"])
    path.write_text(text[:place] + piece + text[place + dice.choice([0, 1, 5]) :])
    return f"{piece} at {place}"


def _damage_onnx(path: Path, dice: Dice) -> str:
    """Change one message of the graph."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    node, tensor = dice.choice(list(graph.node)), dice.choice(list(graph.initializer))
    value = dice.choice([*graph.input, *graph.output])
    match what := dice.choice(
        ["node", "input", "output", "attribute", "place", "dims", "type", "value", "metadata", "op"]
    ):
        case "node":
            graph.node.remove(node)
        case "input" if node.input:
            node.input[dice.randrange(len(node.input))] = dice.choice(["", "x", tensor.name])
        case "output" if node.output:
            node.output[0] = dice.choice(["", "x", value.name])
        case "attribute" if node.attribute:
            attribute = dice.choice(list(node.attribute))
            attribute.i, attribute.f = dice.choice([-1, 0, 1, 2**40]), float("nan")
        case "place" if tensor.external_data:
            entry = dice.choice(list(tensor.external_data))
            entry.value = dice.choice(["-1", "x", "", str(2**63), "../x", "\u00e9", "4"])
        case "dims":
            del tensor.dims[:]
            tensor.dims.extend(dice.choice([[0], [-1], [2**40, 2**40], [1] * 30, [2**62], []]))
        case "type":
            tensor.data_type = dice.randrange(30)
        case "value":
            value.type.tensor_type.elem_type = dice.randrange(30)
            dims = value.type.tensor_type.shape.dim
            if dims:
                dice.choice(list(dims)).dim_value = dice.choice([-1, 0, 1, 2**40])
        case "metadata" if model.metadata_props:
            dice.choice(list(model.metadata_props)).value = dice.choice(
                ["", "{", "[1]", "null", "{}", STRANGE_RECIPE]
            )
        case _:
            node.op_type = dice.choice(["", "MatMul", "Nothing", node.op_type.lower()])
            node.domain = dice.choice(["", "ai.resq", "x", "com.microsoft"])
    path.write_bytes(model.SerializeToString())
    return what
