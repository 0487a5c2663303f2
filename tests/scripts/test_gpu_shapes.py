from __future__ import annotations

from resq_onnx.functions import RecordLayout
from scripts.cuda_work import matrices, prompt, step
from scripts.gpu_shapes import (
    FULL,
    TIMED,
    TINY,
    Layers,
    gate_line,
    kernels,
    layer_lines,
    layers,
    linear_line,
)

LLAMA = TIMED[0]


def sizes_of(line: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (w.partition("=") for w in line.split()[1:])}


def test_a_line_has_the_sizes_of_its_matrix() -> None:
    line = linear_line("multiply", matrices(LLAMA)[1], 16)
    assert line == "multiply rows=16 outputs=4096 groups=32 low=112 high=16 norm=0 adds=1"


def test_a_rotation_has_as_many_columns_as_the_gate() -> None:
    for model in TIMED:
        sizes = sizes_of(gate_line(model, 1))
        low, high = (sizes[f"{part}_outer"] * sizes[f"{part}_inner"] for part in ("low", "high"))
        assert (low, high) == (model.down.low, model.down.high)
        assert low + high == model.intermediate


def test_each_step_of_a_layer_reads_what_the_one_before_it_writes() -> None:
    for model in TIMED:
        qkv, attention, out, gate_up, gate, down = map(sizes_of, layer_lines(model, prompt(20)))
        heads = attention["heads"] + 2 * attention["kv_heads"]
        assert qkv["outputs"] == heads * attention["dim"]
        assert out["groups"] * (out["low"] + out["high"]) == attention["heads"] * attention["dim"]
        assert gate_up["low"] + gate_up["high"] == out["outputs"] == model.hidden
        assert gate_up["outputs"] == 2 * model.intermediate
        assert down["low"] + down["high"] == model.intermediate
        assert down["outputs"] == qkv["low"] + qkv["high"] == model.hidden
        assert gate["rows"] == 20


def test_every_model_row_count_and_context_of_the_plan_is_timed() -> None:
    found = list(kernels(FULL))
    for model in TIMED:
        calls = {(one.kernel, one.call) for one in found if one.model == model.name}
        for rows in (1, 4, 16, 128, 512, 2048):
            assert ("matmul down", f"{rows}") in calls
        for context in (512, 2048, 8192):
            assert ("attend_split, combine", f"16 × 1 after {context - 1}") in calls
        assert ("flash", "prompt of 2048") in calls
    assert len({(one.model, one.kernel, one.call) for one in found}) == len(found)


def test_one_layer_and_all_of_them_are_timed_for_a_prompt_and_a_token() -> None:
    found = [(one.layers, one.call) for one in layers(FULL) if one.model is LLAMA]
    calls = (prompt(2048), step(1, 2048))
    assert found == [(count, call) for call in calls for count in (1, 32)]
    assert len({one.key for one in layers(FULL)}) == 4 * len(TIMED)


def test_a_stack_begins_and_ends_around_the_steps_of_one_layer() -> None:
    item = Layers(LLAMA, 32, prompt(2048))
    assert item.lines[0] == "stack layers=32"
    assert item.lines[1:-1] == layer_lines(LLAMA, prompt(2048))
    assert item.lines[-1] == "end"


def test_the_rehearsal_meets_every_kind_of_line() -> None:
    def kinds(sizes: object) -> set[str]:
        return {line.split()[0] for one in kernels(sizes) for line in one.lines}  # type: ignore[arg-type]

    assert kinds(TINY) == kinds(FULL)


def test_a_cache_record_is_as_long_as_its_layout() -> None:
    for model in TIMED:
        assert model.record == RecordLayout(model.head_dim, model.head_dim // 8).size
