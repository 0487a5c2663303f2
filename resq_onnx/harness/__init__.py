"""Exported models in EleutherAI's lm-evaluation-harness, as its model `resq-onnx`.

    python -m resq_onnx.harness --model resq-onnx --model_args path=OUT.onnx --tasks ...

`model.py` implements the harness's interface. `scoring.py` computes log-likelihoods of texts, and
`answering.py` generates continuations. Only `model.py` and `registry.py` import lm_eval, the
harness's package.
"""
