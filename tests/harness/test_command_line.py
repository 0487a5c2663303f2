"""`python -m resq_onnx.harness`, on tasks that are files, in a process without a network."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.harness.__main__ import main
from resq_onnx.harness.model import ResqOnnx
from resq_onnx.harness.registry import CLASS, NAME, register
from tests.harness.conftest import instance

DOCUMENTS: Final = [
    {"question": "A compound statement", "choices": [" contains", " is not"], "answer": 0},
    {"question": "The try statement", "choices": [" raises", " handles"], "answer": 1},
]

TASKS: Final[dict[str, dict[str, Any]]] = {
    "choosing": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "answering": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
    "reading": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
}


def write_tasks(folder: Path) -> None:
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    for name, task in TASKS.items():
        data = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "documents.jsonl")}},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(json.dumps(data | task))  # JSON is YAML too


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_HOME": str(folder / "cache"),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "resq_onnx.harness", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def samples(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """All tasks run once with the chat template: by task, what lm_eval kept of each document."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    arguments = ["--include_path", folder, "--tasks", ",".join(TASKS), "--apply_chat_template"]
    arguments += ["--output_path", folder / "results", "--log_samples"]
    model = ["--model", NAME, "--model_args", f"path={exported},threads=1"]
    done = run(folder, *model, *arguments)
    assert done.returncode == 0, done.stderr
    (results,) = (folder / "results").rglob("results_*.json")
    found = json.loads(results.read_text())
    assert set(found["results"]) == set(TASKS)
    lines = {}
    for name in TASKS:
        (file,) = (folder / "results").rglob(f"samples_{name}_*.jsonl")
        kept = [json.loads(line) for line in file.read_text().splitlines()]
        lines[name] = sorted(kept, key=lambda sample: int(sample["doc_id"]))
    return lines


def chat(model: ResqOnnx, question: str) -> str:
    return model.apply_chat_template([{"role": "user", "content": question}])


def test_choices_are_judged_after_a_question_in_the_chat_template(
    samples: dict[str, list[Any]], model: ResqOnnx
) -> None:
    for document, sample in zip(DOCUMENTS, samples["choosing"], strict=True):
        prompt = chat(model, str(document["question"]))
        pairs = [(prompt, choice) for choice in document["choices"]]  # type: ignore[attr-defined]
        expected = model.loglikelihood([instance("loglikelihood", *pair) for pair in pairs], True)
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx([log_likelihood for log_likelihood, _ in expected])
        assert sample["acc"] == (found.index(max(found)) == document["answer"])


def test_questions_are_answered_up_to_a_stop_string(
    samples: dict[str, list[Any]], model: ResqOnnx
) -> None:
    options = {"until": ["\n"], "max_gen_toks": 8}
    for document, sample in zip(DOCUMENTS, samples["answering"], strict=True):
        prompt = chat(model, str(document["question"]))
        expected = model.generate_until([instance("generate_until", prompt, options)], True)
        assert sample["resps"] == [expected]
        assert "\n" not in expected[0]


def test_texts_are_read_from_end_to_end(samples: dict[str, list[Any]], model: ResqOnnx) -> None:
    requests = [instance("loglikelihood_rolling", doc["question"]) for doc in DOCUMENTS]
    expected = model.loglikelihood_rolling(requests, disable_tqdm=True)
    found = [float(sample["resps"][0][0]) for sample in samples["reading"]]
    assert found == pytest.approx(expected)


def test_an_error_that_the_user_can_put_right_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ResqError("none.onnx: no such file")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    with pytest.raises(SystemExit, match=r"^Error: none\.onnx: no such file$"):
        main()


def test_the_entry_point_names_the_model() -> None:
    (point,) = importlib.metadata.entry_points(group="lm_eval.models", name=NAME)
    assert point.value == CLASS
    assert point.load() is ResqOnnx


def test_the_model_is_registered_once_and_beside_lm_evals_own() -> None:
    from lm_eval.api.registry import get_model, model_registry

    register()
    register()
    assert get_model(NAME) is ResqOnnx
    assert "hf" in model_registry
