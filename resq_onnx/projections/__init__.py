"""Orthogonal changes of basis from second moments: linear algebra that needs no model."""

from resq_onnx.projections.bases import Projections, compute_projections

__all__ = ["Projections", "compute_projections"]
