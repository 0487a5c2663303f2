from pathlib import Path

import pytest

from scripts.weight_errors import SETTINGS, table
from tests.command_line import QUICK, run_successfully
from tests.tiny_models import write_model

pytestmark = pytest.mark.slow


def test_a_file_without_second_moments_is_refused_and_one_with_them_gives_a_table(
    tmp_path: Path,
) -> None:
    model, plain, whole = (tmp_path / name for name in ("model", "plain.safetensors", "whole"))
    write_model(model, "llama", tied=True, num_hidden_layers=1)
    run_successfully("calibrate", model, plain, *QUICK)
    run_successfully("calibrate", model, whole, *QUICK, "--hessians")
    with pytest.raises(SystemExit, match=r"plain.safetensors: no second moments.* --hessians"):
        next(table(model, [whole, plain], [0]))
    assert len(list(table(model, [whole], [0]))) == 2 + len(SETTINGS)
