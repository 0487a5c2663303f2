"""Graph rewrites, one per file, and the order in which they run.

1. `NameWeights`: only for a graph that `torch.onnx.export` wrote.
2. `lifting`: from the tracer's nodes to one operator per module.
3. `folding`: the bases go into the weights. The logits stay the same, which is then checked.
4. `exporting`: to the file that is written. It keeps the logits of the last token only, if the
   recipe says so, and runs `quantising`, from float operators to those of ai.resq;
   `contributing`, to ONNX Runtime's own operators; and `inlining`, to standard operators.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from resq_onnx.passes.quantise_linears import Matrices, QuantiseLinears
from resq_onnx.passes.rotate_down import RotateDown
from resq_onnx.passes.rotate_keys import RotateKeys
from resq_onnx.passes.spell_activations import SpellActivations
from resq_onnx.passes.split_head import SplitHead
from resq_onnx.passes.split_projections import SplitProjections
from resq_onnx.passes.turn_inputs import TurnInputs
from resq_onnx.passes.untie_embedding import UntieEmbedding
from resq_onnx.projections import Projections
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.projections.sums import BasisSums
from resq_onnx.recipe import Recipe

__all__ = [
    "NameWeights",
    "Statistics",
    "contributing",
    "exporting",
    "folding",
    "inlining",
    "lifting",
    "quantising",
    "refuse_other_attention",
]

Passes = list[ir.passes.PassBase]


def lifting(layout: ModelLayout) -> Passes:
    """From the tracer's nodes to one operator per module."""
    return [
        SplitProjections(layout),
        LiftNorms(layout),
        LiftAttention(layout),
        LiftMlp(layout),
        LiftHead(layout),
        sweep(),
    ]


def folding(layout: ModelLayout, recipe: Recipe, projections: Projections) -> Passes:
    """Changes of basis: the logits stay the same. Empty if nothing is quantised."""
    if not recipe.how.quantises:
        return []
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


@dataclass(frozen=True)
class Statistics:
    """What a calibration gives to the passes that quantise.

    Attributes:
        moments: For GPTQ's Hessians; None if `matrices` are known, or the recipe needs none.
        sums: For the scales of an INT8 cache; None if the recipe needs none.
        matrices: The quantised matrices of the layers, if they are known already.
        device: Where PyTorch computes those that are not.
    """

    moments: SecondMoments | None = None
    sums: BasisSums | None = None
    matrices: Matrices | None = None
    device: str = "cpu"


def exporting(
    layout: ModelLayout, recipe: Recipe, projections: Projections, statistics: Statistics
) -> Passes:
    """From the folded float graph to the graph that is written, in the recipe's format."""
    return [
        *([KeepLastLogits(layout)] if recipe.logits == "last" else []),
        *(quantising(layout, recipe, projections, statistics) if recipe.how.quantises else []),
        *(
            contributing(layout, recipe, projections, statistics.sums)
            if recipe.form.uses_contrib
            else []
        ),
        *([] if recipe.form.keeps_functions else inlining(recipe)),
        CleanUp(),
    ]


def quantising(
    layout: ModelLayout, recipe: Recipe, projections: Projections, statistics: Statistics
) -> Passes:
    """From float operators to those of ai.resq; weights are computed when the file is written."""
    moments, device = statistics.moments, statistics.device
    shares_table = recipe.shares_table(tied=layout.tied)
    return [
        QuantiseLinears(layout, recipe, projections, moments, statistics.matrices, device),
        HalveInputBasis(),
        *([QuantiseCache(layout, projections)] if recipe.cache == "quantised" else []),
        QuantiseEmbedding(layout, recipe, shares_table=shares_table, device=device),
        *([NarrowActivations(layout, recipe)] if recipe.dtype != "float32" else []),
    ]


def contributing(
    layout: ModelLayout, recipe: Recipe, projections: Projections, sums: BasisSums | None
) -> Passes:
    """From operators on float activations and a float cache to ONNX Runtime's own operators."""
    scales = None
    if recipe.cache == "int8":
        assert sums is not None, "an INT8 cache needs the second moments of a calibration"
        scales = cache_scales(projections, sums)
    products = [ContribLinears(layout), ContribEmbedding(layout)]
    return [
        *(products if recipe.form.contrib_products else []),
        ContribAttention(layout, scales, halves=recipe.cache == "float16"),
        JoinHadamards(),
        ContribNorms(),
    ]


def inlining(recipe: Recipe) -> Passes:
    """From the operators of ai.resq to standard ones, in forms that other runtimes accept."""
    portable = [SpellActivations(), MultiplyByPart()]
    return [InlinePass(), *(portable if recipe.form.portable else [])]
