"""Traced tiny models, as the tests of passes have them."""

from tests.passes.conftest import case as case
from tests.passes.conftest import cases as cases
