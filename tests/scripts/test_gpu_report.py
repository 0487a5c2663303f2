from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.cuda_block import layer_floor
from scripts.cuda_roofline import card
from scripts.gpu_nbits import key_of
from scripts.gpu_report import COMPARE, HALF, KERNELS, LAYERS, NBITS, Report
from scripts.gpu_results import Device, by_key, time_of
from scripts.gpu_shapes import FULL, kernels, layers
from scripts.gpu_stages import Outcome

H100 = "device capability=90 clock=1 free=80000000000 name=NVIDIA H100 80GB HBM3"
SIMT = "device capability=90 clock=0 free=1 name=simt, this CPU"
LINES = sum(len(one.lines) for one in kernels(FULL))
LAYER = next(layers(FULL))


def passed(name: str, *output: str) -> Outcome:
    return Outcome(name, "passed", 1.5, output)


def report_of(*outcomes: Outcome) -> Report:
    return Report.of({one.name: one for one in outcomes}, FULL)


def half(whole: float, bare: float) -> Outcome:
    record = {"key": LAYER.key, "us": {"whole": whole, "bare": bare}}
    return passed(HALF, '{"torch": "2.11"}', json.dumps(record))


def test_a_device_is_read_with_the_spaces_of_its_name() -> None:
    found = Device.parse(H100)
    assert found == Device("NVIDIA H100 80GB HBM3", True, card("H100"))
    with pytest.raises(ValueError, match="does not describe a device"):
        Device.parse("us=1.0")


def test_an_answer_is_a_time_or_an_error() -> None:
    assert time_of("us=1.25") == 1.25
    assert time_of("error=out of memory") is None


def test_records_without_a_key_are_not_times() -> None:
    assert by_key(['{"torch": "2.11"}', "noise", '{"key": "a", "us": 2.0}']) == {"a": 2.0}


def test_a_kernel_is_the_sum_of_its_lines_beside_its_bound() -> None:
    first = report_of(passed(KERNELS, H100, *["us=1.000"] * LINES)).kernels[0]
    assert (first.kernel, first.call, first.us) == ("quantise", "1", 4.0)
    assert first.floor_us == pytest.approx(0.0243, rel=0.01)  # docs/cuda.md has 0.02
    assert first.share == pytest.approx(0.0243 / 4, rel=0.01)
    assert (first.limit, first.rate) == ("memory", "20 GB/s")


def test_a_kernel_that_could_not_be_timed_is_left_out_and_the_next_is_not() -> None:
    answers = ["us=1.0"] * LINES
    answers[4] = "error=out of memory"  # the first product
    found = report_of(passed(KERNELS, H100, *answers)).kernels
    assert [one.kernel for one in found[:2]] == ["quantise", "matmul o"]
    assert len(found) == len(list(kernels(FULL))) - 1


def test_output_that_was_cut_off_gives_the_kernels_before_its_end() -> None:
    found = report_of(Outcome(KERNELS, "cut off", 90.0, (H100, *["us=1.0"] * 6), "after its 90 s"))
    assert [one.kernel for one in found.kernels] == ["quantise", "matmul q/k/v", "matmul o"]


def test_a_program_that_printed_other_lines_has_no_times() -> None:
    found = report_of(Outcome(KERNELS, "failed", 1.0, ("CUDA: no device",), "exit code 1"))
    assert (found.device, found.kernels, found.layers) == (None, [], [])
    assert next(found.lines()) == "# No GPU described itself"


def test_matmulnbits_stands_beside_the_product_of_its_sizes() -> None:
    name = FULL.models[0].name
    record = json.dumps({"key": key_of(name, "gate/up", 2048), "us": 7.0})
    found = report_of(passed(KERNELS, H100, *["us=1.0"] * LINES), passed(NBITS, record)).kernels
    (one,) = (one for one in found if one.nbits_us is not None)
    assert (one.model, one.kernel, one.call) == (name, "matmul gate/up", "2048")


def test_layers_are_compared_with_float16_and_its_products_alone() -> None:
    (found,) = report_of(passed(LAYERS, H100, "us=1000.0"), half(1500.0, 1200.0)).layers
    assert (found.model, found.layers, found.is_prompt) == ("Llama-3-8B", 1, True)
    assert (found.ratio, found.bare_ratio) == (1.5, 1.2)
    gpu = card("H100")
    assert gpu is not None
    assert found.floor_us == pytest.approx(1e6 * layer_floor(LAYER.model, LAYER.call, gpu).ours)


@pytest.mark.parametrize(("whole", "verdict"), [(1390.0, "missed"), (1400.0, "met")])
def test_a_goal_is_met_or_missed(whole: float, verdict: str) -> None:
    lines = list(report_of(passed(LAYERS, H100, "us=1000.0"), half(whole, 1.0)).lines())
    ratio = f"{whole / 1000:.2f}"
    line = f"- Llama-3-8B, 1 layer, prompt of 2048: {ratio} times as fast, 1.4 {verdict}"
    assert line in lines


def test_all_layers_must_not_be_slower_than_float16_for_a_token() -> None:
    items = list(layers(FULL))[:4]
    assert [(one.layers, one.call.tokens) for one in items] == [
        (1, 2048),
        (32, 2048),
        (1, 1),
        (32, 1),
    ]
    records = [json.dumps({"key": one.key, "us": {"whole": 9.0, "bare": 8.0}}) for one in items]
    lines = list(report_of(passed(LAYERS, H100, *["us=10.0"] * 4), passed(HALF, *records)).lines())
    goals = [line for line in lines if line.startswith("- ")]
    assert [line.rpartition("fast, ")[2] for line in goals] == [
        "1.4 missed",
        "2.5 missed",
        "1.0 missed",
    ]


def test_what_the_tools_print_is_in_the_report() -> None:
    lines = list(report_of(passed("memcheck", "ERROR SUMMARY: 0 errors")).lines())
    assert lines[-4:] == ["", "```", "ERROR SUMMARY: 0 errors", "```"]


def test_what_runs_without_a_clock_has_neither_shares_nor_goals() -> None:
    found = report_of(passed(KERNELS, SIMT, *["us=1000.0"] * LINES), passed(LAYERS, SIMT, "us=1.0"))
    assert all(one.share is None for one in found.kernels)
    lines = list(found.lines())
    assert any("no time means anything" in line for line in lines)
    assert not any("times as fast, 1.4" in line for line in lines)


def test_stages_that_failed_or_are_absent_are_named_with_the_reason(tmp_path: Path) -> None:
    summary = "compare_cuda on NVIDIA H100 (sm_90): 9 comparisons, 1 mismatches"
    found = report_of(
        Outcome(COMPARE, "failed", 2.0, ("matmul float32 …", summary), "exit code 1: a | b"),
        Outcome("memcheck", "absent", 0.0, reason="no compute-sanitizer on the path"),
    )
    found.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| compare | failed | 2.0 | exit code 1: a / b |" in text
    assert "| memcheck | absent | 0.0 | no compute-sanitizer on the path |" in text
    assert f"\n{summary}\n" in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert [one["state"] for one in record["stages"]] == ["failed", "absent"]


def test_a_comparison_that_was_cut_off_has_no_summary() -> None:
    lines = list(report_of(Outcome(COMPARE, "cut off", 9.0, ("attention float32 …",))).lines())
    assert "no summary: it was cut off" in lines
