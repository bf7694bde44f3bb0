"""GridNet (Fourure et al. 2017, arXiv 1707.07958): a lattice of streams and columns, all sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from mxnet.gluon import nn

from segtrain.layers import Blocks, Chain, Column, Encoder, Take


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Tuple[int, ...] = (16, 32, 64, 128, 256),
    down: int = 3,
    up: int = 3,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per row, finest first; down, up: the number of columns in which information
    flows to coarser and to finer rows. The first down column has no lateral residuals.
    """
    pre = replace(blocks, pre=True, bias=True)

    def lateral(i: int) -> Chain:
        return pre.residual(widths[i], widths[i])

    def downwards(i: int) -> Chain:
        first = pre.conv(widths[i], stride=2, from_width=widths[i - 1])
        return Chain(first, pre.conv(widths[i]))

    def upwards(i: int) -> Chain:
        grow = nn.Conv1DTranspose if blocks.dim == 1 else nn.Conv2DTranspose
        first = [*pre.norms(widths[i + 1]), pre.relu(), grow(widths[i], 3, 2, 1, 1)]
        return Chain(*first, pre.conv(widths[i]))

    stem = replace(blocks, bias=True).convs(widths[0])
    return Chain(
        stem,
        Encoder(len(widths), unit=lambda i: Chain(), down=downwards),
        *[Column(len(widths), lateral, downwards, "down") for _ in range(down - 1)],
        *[Column(len(widths), lateral, upwards, "up") for _ in range(up)],
        Take(0),
        *pre.norms(widths[0]),
        pre.relu(),
        blocks.head(classes),
    )
