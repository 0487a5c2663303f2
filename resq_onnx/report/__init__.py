"""The HTML report of an export: recipe, sizes, spectra and quality on one page."""

from resq_onnx.report.page import FILE_NAME, write_report

__all__ = ["FILE_NAME", "write_report"]
