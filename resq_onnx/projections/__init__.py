"""Linear algebra without a model: from second moments to orthogonal changes of basis."""

from resq_onnx.projections.bases import Projections, compute_projections

__all__ = ["Projections", "compute_projections"]
