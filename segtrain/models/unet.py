"""U-Net (Ronneberger et al. 2015), same-padded: encoder, skips, decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Decoder, Encoder, Skips, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (32, 64, 128, 256),
    merge: Literal["concat", "sum"] = "concat",
    skip: Literal["identity", "conv", "residual"] = "identity",
    skip_depth: PositiveInt = 1,
    units: PositiveInt = 2,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per stream, finest first; skip: what each skip path runs through,
    `skip_depth` times; units: convolutions per stream, down and up.
    """
    return Chain(
        Encoder(
            len(widths),
            unit=lambda i: blocks.convs(widths[i], units),
            down=lambda i: blocks.pool(),
        ),
        Skips(widths, blocks, skip, skip_depth),
        Decoder(widths, blocks, unit=lambda i: blocks.convs(widths[i], units), merge=merge),
        blocks.head(classes),
    )
