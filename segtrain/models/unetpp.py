"""UNet++ (Zhou et al. 2018, section 3.1): dense skip paths between encoder and decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Concat, From, Widths, encoder_of


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (),
    encoder: Optional[str] = None,
    units: PositiveInt = 2,
    deep_supervision: bool = False,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    Node X(i, j) takes all nodes before it in its row i, and the upsampled node X(i + 1, j - 1).
    widths: channels per row, finest first, (32, 64, 128, 256, 512) or, with an encoder, 16 before
    these; encoder: a classifier of GluonCV's, like resnet34_v1b, for the nodes X(i, 0)
    (model.encoder_params: its weights); units: convolutions per node. With model.up=deconv the
    upsampling is a 2x2 transposed convolution to the row's width, else interpolation alone.
    deep_supervision: the nodes X(0, 1), X(0, 2), ... before the last have heads of their own,
    which train beside it (section 3.2; their losses count train.aux_weight) and judge nothing.
    """
    widths = widths or ((16,) if encoder else ()) + (32, 64, 128, 256, 512)
    blocks = replace(blocks, bias=True)
    rows = len(widths)
    heads = range(1, rows) if deep_supervision else [rows - 1]
    chain = Chain(
        takes=[f"x{row}_0" for row in range(rows)],
        gives=[f"scores{column}" for column in reversed(heads)],
    )
    for bottom in range(1, rows):
        for column in range(1, bottom + 1):
            row = bottom - column
            deconv = blocks.upsampling == "deconv"
            chain.add(
                From(f"x{row + 1}_{column - 1}"),
                blocks.deconv(widths[row], 2) if deconv else blocks.resize(),
                Concat(*[f"x{row}_{before}" for before in range(column)]),
            )
            chain.add(blocks.convs(widths[row], units), name=f"x{row}_{column}")
    for column in heads:
        chain.add(From(f"x0_{column}", through=blocks.head(classes)), name=f"scores{column}")
    return Chain(encoder_of(encoder, widths, blocks, units), chain)
