"""The residual network of Fawaz et al. 2019 (arXiv 1809.04356, section 3.2), at full resolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from mxnet.gluon import HybridBlock
from pydantic import Field, PositiveInt
from typing_extensions import Annotated

from segtrain.layers import Blocks, Chain, Sum, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (64, 128, 128),
    kernels: Annotated[Tuple[PositiveInt, ...], Field(min_length=1)] = (8, 5, 3),
    whole: bool = False,
) -> Chain:
    """(N, C, L) to class scores (N, classes, L), of any length; images (dim 2) work as well.

    widths: channels of each residual block; kernels: of the convolutions in each. whole: the
    published classifier, global average pooling before the last layer: one class for the whole
    signal. A linear layer of the average is the average of a linear layer, so the scores are
    averaged, and every sample gets them.
    """
    biased = replace(blocks, bias=True)
    chain, width = Chain(), blocks.in_channels
    for wide in widths:
        chain.add(_residual(biased, wide, width, kernels))
        width = wide
    chain.add(blocks.head(classes))
    if whole:
        chain.add(_Average(blocks.dim))
    return chain


def _residual(blocks: Blocks, width: int, from_width: int, kernels: Tuple[int, ...]) -> Chain:
    """ReLU(F(x) + norm(x)); the input is projected to another width by a 1x1 convolution."""
    path = [blocks.conv(width, kernel) for kernel in kernels[:-1]]
    last = [blocks.plain_conv(width, kernels[-1]), *blocks.norms(width)]
    project = [] if width == from_width else [blocks.plain_conv(width, 1)]
    shortcut = Chain(*project, *blocks.norms(width))
    return Chain(("input", Chain()), *path, *last, Sum("input", through=shortcut), blocks.relu())


class _Average(HybridBlock):
    """The mean over all positions, at each position."""

    def __init__(self, dim: int):
        super().__init__()
        self._axes = tuple(range(2, 2 + dim))

    def hybrid_forward(self, F, x):
        return F.broadcast_like(F.mean(x, axis=self._axes, keepdims=True), x)
