"""`python -m resq_onnx`: the command line."""

from resq_onnx.cli import main

main()
