"""The hand-declared C ABI against ONNX Runtime's own header, where there is one.

RESQ_ORT_INCLUDE names the folder of onnxruntime_c_api.h. The header of any version from 1.18 on
will do: functions are only ever appended.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.custom_ops.kernels import REPOSITORY

VARIABLE: Final = "RESQ_ORT_INCLUDE"
OURS: Final = REPOSITORY / "custom_ops" / "ort" / "abi.hpp"

SLOT: Final = re.compile(r"using\s+(\w+)\s*=\s*Slot<\s*(\d+)\s*,")
STRUCT: Final = re.compile(r"struct (CustomOp|ApiBase) \{\n(.*?)\n\};", re.DOTALL)
MEMBER: Final = re.compile(r"(?:\(\*(\w+)\)\(|uint32_t (\w+);)")

OFFICIAL_FUNCTION: Final = re.compile(
    r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\(\s*(\w+)\s*\)|ORT_API_CALL\s*\*\s*(\w+)\s*\)"
)
"""In struct OrtApi: a function that returns a status, one that releases a class, any other."""

VALUES: Final = {
    "ErrorCode::kFail": "ORT_FAIL",
    "ErrorCode::kInvalidArgument": "ORT_INVALID_ARGUMENT",
    "ElementType::kUndefined": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED",
    "ElementType::kFloat": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT",
    "ElementType::kUint8": "ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8",
    "ElementType::kInt8": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8",
    "ElementType::kInt64": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64",
    "ElementType::kFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16",
    "ElementType::kBFloat16": "ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16",
    "ElementType::kInt4": "ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4",
    "Characteristic::kRequired": "INPUT_OUTPUT_REQUIRED",
    "Characteristic::kOptional": "INPUT_OUTPUT_OPTIONAL",
    "MemoryType::kDefault": "OrtMemTypeDefault",
}

PROLOGUE: Final = """
#include <cstddef>
#include <type_traits>
#include "onnxruntime_c_api.h"
#include "abi.hpp"

// Two types that are passed in the same way: pointers, or numbers of one size.
template <typename A, typename B>
constexpr bool alike() {
    return (std::is_void_v<A> && std::is_void_v<B>) ||
           (std::is_pointer_v<A> && std::is_pointer_v<B>) ||
           (!std::is_pointer_v<A> && !std::is_pointer_v<B> && sizeof(A) == sizeof(B));
}

template <typename F>
struct Plain { using type = F; };
template <typename R, typename... A>
struct Plain<R (*)(A...) noexcept> { using type = R (*)(A...); };

template <typename F, typename G>
struct Same : std::bool_constant<alike<F, G>()> {};
template <typename R, typename... A, typename S, typename... B>
struct Same<R (*)(A...), S (*)(B...)> {
    static constexpr bool compare() {
        if constexpr (sizeof...(A) == sizeof...(B)) {
            return alike<R, S>() && (alike<A, B>() && ...);
        } else {
            return false;
        }
    }
    static constexpr bool value = compare();
};

template <typename F, typename G>
constexpr bool same = Same<typename Plain<F>::type, typename Plain<G>::type>::value;
"""


def slots() -> dict[str, int]:
    """Every function in use, and its slot."""
    return {name: int(slot) for name, slot in SLOT.findall(OURS.read_text())}


def members() -> list[tuple[str, str]]:
    """Struct and name of every member that is declared by hand."""
    found = STRUCT.findall(OURS.read_text())
    return [
        (struct, function or number)
        for struct, body in found
        for function, number in MEMBER.findall(body)
    ]


def plain(name: str) -> str:
    """A name without what differs in spelling: ours has no underscores."""
    return name.replace("_", "").lower()


def official_names(header: str) -> dict[str, str]:
    """By plain name, the functions of OrtApi as the header spells them."""
    names = [
        status or (f"Release{released}" if released else other)
        for status, released, other in OFFICIAL_FUNCTION.findall(header)
    ]
    return {plain(name): name for name in names}


def program(header: str) -> str:
    """A program that compiles if every declaration agrees with the header."""
    official = official_names(header)
    unknown = [name for name in slots() if plain(name) not in official]
    assert not unknown
    lines = []
    for name, slot in slots().items():
        theirs = official[plain(name)]
        lines.append(f"offsetof(OrtApi, {theirs}) == {slot} * sizeof(void*)")
        lines.append(f"same<resq::ort::{name}::Function, decltype(OrtApi::{theirs})>")
    for struct, name in members():
        mine, theirs = f"resq::ort::{struct}", f"Ort{struct}"
        lines.append(f"offsetof({mine}, {name}) == offsetof({theirs}, {name})")
        lines.append(f"same<decltype({mine}::{name}), decltype({theirs}::{name})>")
    lines += [f"int(resq::ort::{mine}) == int({theirs})" for mine, theirs in VALUES.items()]
    lines.append("resq::ort::kApiVersion <= ORT_API_VERSION")
    return PROLOGUE + "".join(f"static_assert({line});\n" for line in lines)


def test_every_declaration_agrees_with_the_official_header(tmp_path: Path) -> None:
    folder, compiler = os.environ.get(VARIABLE), shutil.which(os.environ.get("CXX", "c++"))
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder with onnxruntime_c_api.h")
    if not compiler:
        pytest.skip("there is no C++ compiler")
    source = tmp_path / "abi.cpp"
    source.write_text(program(Path(folder, "onnxruntime_c_api.h").read_text()))
    includes = [f"-I{folder}", f"-I{OURS.parent}"]
    command = [
        compiler,
        "-std=c++17",
        "-fsyntax-only",
        "-Wno-invalid-offsetof",
        *includes,
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_declaration_is_found() -> None:
    """What this file reads out of abi.hpp is all there is in it."""
    text = OURS.read_text()
    assert len(slots()) == text.count("Slot<")
    structs = [struct for struct, _ in members()]
    assert structs.count("CustomOp") == 26
    assert structs.count("ApiBase") == 2
    enumerators = re.findall(r"enum class (\w+) : int \{(.*?)\}", text, re.DOTALL)
    named = {
        f"{enumeration}::{value}"
        for enumeration, body in enumerators
        for value in re.findall(r"\b(k[A-Z]\w*) =", body)
    }
    assert named == set(VALUES)
