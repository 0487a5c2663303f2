from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts import cuda_evidence
from scripts.cuda_binary import Code, Use, classes_of, parse_ptxas, parse_sass, short_name
from scripts.cuda_machine import (
    Kernel,
    complaints,
    instruction_table,
    kernels_of,
    resource_table,
)
from scripts.cuda_occupancy import LIMITS, blocks_of, launch_of
from scripts.cuda_roofline import CALLS, GPUS, MODELS, Floor, floor, kernel_table, whole
from scripts.cuda_work import (
    Work,
    attend,
    gate,
    layer,
    lm_head,
    matrices,
    multiply,
    prepare,
    prompt,
    step,
)

KERNELS = Path(__file__).parents[2] / "custom_ops" / "cuda"

LOG = """\
[ 18%] Building CUDA object cuda/CMakeFiles/resq_onnx_ops_cuda.dir/attention_few.cu.o
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Zfew' for 'sm_80'
ptxas info    : Function properties for _Zfew
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 664 bytes cmem[0], 16 bytes cmem[2]
ptxas info    : Compile time = 428.237 ms
ptxas info    : Compiling entry function '_Zfew' for 'sm_100'
ptxas info    : Function properties for _Zfew
    32 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for _Zcalled
    48 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 32 bytes cumulative stack size, 96 bytes smem
"""

SASS = """\
Fatbin elf code:
================
arch = sm_80
code version = [1,8]
	code for sm_80
		Function : _Zfew
	.headerflags	@"EF_CUDA_SM80 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM80)"
        /*0000*/               IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ; /* 0x00000a00ff017624 */
        /* 0x000fe400078e00ff */
        /*0010*/          @!P1 LDG.E.NA.128.CONSTANT R16, [R16.64] ; /* 0x0000590000047ab9 */
        /*0020*/           @P0 LDGSTS.E.BYPASS.128.ZFILL [R3], [R4.64] ; /* 0x0000590000047ab9 */
        /*0030*/               IMMA.16832.S8.S8 R4, R8.ROW, R2.COL, R4 ; /* 0x0000590000047ab9 */
        /*0040*/               IMMA.16864.U4.S4 R4, R8.ROW, R2.COL, R4 ; /* 0x0000590000047ab9 */
        /*0050*/               IMMA.16864.U4.S4 R4, R8.ROW, R2.COL, R4 ; /* 0x0000590000047ab9 */

Fatbin ptx code:
================
arch = sm_120

Fatbin elf code:
================
arch = sm_120
		Function : _Zfew
        /*0000*/          @UP0 LDSM.16.MT88.4 R4, [R2] ; /* 0x0000590000047ab9 */
"""


def test_registers_and_spills_belong_to_a_kernel_and_an_architecture() -> None:
    uses = parse_ptxas(LOG.splitlines())
    assert uses == {
        ("sm_80", "_Zfew"): Use(registers=64),
        ("sm_100", "_Zfew"): Use(registers=80, stack=48, spilled=24, static_shared=96),
    }


def test_of_a_kernel_compiled_twice_the_last_lines_count() -> None:
    again = LOG.replace("Used 64 registers", "Used 72 registers")
    uses = parse_ptxas([*LOG.splitlines(), *again.splitlines()])
    assert uses["sm_80", "_Zfew"].registers == 72
    assert uses["sm_100", "_Zfew"].spilled == 24


def test_instructions_are_counted_by_kernel_and_architecture() -> None:
    codes = parse_sass(SASS.splitlines())
    assert codes == {
        ("sm_80", "_Zfew"): Code(
            Counter({"16-byte loads": 1, "16-byte cp.async": 1, "int8 mma": 1, "int4 mma": 2}), 6
        ),
        ("sm_120", "_Zfew"): Code(Counter({"ldmatrix": 1}), 1),
    }


@pytest.mark.parametrize(
    ("instruction", "classes"),
    [
        ("HMMA.16816.F32.BF16", ["half mma"]),
        ("LDG.E.128", ["16-byte loads"]),
        ("LDG.E", []),
        ("LDG.E.64", []),
        ("LDGSTS.E.ZFILL", ["4-byte cp.async"]),
        ("LDGSTS.E.BYPASS.128", ["16-byte cp.async"]),
        ("LDGDEPBAR", []),
        ("STS.128", []),
    ],
)
def test_an_instruction_is_of_one_class_at_most(instruction: str, classes: list[str]) -> None:
    assert list(classes_of(instruction)) == classes


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        (
            "void resq::cuda::(anonymous namespace)::flash<__nv_bfloat16, 80>(resq::Attention)",
            "flash<bfloat16, 80>",
        ),
        (
            "void resq::cuda::(anonymous namespace)::multiply_many_rows<4, 16, true>"
            "(resq::cuda::Problem)",
            "multiply_many_rows<4, 16, true>",
        ),
        ("resq::cuda::(anonymous namespace)::combine(resq::Attention, long)", "combine"),
    ],
)
def test_a_short_name_keeps_template_arguments(demangled: str, short: str) -> None:
    assert short_name(demangled) == short


# What NVIDIA's occupancy calculator says of these.
@pytest.mark.parametrize(
    ("architecture", "registers", "threads", "shared", "blocks"),
    [
        ("sm_80", 255, 256, 0, 1),
        ("sm_80", 32, 1024, 0, 2),
        ("sm_80", 32, 256, 0, 8),
        ("sm_80", 128, 256, 0, 2),
        ("sm_80", 16, 32, 0, 32),
        ("sm_86", 16, 32, 0, 16),
        ("sm_89", 16, 32, 0, 24),
        ("sm_86", 32, 256, 0, 6),
        ("sm_80", 32, 256, 48 * 1024, 3),
        ("sm_86", 32, 256, 48 * 1024, 2),
        ("sm_90", 32, 256, 48 * 1024, 4),
        ("sm_86", 32, 256, 99 * 1024, 1),
        ("sm_86", 32, 256, 100 * 1024, 0),
        ("sm_80", 65, 256, 0, 3),
        ("sm_80", 255, 1024, 0, 0),
    ],
)
def test_blocks_of_a_multiprocessor(
    architecture: str, registers: int, threads: int, shared: int, blocks: int
) -> None:
    assert blocks_of(LIMITS[architecture], registers, threads, shared) == blocks


def test_a_launch_has_the_shared_memory_that_the_sources_ask_for() -> None:
    assert launch_of("multiply_many_rows<4, 16, true>").dynamic_shared == 64 * 1024
    assert launch_of("multiply_many_rows<2, 1, false>").dynamic_shared == 48 * 1024
    assert launch_of("multiply_few_rows<16, 2>").dynamic_shared == 8 * (16 * 16 + 16) * 4
    assert launch_of("flash<half, 128>").dynamic_shared == 2 * 64 * 272 + 256 + 313 * 16
    for rows in (4, 8):
        floats = rows * (2 * 128 + 64 + 4) + 64 + 4 * 64
        assert launch_of(f"attend_split<{rows}>").dynamic_shared == 4 * floats + 313 * 16
    assert launch_of("quantise_row<float>") == launch_of("quantise_row<half>")
    with pytest.raises(KeyError):
        launch_of("unheard_of<1>")


@pytest.mark.parametrize(
    ("source", "kernel"),
    [
        ("matmul_many.cu", "multiply_many_rows<2, 16, false>"),
        ("matmul_few.cu", "multiply_few_rows<16, 1>"),
        ("quantise.cu", "quantise_row<half>"),
        ("hadamard.cu", "gate_and_rotate"),
        ("attention_prepare.cu", "prepare"),
        ("attention_many.cu", "flash<half, 64>"),
    ],
)
def test_a_launch_has_the_threads_of_its_source(source: str, kernel: str) -> None:
    text = (KERNELS / source).read_text()
    match = re.search(r"kThreads = (\d+)", text) or re.search(r"kWarps = (\d+)", text)
    assert match is not None
    threads = int(match[1]) * (1 if "kThreads" in match[0] else 32)
    assert launch_of(kernel).threads == threads


@pytest.mark.parametrize("rows", [4, 8])
def test_a_block_of_decoding_attention_has_a_thread_for_a_slot_and_some_queries(rows: int) -> None:
    text = (KERNELS / "attention_few.cu").read_text()
    match = re.search(r"kRowsAtOnce = (\d+)", text)
    assert match is not None
    assert "rows / kRowsAtOnce * kChunk" in text
    assert launch_of(f"attend_split<{rows}>").threads == rows // int(match[1]) * 64


def made(name: str, architecture: str, use: Use, **classes: int) -> Kernel:
    counts = Counter({key.replace("_", " "): count for key, count in classes.items()})
    return Kernel(name, architecture, use, Code(counts, 100))


def test_spills_and_missing_instructions_are_complained_of() -> None:
    kernels = [
        made("combine", "sm_80", Use(registers=40)),
        made("combine", "sm_90", Use(registers=40, spilled=8)),
        made("multiply_few_rows<16, 1>", "sm_80", Use(registers=80), int8_mma=12),
        made("multiply_many_rows<2, 1, false>", "sm_80", Use(registers=128), int8_mma=9),
    ]
    assert list(complaints(kernels)) == [
        "combine on sm_90 spills 8 bytes (stores and loads)",
        "multiply_few_rows<16, 1> on sm_80 has no 16-byte loads",
        "multiply_many_rows<2, 1, false> on sm_80 has no ldmatrix",
    ]


def test_only_gpus_with_4_bit_tensor_cores_need_4_bit_instructions() -> None:
    name = "multiply_many_rows<4, 16, true>"
    some = {"int8 mma": 1, "ldmatrix": 1, "16-byte cp.async": 1}
    kernels = [
        Kernel(name, architecture, Use(registers=250), Code(Counter(some)))
        for architecture in ("sm_89", "sm_90")
    ]
    assert list(complaints(kernels)) == [f"{name} on sm_89 has no int4 mma"]
    assert list(resource_table(kernels))[2].endswith("| 250: 1, 8 (17 %) | – |")


def test_counts_that_differ_name_their_architectures() -> None:
    kernels = [
        made("attend_split<8>", "sm_80", Use(), ldmatrix=4),
        made("attend_split<8>", "sm_86", Use(), ldmatrix=4),
        made("attend_split<8>", "sm_90", Use(), ldmatrix=2),
    ]
    assert "| 4 (80 86), 2 (90) |" in list(instruction_table(kernels))[2]


def test_a_kernel_that_the_log_lacks_is_an_error() -> None:
    codes = parse_sass(SASS.splitlines())
    with pytest.raises(ValueError, match="lacks few"):
        kernels_of(parse_ptxas(LOG.splitlines()), codes, {"_Zfew": "few"})


def test_weights_have_four_and_a_half_bits_and_their_scales() -> None:
    qkv, out, _, _ = matrices(MODELS[0])
    assert qkv.weight_bytes == 6144 * (4096 * 4.5 / 8 + 8)
    assert out.widths == (112, 16)
    assert lm_head(MODELS[0]).weight_bytes == 128256 * (4096 + 4)


def test_a_segment_is_filled_up_to_whole_instructions() -> None:
    out = matrices(MODELS[0])[1]
    assert out.padded(packs=False) == (32 * 128, 32 * 32)
    assert out.row_bytes(packs=True) == 32 * (64 + 32) + 8 * 64


def test_decode_is_bound_by_memory_and_a_prompt_by_tensor_cores() -> None:
    gate_up = matrices(MODELS[0])[2]
    a100 = GPUS[0]
    one = multiply(gate_up, 1, has_int4=True)
    moved = gate_up.weight_bytes + gate_up.row_bytes(packs=False) + 2 * 28672
    assert one.ours.moved == moved
    assert floor(one.ours, a100) == Floor(moved / 2039e9, "memory")
    many = multiply(gate_up, 2048, has_int4=True)
    operations = 2 * 2048 * 28672 * 4096
    seconds = operations * 7 / 8 / 1248e12 + operations / 8 / 624e12
    assert floor(many.ours, a100).limit == "tensor"
    assert floor(many.ours, a100).seconds == pytest.approx(seconds)
    assert floor(many.half, a100).seconds == pytest.approx(operations / 312e12)


def test_hopper_multiplies_in_8_bits() -> None:
    gate_up = matrices(MODELS[0])[2]
    assert multiply(gate_up, 512, has_int4=False).ours.operations.keys() == {"int8"}
    assert not GPUS[1].has_int4


def test_few_blocks_have_their_part_of_the_gpu() -> None:
    work = Work(0.0, {"float": 1e9}, blocks=27)
    whole_gpu = Work(0.0, {"float": 1e9}, blocks=108)
    assert floor(work, GPUS[0]).seconds == pytest.approx(4 * floor(whole_gpu, GPUS[0]).seconds)


@pytest.mark.parametrize(("rows", "blocks"), [(1, 3), (16, 48), (64, 128), (65, 65), (2048, 2048)])
def test_blocks_share_a_token_where_there_are_few(rows: int, blocks: int) -> None:
    assert gate(MODELS[0], rows).ours.blocks == blocks


def test_each_block_of_a_token_gates_and_turns_it_and_makes_its_part_of_the_outputs() -> None:
    gated = 14336 * (2 + 2)  # gate and up, and twice four steps of the transform
    outer = 12288 * 12 * 8 / 16 + 2048 * (2 + 1)  # an order of 2 is multiplied column by column
    assert gate(MODELS[0], 1).ours.loads == 3 * gated + outer
    assert gate(MODELS[0], 2048).ours.loads == 2048 * (gated + outer)


def test_rows_to_project_are_filled_up_to_four() -> None:
    one, many = (prepare(MODELS[0], call).ours for call in (step(1, 2048), prompt(2048)))
    assert one.loads == 8 * 8 * 128 * 128 / 2  # four queries and a key of each kv head: eight rows
    assert many.loads == 8 * 5 * 2048 * 128 * 128 / 2


@pytest.mark.parametrize(("heads", "fours", "blocks"), [(32, 1, 64), (40, 2, 64), (72, 4, 128)])
def test_queries_of_a_block_are_four_or_eight(heads: int, fours: int, blocks: int) -> None:
    ours = attend(dataclasses.replace(MODELS[0], heads=heads), step(1, 2048)).ours
    assert ours.blocks == blocks
    assert ours.loads == fours * 8 * 2048 * (128 * (4 + 4) + 56 + 16)


def test_an_eighth_of_llama_3_8b_would_rotate_a_prompt_far_longer() -> None:
    """What docs/cuda.md says in words."""
    chosen, a100 = MODELS[0], GPUS[0]
    eighth = dataclasses.replace(chosen, down_high=1 / 8)
    assert (eighth.down.low, chosen.down.low) == (196 * 64, 12 * 1024)
    times = {
        item.name: floor(item.ours, a100).seconds
        for item in layer(eighth, prompt(2048), has_int4=True)
    }
    products = sum(time for name, time in times.items() if name.startswith("matmul"))
    assert times["gate_and_rotate"] == pytest.approx(545e-6, rel=1e-3)
    assert times["gate_and_rotate"] == pytest.approx(2 / 3 * products, rel=0.02)
    many, one = floor(gate(chosen, 2048).ours, a100), floor(gate(chosen, 1).ours, a100)
    assert many.limit == "memory"
    assert many.seconds == pytest.approx(86.4e-6, rel=1e-3)
    assert one.seconds == pytest.approx(1.9e-6, rel=0.03)
    assert floor(gate(eighth, 1).ours, a100).seconds < one.seconds


def test_float_rates_follow_from_units_and_clock() -> None:
    published = {"A100": 19.5e12, "H100": 66.9e12, "4090": 82.6e12}
    for gpu in GPUS:
        assert gpu.floats == pytest.approx(published[gpu.name], rel=0.001)


def test_a_whole_call_is_its_layers_and_lm_head() -> None:
    for call in (step(1, 2048), prompt(512)):
        total = whole(MODELS[1], call, GPUS[0])
        assert 0 < total.products < total.ours
        assert total.nbits <= total.half


def test_a_row_of_the_tables_stands_for_each_kernel_and_call() -> None:
    lines = list(kernel_table(MODELS[0]))
    assert len({line.split("|")[1].strip() for line in lines[2:]}) == 9
    assert sum(line.startswith("| attend") for line in lines) == sum(c.tokens == 1 for c in CALLS)


def test_a_section_is_written_anew_between_its_marks() -> None:
    text = "before\n<!-- a b: by scripts/cuda_evidence.py -->\nold\n<!-- /a b -->\nafter\n"
    once = cuda_evidence.rewritten(text, "a b", [r"new \1"])
    assert once == text.replace("old", r"new \1")
    assert cuda_evidence.rewritten(once, "a b", ["old"]) == text
    with pytest.raises(ValueError, match="0 sections"):
        cuda_evidence.rewritten(text, "b", [])


def test_the_document_has_the_figures_that_the_script_computes() -> None:
    document = Path(__file__).parents[2] / "docs" / "cuda.md"
    text = document.read_text()
    for name, lines in cuda_evidence.roofline_sections().items():
        assert cuda_evidence.rewritten(text, name, lines) == text, "`--only roofline` rewrites it"
