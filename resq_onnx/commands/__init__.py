"""The commands, two files of them. Nothing heavy is imported before a command runs."""

from resq_onnx.commands.making import calibrate, export
from resq_onnx.commands.running import bench, evaluate, generate, inspect

__all__ = ["bench", "calibrate", "evaluate", "export", "generate", "inspect"]
