"""GridNet (Fourure et al. 2017, arXiv 1707.07958): a lattice of streams and columns, all sums."""

from __future__ import annotations

from dataclasses import replace

from mxnet.gluon import HybridBlock
from pydantic import Field, PositiveInt
from typing_extensions import Annotated

from segtrain.layers import Blocks, Chain, Column, Encoder, Sum, Take, TotalDropout, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (16, 32, 64, 128, 256),
    down_columns: PositiveInt = 3,
    up_columns: PositiveInt = 3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per row, finest first; down_columns, up_columns: how many columns carry
    information to coarser and to finer rows; dropout: the chance that a lateral residual is
    dropped whole (section 3.2). As in the authors' code the first down column has no lateral
    residuals, and the last two up columns have transposed convolutions for convolutions.
    """
    blocks = replace(blocks, bias=True)

    def unit(from_width: int, layer: HybridBlock) -> list[HybridBlock]:
        return [*blocks.norms(from_width), blocks.relu(), layer]

    def conv(width: int, transposed: bool = False) -> HybridBlock:
        return blocks.deconv(width, 3, stride=1) if transposed else blocks.plain_conv(width)

    def lateral(i: int, transposed: bool = False) -> Chain:
        w = widths[i]
        path = [part for _ in range(2) for part in unit(w, conv(w, transposed))]
        return Chain(("x", Chain()), *path, TotalDropout(dropout, blocks.dim), Sum("x"))

    def downwards(i: int) -> Chain:
        halve = blocks.plain_conv(widths[i], stride=2)
        return Chain(*unit(widths[i - 1], halve), *unit(widths[i], conv(widths[i])))

    def upwards(i: int) -> Chain:
        double, more = blocks.deconv(widths[i], 3), conv(widths[i], transposed=True)
        return Chain(*unit(widths[i + 1], double), *unit(widths[i], more))

    def transposed_lateral(i: int) -> Chain:
        return lateral(i, transposed=True)

    laterals = [lateral] * max(0, up_columns - 2) + [transposed_lateral] * min(up_columns, 2)
    return Chain(
        *blocks.norms(blocks.in_channels),
        blocks.convs(widths[0]),
        Encoder(len(widths), unit=lambda i: Chain(), down=downwards),
        *[Column(len(widths), lateral, downwards, "down") for _ in range(down_columns - 1)],
        *[Column(len(widths), across, upwards, "up") for across in laterals],
        Take(0),
        conv(classes, transposed=True),
        *blocks.norms(classes),
        blocks.relu(),
        conv(classes, transposed=True),
        *blocks.norms(classes),
    )
