"""The tables of docs/quality.md: rows, seeds, and what is measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import quality_table
from scripts.quality_rows import DEFAULT, FLOAT, TABLES, Row
from scripts.quality_table import Bench, print_table

PERPLEXITIES = {"float": 40.0, "resq": 44.0, "resq-seed-1": 46.0, "resq-seed-2": 48.0}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "model", tmp_path, "text", 8, Path("held-out.txt"), 2)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a table runs; each evaluation finds what `PERPLEXITIES` says."""
    ran: list[list[str]] = []

    def run(arguments: list[str]) -> str:
        ran.append(arguments)
        if arguments[0] == "calibrate":
            Path(arguments[2]).touch()
        if arguments[0] == "export":
            Path(arguments[2]).parent.mkdir()
            Path(arguments[2]).write_bytes(bytes(1_500_000))
        if arguments[0] != "evaluate":
            return ""
        found = {"perplexity": PERPLEXITIES[Path(arguments[1]).parent.name]}
        if "--reference" in arguments:
            found |= {"kl_divergence": 0.125, "top1_agreement": 0.75}
        return json.dumps({"models": {arguments[1]: found}})

    monkeypatch.setattr(quality_table, "run", run)
    return ran


@pytest.fixture
def lines_of(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    def printed(*seeds: int) -> list[str]:
        print_table(bench, [FLOAT, DEFAULT], seeds)
        return capsys.readouterr().out.splitlines()

    return printed


def test_a_line_of_one_seed_has_its_own_figures(
    commands: list[list[str]], lines_of: Callable[..., list[str]]
) -> None:
    lines = lines_of(0)
    assert "| float32, as traced | 40.000 | 1.0000 | 1.5 |" in lines
    assert "| `resq` (default) | 44.000 | 1.1000 | 1.5 |" in lines
    exports = [one for one in commands if one[0] == "export"]
    assert [Path(one[2]).parent.name for one in exports] == ["float", "resq"]


def test_a_line_of_several_seeds_has_mean_and_spread(
    commands: list[list[str]], lines_of: Callable[..., list[str]]
) -> None:
    lines = lines_of(0, 1, 2)
    assert "| float32, as traced | 40.000 | 1.0000 | 1.5 |" in lines
    assert "| `resq` (default) | 46.000 | 1.150 ± 0.050 | 1.5 |" in lines
    seeds = [one[one.index("--seed") + 1] for one in commands if "--seed" in one]
    assert seeds == ["1", "2"]
    ran = len(commands)
    assert lines_of(0, 1, 2) == lines
    assert len(commands) == ran


def test_divergences_are_measured_besides(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "m", tmp_path, "text", 8, Path("t"), 2, divergence=True)
    print_table(bench, [DEFAULT])
    assert (
        "| `resq` (default) | 44.000 | 1.1000 | 1.5 | 0.1250 | 75.0% |" in capsys.readouterr().out
    )
    assert commands[-1][-3:] == ["--reference", str(tmp_path / "m"), "--json"]


def test_no_other_seeds_are_exported(
    commands: list[list[str]], lines_of: Callable[..., list[str]]
) -> None:
    lines = lines_of(1, 2)
    assert "| `resq` (default) | 47.000 | 1.175 ± 0.035 | 1.5 |" in lines
    assert "seed 1, 2" in lines[-1]
    exports = [one for one in commands if one[0] == "export"]
    assert [Path(one[2]).parent.name for one in exports] == ["float", "resq-seed-1", "resq-seed-2"]


@pytest.mark.parametrize("row", TABLES["exports"], ids=lambda row: row.file)
def test_rows_are_not_tuned_unless_they_say_so(row: Row) -> None:
    assert ("--tune" in row.arguments) == (row != DEFAULT)
    assert row.with_seed(3).arguments.count("3") == 1
    assert row.with_seed(0) is row
