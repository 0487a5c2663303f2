"""Texts that follow random JSON schemas, whatever the logits are; and schemas made to do harm."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime import Tokenizer
from resq_onnx.runtime.constraints import MAX_SCHEMA, Constraint, Constraints
from resq_onnx.runtime.sampling import Sampler
from tests.byte_tokenizer import byte_tokenizer

SCHEMAS: Final = 200
MERGED: Final = [
    '{"',
    '":',
    ", ",
    '"}',
    "true",
    "null",
    "12",
    "a\N{LATIN SMALL LETTER O WITH STROKE}",
]
STOP: Final = 256 + len(MERGED)
PADDED: Final = STOP + 10
"""Logits, of which the last few belong to no token."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer(MERGED)


@pytest.fixture(scope="module")
def constraints(tokenizer: Tokenizer) -> Constraints:
    return Constraints(tokenizer, PADDED)


def write(constraint: Constraint, tokenizer: Tokenizer, rng: np.random.Generator) -> str:
    """A text by random logits, which like to end what they have begun."""
    sampler = Sampler(1.0, seed=int(rng.integers(2**32)))
    liked = tokenizer.encode('"}], ', add_special_tokens=False)
    ids = list[int]()
    while not constraint.is_complete:
        logits = rng.normal(size=PADDED).astype(np.float32)
        logits[liked] += 4
        token = sampler.choose(constraint.applied(logits))
        if token == STOP:
            break
        constraint.note(token)
        ids.append(token)
        assert len(ids) < 5000
    return tokenizer.decode(ids)


def random_schema(rng: np.random.Generator, depth: int) -> dict[str, Any]:
    """A schema of one of the kinds below."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "any_of", "array", "object"]
    kind = kinds[int(rng.integers(len(kinds) if depth else 6))]
    size = int(rng.integers(1, 4))
    inner = [random_schema(rng, depth - 1) for _ in range(size)] if depth else []
    match kind:
        case "string":
            low = int(rng.integers(0, 4))
            return {"type": kind, "minLength": low, "maxLength": low + size}
        case "integer" | "number":
            low = int(rng.integers(-50, 50))
            return {"type": kind, "minimum": low, "maximum": low + size}
        case "enum":
            values = ["a", "\u00f8\u2603", 1, -2.5, True, None, 'a"b\\']
            return {"enum": [values[int(place)] for place in rng.permutation(len(values))[:size]]}
        case "any_of":
            return {"anyOf": inner}
        case "array":
            return {"type": kind, "items": inner[0], "minItems": size - 1, "maxItems": size + 1}
        case "object":
            names = [f"n{place} \u00f8" for place in range(size)]
            needed = names[: int(rng.integers(0, size + 1))]
            properties = dict(zip(names, inner, strict=True))
            return {"type": kind, "properties": properties, "required": needed,
                    "additionalProperties": False}  # fmt: skip
    return {"type": kind}


TYPES: Final[dict[str, Any]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
    "array": list, "object": dict,
}  # fmt: skip


def follows(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is one of a random schema."""
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    if "anyOf" in schema:
        return any(follows(value, one) for one in schema["anyOf"])
    kind = schema["type"]
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
        return False
    size = len(value) if kind in ("string", "array") else value
    if kind in ("string", "array", "integer", "number"):
        words = {"array": "Items", "string": "Length"}.get(kind, "imum")
        if not schema[f"min{words}"] <= size <= schema[f"max{words}"]:
            return False
    if kind == "array":
        return all(follows(one, schema["items"]) for one in value)
    if kind == "object":
        known = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(known) and all(
            follows(one, known[name]) for name, one in value.items()
        )
    return True


def test_texts_of_random_schemas_parse_and_follow_them(
    constraints: Constraints, tokenizer: Tokenizer
) -> None:
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(SCHEMAS):
        schema = random_schema(rng, 3)
        text = write(constraints.of_schema(schema), tokenizer, rng)
        assert follows(json.loads(text), schema), (text, schema)
        texts.add(text)
    assert len(texts) > SCHEMAS / 2


def test_any_object_parses_whatever_keys_it_has(
    constraints: Constraints, tokenizer: Tokenizer
) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        text = write(constraints.of_schema({"type": "object"}), tokenizer, rng)
        assert isinstance(json.loads(text), dict)


def test_a_copy_goes_its_own_way(constraints: Constraints, tokenizer: Tokenizer) -> None:
    first = constraints.of_schema({"enum": ["x", "y"]})
    for token in tokenizer.encode('"', add_special_tokens=False):
        first.note(token)
    other = first.copy()
    (x,) = tokenizer.encode("x", add_special_tokens=False)
    other.note(x)
    assert first.allowed()[x]
    assert not other.allowed()[x]
    with pytest.raises(ResqError):
        other.note(x)


def test_numbers_of_logits_without_a_token_are_never_allowed(constraints: Constraints) -> None:
    allowed = constraints.of_schema({"type": "string"}).allowed()
    assert allowed.shape == (PADDED,)
    assert not allowed[STOP + 1 :].any()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strng"}, "Invalid type: strng"),
        ({"not": {}}, "Unimplemented keys"),
        ({"not": {}, "x-guidance": {"lenient": True}}, "Unimplemented keys"),
        ({"type": "string", "pattern": "("}, "regex parse error.*unclosed group"),
        ({"$ref": "#/$defs/nowhere"}, "does not exist"),
        ({"$ref": "http://example.com/schema.json"}, "not present"),
        ({"$ref": "#"}, "no JSON text of finite length"),
        ({"enum": []}, "Unsatisfiable"),
        ({"title": "x" * MAX_SCHEMA}, "at most 65536 are taken"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_with_the_reason(
    constraints: Constraints, schema: dict[str, Any], message: str
) -> None:
    with pytest.raises(ResqError, match=message):
        constraints.of_schema(schema)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubled(combined: str) -> dict[str, Any]:
    """A schema that would be 2**25 parts if it were written out."""
    steps = {f"d{i}": {combined: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)}
    return {"$defs": steps | {"d25": {"type": "string"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "string", "pattern": "(a|b)*a(a|b){60}$"},
        {"type": "string", "pattern": "^(.*a.*b.*c.*){50}x{1,50}(.*d.*){50}$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "items": {"type": "array", "minItems": 10**6}, "minItems": 10**6},
        {"type": "integer", "multipleOf": 7919 * 104729},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}},
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(6)]} for i in range(8)]},
        {"enum": [f"v{i}" for i in range(5000)]},
        doubled("allOf"),
        doubled("anyOf"),
        nested(400),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_schema_made_to_do_harm_takes_little_time_and_memory(
    constraints: Constraints, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    rng = np.random.default_rng(0)
    try:
        constraint = constraints.of_schema(schema)
        for _ in range(40):
            token = int(constraint.applied(rng.normal(size=PADDED)).argmax())
            if token == STOP or constraint.is_complete:
                break
            constraint.note(token)
    except ResqError:
        pass
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_without_llguidance_a_schema_is_refused(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ResqError, match=r"install resq-onnx\[serve\]"):
        constraints.of_schema({"type": "object"})
