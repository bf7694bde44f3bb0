"""The mix of a U-Net and a GridNet: encoder A, skip paths B, decoder C, each a block of its own."""

from __future__ import annotations

from typing import Literal, Optional

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Column, Decoder, Skips, Widths, default_widths, encoder_of


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (),
    encoder: Optional[str] = None,
    columns: PositiveInt = 1,
    merge: Literal["concat", "sum"] = "concat",
    skip: Literal["identity", "conv", "residual"] = "residual",
    skip_depth: PositiveInt = 1,
    units: PositiveInt = 2,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    A, the encoder, is a U-Net's, then down columns of a GridNet; B the skip paths; C a U-Net's
    decoder.
    widths: channels per stream, finest first, (32, 64, 128, 256) or, with an encoder,
    (16, 32, 64, 128, 256, 512); encoder: a classifier of GluonCV's, like resnet34_v1b, for the
    encoder (model.encoder_params: its weights); columns: how many down columns; merge: how
    a skip and what comes up are joined; skip: the kind of block in the skip paths; skip_depth: how
    many of them in each; units: convolutions per stream, down and up.
    """
    widths = default_widths(widths, encoder)

    def lateral(i: int) -> Chain:
        return blocks.residual(widths[i], widths[i])

    def downwards(i: int) -> Chain:
        return blocks.conv(widths[i], stride=2)

    a = Chain(
        encoder_of(encoder, widths, blocks, units),
        *[Column(len(widths), lateral, downwards, "down") for _ in range(columns)],
    )
    b = Skips(widths, blocks, skip, skip_depth)
    c = Decoder(widths, blocks, unit=lambda i: blocks.convs(widths[i], units), merge=merge)
    return Chain(a, b, c, blocks.head(classes))
