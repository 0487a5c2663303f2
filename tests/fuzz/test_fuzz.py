"""The fuzzer finds nothing in a few hundred inputs, and finds what is planted."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.fuzz import supervisor
from tests.fuzz.cases import KINDS, make_case
from tests.fuzz.inputs import Inputs, make_inputs
from tests.fuzz.supervisor import run_cases
from tests.fuzz.worker import FAULT_VARIABLE, digests, findings

COUNT = 200


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("fuzz") / "inputs")


@pytest.mark.slow
def test_damaged_inputs_end_in_one_line(inputs: Inputs) -> None:
    found = list(run_cases(inputs, seed=0, indices=range(COUNT)))
    assert len(found) == COUNT
    assert [case for case in found if case["wrong"]] == []
    # A fuzzer that is refused always, or never, tries nothing.
    assert any(case["code"] for case in found)
    assert any(not case["code"] for case in found)
    assert {"serve", "web", "served", "bench", "site"} <= {case["kind"] for case in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "Error: unexpected IndexError"),
        ("hang", "no end in"),
        ("crash", "crashed (-6)"),
        ("change", "has changed: model.onnx"),
    ],
)
def test_a_planted_fault_is_found(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv(FAULT_VARIABLE, fault)
    monkeypatch.setattr(supervisor, "PATIENCE", 10.0)
    inspected = (index for index in itertools.count() if command_of(inputs, index) == "inspect")
    (case,) = run_cases(inputs, seed=0, indices=itertools.islice(inspected, 1))
    assert words in case["wrong"][0]


def command_of(inputs: Inputs, index: int) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        return next(iter(make_case(0, index, inputs, Path(folder) / "at").command), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("serve", "unexpected error: IndexError('planted')"),
        ("web", "web raised IndexError('planted')"),
    ],
)
def test_a_fault_of_a_server_is_found(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, server: str, words: str
) -> None:
    monkeypatch.setenv(FAULT_VARIABLE, server)
    found = [one["wrong"] for one in run_cases(inputs, 0, range(8), only=[server])]
    assert words in itertools.chain(*found)


@pytest.mark.slow
def test_the_same_numbers_make_the_same_case_and_every_kind_comes(
    inputs: Inputs, tmp_path: Path
) -> None:
    places = (tmp_path / "at" for _ in itertools.count())
    seen = set()
    for index in range(120):
        first, second = cases_at(inputs, places, index)
        assert first == second
        seen.add(first[0])
    assert len(seen) > len(KINDS) // 2


def cases_at(
    inputs: Inputs, places: Iterator[Path], index: int
) -> list[tuple[str, str, bytes, dict[Path, str]]]:
    made = []
    for at in itertools.islice(places, 2):
        case = make_case(7, index, inputs, at)
        files = {path.relative_to(at): digest for path, digest in digests(at).items()}
        made.append((case.kind, case.done, case.sent, files))
        shutil.rmtree(at, ignore_errors=True)  # a request needs no files
    return made


def ended(code: int, stderr: str, exception: BaseException | None = None) -> Result:
    @click.command()
    def command() -> None:
        click.echo(stderr, err=True, nl=False)
        if exception is not None:
            raise exception
        raise SystemExit(code)

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        (ended(0, ""), None),
        (ended(1, "Warning: x\nError: x: no such file\n"), None),
        (ended(1, "Error: unexpected KeyError: 'a'\n"), "Error: unexpected"),
        (ended(1, ""), "exit 1 with 0 lines of error"),
        (ended(1, "Error: a\nError: b\n"), "exit 1 with 2 lines of error"),
        (ended(0, "Error: a\n"), "status 0 with an error"),
        (ended(1, "Error: a\nTraceback (most recent call last)\n"), "a traceback"),
        (ended(0, "", ValueError("x")), "raised ValueError: x"),
    ],
)
def test_how_a_command_may_end(result: Result, wrong: str | None) -> None:
    found = findings(result, {}, {})
    assert (found == []) if wrong is None else found[0].startswith(wrong)


def test_an_input_that_changed_or_is_gone_is_found(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("as it was")
    before = digests(tmp_path)
    assert findings(ended(0, ""), before, digests(tmp_path)) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    (tmp_path / "new").touch()
    assert findings(ended(0, ""), before, digests(tmp_path)) == ["has changed: a, b"]
