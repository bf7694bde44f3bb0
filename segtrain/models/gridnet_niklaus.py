"""GridNet as Niklaus & Liu have it (2018, arXiv 1803.10967, section 3.3): PReLU and no norm."""

from __future__ import annotations

from dataclasses import replace

from mxnet.gluon import HybridBlock
from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Column, Encoder, Sum, Take, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (32, 64, 96),
    down_columns: PositiveInt = 3,
    up_columns: PositiveInt = 3,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per row, finest first; down_columns, up_columns: the number of columns of
    each kind. No norm and no bias, whatever the config says; upsampling is bilinear with aligned
    corners. An input without the finest row's width goes through a block of its own first.
    """
    bare = replace(blocks, norm="none", bias=False, upsampling="bilinear")

    def pair(width: int, from_width: int, stride: int = 1) -> list[HybridBlock]:
        first = bare.plain_conv(width, stride=stride)
        return [bare.prelu(from_width), first, bare.prelu(width), bare.plain_conv(width)]

    def lateral(i: int) -> Chain:
        return Chain(("x", Chain()), *pair(widths[i], widths[i]), Sum("x"))

    def downwards(i: int) -> Chain:
        return Chain(*pair(widths[i], widths[i - 1], stride=2))

    def upwards(i: int) -> Chain:
        return Chain(bare.resize(), *pair(widths[i], widths[i + 1]))

    def outer(width: int) -> Chain:
        path = [bare.plain_conv(widths[0]), bare.prelu(widths[0]), bare.plain_conv(width)]
        return Chain(("x", Chain()), *path, Sum("x", through=bare.plain_conv(width, 1)))

    return Chain(
        *([outer(widths[0])] if blocks.in_channels != widths[0] else []),
        Encoder(len(widths), unit=lambda i: Chain(), down=downwards),
        *[Column(len(widths), lateral, downwards, "down") for _ in range(down_columns - 1)],
        *[Column(len(widths), lateral, upwards, "up") for _ in range(up_columns)],
        Take(0),
        outer(classes),
    )
