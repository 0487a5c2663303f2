"""The commands, seven files of them. Nothing heavy is imported before a command runs."""

from resq_onnx.commands.browsing import web
from resq_onnx.commands.evaluating import evaluate
from resq_onnx.commands.making import calibrate, export, rewrite
from resq_onnx.commands.running import bench, generate, inspect
from resq_onnx.commands.serving import serve
from resq_onnx.commands.showing import report

__all__ = [
    "bench",
    "calibrate",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "report",
    "rewrite",
    "serve",
    "web",
]
