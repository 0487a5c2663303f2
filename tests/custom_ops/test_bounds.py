"""No kernel touches a byte outside the arrays it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.custom_ops.instruction_sets import NAMES, skip_unless_available
from tests.custom_ops.kernels import REPOSITORY, run_module

READ_BEYOND = """
import ctypes, numpy as np
from tests.custom_ops.guarded import guarded
array = guarded(np.ones(5, np.uint8), behind={behind})
ctypes.string_at(array.ctypes.data {offset}, 1)
"""


@pytest.mark.parametrize("isa", NAMES)
def test_nothing_is_read_or_written_outside_the_arrays(isa: str) -> None:
    skip_unless_available(isa)
    result = run_module("guarded", isa=isa)
    assert result.returncode == 0, (result.stdout.splitlines()[-1:], result.stderr[-2000:])


@pytest.mark.parametrize(("behind", "offset"), [(True, "+ 5"), (False, "- 1")])
def test_the_guards_end_a_process_that_goes_too_far(behind: bool, offset: str) -> None:
    code = READ_BEYOND.format(behind=behind, offset=offset)
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert result.returncode < 0, result.stderr
