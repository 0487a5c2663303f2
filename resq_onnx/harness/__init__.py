"""Exported models in EleutherAI's lm-evaluation-harness, as its model `resq-onnx`.

    python -m resq_onnx.harness --model resq-onnx --model_args path=OUT.onnx --tasks ...

`model.py` is what the harness sees, `scoring.py` and `answering.py` what it asks for: how likely a
text is, and how one goes on. Only `model.py` and `registry.py` know the harness's package, lm_eval.
"""
