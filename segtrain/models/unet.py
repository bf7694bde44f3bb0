"""U-Net (Ronneberger et al. 2015), as published or same-padded: encoder, skips, decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Literal, Optional, Tuple

from pydantic import PositiveInt

from segtrain.layers import (
    Blocks,
    Chain,
    Decoder,
    Margin,
    Mirror,
    Skips,
    Widths,
    default_widths,
    encoder_of,
)


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (),
    encoder: Optional[str] = None,
    merge: Literal["concat", "sum"] = "concat",
    skip: Literal["identity", "conv", "residual"] = "identity",
    skip_depth: PositiveInt = 1,
    units: PositiveInt = 2,
    padding: Literal["same", "valid"] = "same",
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per stream, finest first, (32, 64, 128, 256) or, with an encoder, (16, 32, 64,
    128, 256, 512); encoder: a classifier of GluonCV's, like resnet34_v1b, for the encoder
    (model.encoder_params: its weights); merge: how a skip and what comes up are joined; skip: what
    each skip path runs through; skip_depth: how many times; units: convolutions per stream, down
    and up; padding: 'valid' is the published network (section 2): unpadded convolutions, cropped
    skips, and the input's border mirrored as far as the network looks, so that the scores are the
    input's size.
    """
    widths = default_widths(widths, encoder)
    valid = padding == "valid"
    if valid and (encoder or blocks.upsampling != "deconv"):
        raise ValueError("padding 'valid' needs model.up=deconv, and no other encoder")
    inner = replace(blocks, valid=valid)
    margin, crops, surplus = _margins(len(widths), units)
    return Chain(
        *([Mirror(margin, blocks.dim)] if valid else []),
        encoder_of(encoder, widths, inner, units),
        Skips(widths, blocks, skip, skip_depth),
        Decoder(
            widths,
            inner,
            unit=lambda i: inner.convs(widths[i], units),
            merge=merge,
            crops=crops if valid else (),
        ),
        *([Margin(surplus, surplus, blocks.dim)] if valid else []),
        blocks.head(classes),
    )


def _margins(streams: int, units: int) -> Tuple[int, List[int], int]:
    """Of unpadded 3x3 convolutions: what to add to the input, to cut off skips and the output.

    Per border. With a bottom of b pixels after its convolutions the sizes all the way up and down
    are fixed; sides that are multiples of the stride fit for one margin in 2 ** (streams - 1).
    """
    lost, stride, bottom = 2 * units, 2 ** (streams - 1), 1000
    before, after, crops = bottom, bottom, []
    for _ in range(streams - 1):
        before, after = 2 * (before + lost), 2 * after
        crops.append((before - after) // 2)
        after -= lost
    before += lost
    margin = (before - after + 1) // 2
    while (before - 2 * margin) % stride:
        margin += 1
    return margin, crops[::-1], margin - (before - after) // 2
