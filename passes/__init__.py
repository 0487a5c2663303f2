"""Graph rewrites, one a file, and the order in which they run.

`lifting` turns the tracer's nodes into one operator per module, `folding` changes the bases
without changing the function, `quantising` replaces float operators by ai.resq's. Between these
two, once the float logits were checked, `KeepLastLogits` drops all but the last if so asked.
`inlining` ends in operators that any runtime knows. `NameWeights` comes first where another
program has traced.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from resq_onnx.families import ModelLayout
from resq_onnx.passes.clean_up import CleanUp, sweep
from resq_onnx.passes.contrib_attention import (
    ContribAttention,
    cache_scales,
    refuse_other_attention,
)
from resq_onnx.passes.contrib_embedding import ContribEmbedding
from resq_onnx.passes.contrib_linears import ContribLinears
from resq_onnx.passes.contrib_norms import ContribNorms
from resq_onnx.passes.fold_hidden_basis import FoldHiddenBasis
from resq_onnx.passes.fold_value_basis import FoldValueBasis
from resq_onnx.passes.fuse_norm_gains import FuseNormGains
from resq_onnx.passes.halve_input_basis import HalveInputBasis
from resq_onnx.passes.join_hadamards import JoinHadamards
from resq_onnx.passes.keep_last_logits import KeepLastLogits
from resq_onnx.passes.lift_attention import LiftAttention
from resq_onnx.passes.lift_head import LiftHead
from resq_onnx.passes.lift_mlp import LiftMlp
from resq_onnx.passes.lift_norms import LiftNorms
from resq_onnx.passes.merge_projections import MergeProjections
from resq_onnx.passes.multiply_by_part import MultiplyByPart
from resq_onnx.passes.name_weights import NameWeights
from resq_onnx.passes.narrow_activations import NarrowActivations
from resq_onnx.passes.quantise_cache import QuantiseCache
from resq_onnx.passes.quantise_embedding import QuantiseEmbedding
from resq_onnx.passes.quantise_linears import QuantiseLinears
from resq_onnx.passes.rotate_down import RotateDown
from resq_onnx.passes.rotate_keys import RotateKeys
from resq_onnx.passes.spell_activations import SpellActivations
from resq_onnx.passes.split_head import SplitHead
from resq_onnx.passes.split_projections import SplitProjections
from resq_onnx.passes.turn_inputs import TurnInputs
from resq_onnx.passes.untie_embedding import UntieEmbedding
from resq_onnx.projections import Projections
from resq_onnx.projections.moments import Moments
from resq_onnx.recipe import Recipe

__all__ = [
    "CleanUp",
    "KeepLastLogits",
    "NameWeights",
    "contributing",
    "folding",
    "inlining",
    "lifting",
    "quantising",
    "refuse_other_attention",
]


def lifting(layout: ModelLayout) -> list[ir.passes.PassBase]:
    """From the tracer's nodes to one operator per module."""
    return [
        SplitProjections(layout),
        LiftNorms(layout),
        LiftAttention(layout),
        LiftMlp(layout),
        LiftHead(layout),
        sweep(),
    ]


def folding(
    layout: ModelLayout, recipe: Recipe, projections: Projections
) -> list[ir.passes.PassBase]:
    """Changes of basis: the logits stay the same."""
    shares_table = recipe.shares_table(tied=layout.tied)
    of_stream = [
        SplitHead(layout) if shares_table else UntieEmbedding(layout),
        FuseNormGains(layout, shares_table=shares_table),
        FoldHiddenBasis(layout, projections, shares_table=shares_table),
    ]
    of_inputs = [
        *([] if shares_table else [UntieEmbedding(layout)]),
        TurnInputs(layout, projections),
    ]
    return [
        *(of_inputs if layout.turns_inputs else of_stream),
        FoldValueBasis(layout, projections),
        RotateKeys(layout, projections),
        RotateDown(layout, projections),
        MergeProjections(layout),
    ]


def quantising(
    layout: ModelLayout, recipe: Recipe, projections: Projections, moments: Moments | None
) -> list[ir.passes.PassBase]:
    """From float operators to those of ai.resq; weights are computed as the file is written."""
    return [
        QuantiseLinears(layout, recipe, projections, moments),
        HalveInputBasis(layout),
        *([QuantiseCache(layout, projections)] if recipe.cache == "quantised" else []),
        QuantiseEmbedding(layout, recipe, shares_table=recipe.shares_table(tied=layout.tied)),
        *([NarrowActivations(layout, recipe)] if recipe.dtype != "float32" else []),
    ]


def contributing(
    layout: ModelLayout, recipe: Recipe, projections: Projections, moments: Moments | None
) -> list[ir.passes.PassBase]:
    """From activations and cache in float to ONNX Runtime's own operators."""
    scales = None
    if recipe.cache == "int8":
        assert moments is not None, "such a recipe needs a calibration"
        scales = cache_scales(projections, moments)
    products = [ContribLinears(layout), ContribEmbedding(layout)]
    return [
        *(products if recipe.format == "contrib" else []),
        ContribAttention(layout, scales, halves=recipe.cache == "float16"),
        JoinHadamards(),
        ContribNorms(),
    ]


def inlining(recipe: Recipe) -> list[ir.passes.PassBase]:
    """From the operators of ai.resq to standard ones, in forms that other runtimes read too."""
    portable = [SpellActivations(), MultiplyByPart()]
    return [InlinePass(), *(portable if recipe.format == "qdq" else [])]
