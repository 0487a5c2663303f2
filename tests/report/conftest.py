"""A folder for onnxruntime-genai, as the tests of targets have it."""

from tests.handoff.conftest import for_genai as for_genai
from tests.handoff.conftest import projections as projections
from tests.handoff.conftest import tiny_model as tiny_model
