"""UNet++ (Zhou et al. 2018, section 3.1): dense skip paths between encoder and decoder."""

from __future__ import annotations

from dataclasses import replace

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Concat, From, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (32, 64, 128, 256, 512),
    units: PositiveInt = 2,
    deep_supervision: bool = False,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    Node X(i, j) takes all nodes before it in its row i, and the upsampled node X(i + 1, j - 1).
    widths: channels per row, finest first; units: convolutions per node. With model.up=deconv the
    upsampling is a 2x2 transposed convolution to the row's width, else interpolation alone.
    deep_supervision: the nodes X(0, 1), X(0, 2), ... before the last have heads of their own,
    which train beside it (section 3.2; their losses count train.aux_weight) and judge nothing.
    """
    blocks = replace(blocks, bias=True)
    rows = len(widths)
    heads = range(1, rows) if deep_supervision else [rows - 1]
    chain = Chain(gives=[f"scores{column}" for column in reversed(heads)])

    def node(row: int, column: int) -> None:
        chain.add(blocks.convs(widths[row], units), name=f"x{row}_{column}")

    for bottom in range(rows):
        if bottom:
            chain.add(From(f"x{bottom - 1}_0"), blocks.pool())
        node(bottom, 0)
        for column in range(1, bottom + 1):
            row = bottom - column
            deconv = blocks.upsampling == "deconv"
            chain.add(blocks.deconv(widths[row], 2) if deconv else blocks.resize())
            chain.add(Concat(*[f"x{row}_{before}" for before in range(column)]))
            node(row, column)
    for column in heads:
        chain.add(From(f"x0_{column}", through=blocks.head(classes)), name=f"scores{column}")
    return chain
