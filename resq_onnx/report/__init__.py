"""A report: one HTML page that shows what an export did to a model, and how good it came out."""

from resq_onnx.report.page import FILE_NAME, write_report

__all__ = ["FILE_NAME", "write_report"]
