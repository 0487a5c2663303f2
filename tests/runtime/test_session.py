"""Sessions and the decoder on top of one, on a graph small enough to compute by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

import resq_onnx
from resq_onnx.errors import ResqError
from resq_onnx.runtime import Decoder, create_session, library
from resq_onnx.runtime.decoder import check_logits
from resq_onnx.runtime.library import kernels_are_built
from resq_onnx.runtime.session import running
from tests.runtime import toy

TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]], np.int64)


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return Decoder(create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1))


def test_running_a_model_imports_neither_torch_nor_what_makes_models() -> None:
    code = (
        "import sys, resq_onnx.runtime, resq_onnx.evaluation; "
        "print({'torch', 'transformers', 'onnxscript', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_prefill_gives_logits_for_every_token(decoder: Decoder) -> None:
    logits, state = decoder.run(TOKENS)
    assert logits.shape == (2, 6, toy.VOCABULARY)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits.argmax(-1), toy.expected_tokens(TOKENS))
    assert state.length == 6


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_going_on_from_a_state_equals_one_pass(decoder: Decoder, cut: int) -> None:
    whole, _ = decoder.run(TOKENS)
    first, state = decoder.run(TOKENS[:, :cut])
    second, state = decoder.run(TOKENS[:, cut:], state)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    assert state.length == 6


def test_a_state_can_be_gone_on_from_twice(decoder: Decoder) -> None:
    _, state = decoder.run(TOKENS[:, :3])
    once, _ = decoder.run(TOKENS[:, 3:4], state)
    again, _ = decoder.run(TOKENS[:, 3:4], state)
    np.testing.assert_array_equal(once, again)


def test_padding_on_the_left_has_no_effect(decoder: Decoder) -> None:
    padded = np.array([[40, 41, 3, 1, 4], [2, 7, 1, 8, 2]], np.int64)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int64)
    logits, state = decoder.run(padded, attention_mask=mask)
    alone, alone_state = decoder.run(padded[:1, 2:])
    np.testing.assert_array_equal(logits[:1, 2:], alone)
    np.testing.assert_array_equal(logits.argmax(-1), toy.expected_tokens(padded, mask))
    # The next step remembers which tokens were padding.
    step = np.array([[6], [6]], np.int64)
    following, state = decoder.run(step, state)
    np.testing.assert_array_equal(following[:1], decoder.run(step[:1], alone_state)[0])
    np.testing.assert_array_equal(state.attention_mask[0], [0, 0, 1, 1, 1, 1])


def test_a_mask_without_a_column_for_each_token_is_a_mistake(decoder: Decoder) -> None:
    _, state = decoder.run(TOKENS[:, :3])
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 1\), it must be \(2, 4\)"):
        decoder.run(TOKENS[:, 3:4], state, np.ones((2, 1), np.int64))


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [(TensorProto.UINT8, np.uint8), (TensorProto.FLOAT, np.float32)],
)
def test_the_cache_is_of_the_graphs_own_type(tmp_path: Path, onnx_type: int, dtype: type) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx", cache_type=onnx_type)
    logits, state = Decoder(create_session(path)).run(TOKENS)
    np.testing.assert_array_equal(logits.argmax(-1), toy.expected_tokens(TOKENS))
    assert len(state.caches) == 2 * toy.LAYERS
    for cache in state.caches:
        assert cache.dtype == dtype
        assert cache.shape == (2, toy.KV_HEADS, 6, toy.RECORD)


def test_a_graph_may_do_without_positions(tmp_path: Path) -> None:
    decoder = Decoder(create_session(toy.save_toy(tmp_path / "a.onnx", without="position_ids")))
    logits, _ = decoder.run(TOKENS)
    np.testing.assert_array_equal(logits.argmax(-1), TOKENS.cumsum(1) % toy.VOCABULARY)


@pytest.mark.parametrize("missing", ["logits", "present.1.key"])
def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path, missing: str) -> None:
    session = create_session(toy.save_toy(tmp_path / "a.onnx", without=missing))
    with pytest.raises(ResqError, match=f"not a decoder with a cache: it has no {missing}"):
        Decoder(session)


def test_a_cache_of_unknown_width_is_refused(tmp_path: Path) -> None:
    session = create_session(toy.save_toy(tmp_path / "a.onnx", record="width"))
    with pytest.raises(ResqError, match=r"past_key_values\.0\.key has shape .*'width'"):
        Decoder(session)


def test_a_cache_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    session = create_session(toy.save_toy(tmp_path / "a.onnx", cache_type=TensorProto.INT64))
    with pytest.raises(ResqError, match=r"is a tensor\(int64\); it must be one of tensor"):
        Decoder(session)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"none\.onnx: no such file"):
        create_session(tmp_path / "none.onnx")


def test_a_truncated_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ResqError, match=r"toy\.onnx: ONNX Runtime .* cannot open") as refusal:
        create_session(path)
    assert "\n" not in str(refusal.value)


def test_a_model_without_its_data_is_refused(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    model = onnx.load(path)
    values = next(tensor for tensor in model.graph.initializer if tensor.name == "values")
    set_external_data(values, location="toy.onnx.data")
    onnx.save(model, path)
    Decoder(create_session(path))
    (tmp_path / "toy.onnx.data").unlink()
    with pytest.raises(ResqError, match=r"toy\.onnx: ONNX Runtime .* cannot open"):
        create_session(path)


def test_without_onnxruntime_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResqError, match=r'pip install "resq-onnx\[cpu\]"'):
        create_session(toy.save_toy(tmp_path / "toy.onnx"))


def test_kernels_are_registered_unless_they_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[object] = []
    monkeypatch.setattr(library, "register", registered.append)
    path = toy.save_toy(tmp_path / "toy.onnx")
    create_session(path, kernels=False)
    assert not registered
    create_session(path)
    assert len(registered) == 1


def test_options_reach_the_session(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    options = create_session(path, threads=1, spinning=False).get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.disable_quant_qdq") == "1"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    plain = create_session(path, fold_weights=False, optimise=False).get_session_options()
    assert plain.get_session_config_entry("session.intra_op.spin_duration_us") == "1000"
    assert plain.graph_optimization_level.name == "ORT_DISABLE_ALL"
    for entry in ("session.disable_quant_qdq", "session.intra_op.allow_spinning"):
        with pytest.raises(Exception, match=entry):
            plain.get_session_config_entry(entry)


def test_a_source_tree_that_was_never_built_has_no_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels_are_built()
    monkeypatch.setattr(resq_onnx.__spec__, "submodule_search_locations", [str(tmp_path)])
    assert not kernels_are_built()
    path = toy.save_toy(tmp_path / "toy.onnx")
    with pytest.raises(ResqError, match="package is not installed"):
        create_session(path)
    create_session(path, kernels=False)


def test_a_run_that_fails_is_one_line() -> None:
    with pytest.raises(ResqError) as error, running():
        raise RuntimeError("of the shape\nand more")
    assert str(error.value) == (
        "the model: ONNX Runtime cannot run it: of the shape; if the file is damaged, export it "
        "again"
    )


@pytest.mark.parametrize("shape", [(50,), (1, 50), (2, 3, 50), (1, 2, 50), (1, 3, 50, 1)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    ids = np.zeros((1, 3), np.int64)
    with pytest.raises(ResqError, match=r"its logits have shape .* for 1 texts of 3 tokens"):
        check_logits(np.zeros(shape), ids)
    check_logits(np.zeros((1, 3, 50)), ids)
    check_logits(np.zeros((1, 1, 50)), ids)
