"""Blocks and the chains that wire them: the vocabulary in which segtrain's networks are written."""

from segtrain.layers.backbone import encoder_of
from segtrain.layers.blocks import Blocks, Normalize, TotalDropout
from segtrain.layers.chain import Chain, Concat, Each, From, Product, Sum, Take
from segtrain.layers.residual import residual_chain
from segtrain.layers.sizes import Fit, Fold, Margin, Mirror, Unfold
from segtrain.layers.streams import Column, Decoder, Encoder, Skips, Widths, default_widths

__all__ = [
    "Blocks",
    "Chain",
    "Column",
    "Concat",
    "Decoder",
    "Each",
    "Encoder",
    "Fit",
    "Fold",
    "From",
    "Margin",
    "Mirror",
    "Normalize",
    "Product",
    "Skips",
    "Sum",
    "Take",
    "TotalDropout",
    "Unfold",
    "Widths",
    "default_widths",
    "encoder_of",
    "residual_chain",
]
