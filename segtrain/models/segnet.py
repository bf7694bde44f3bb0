"""SegNet (Badrinarayanan et al. 2017, section 3): VGG16's convolutions, and their mirror image."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Product, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (64, 128, 256, 512, 512),
    units: Tuple[PositiveInt, ...] = (2, 2, 3, 3, 3),
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** len(widths).

    widths, units: channels and number of convolutions per stage, finest first. The last
    convolution of a decoder stage goes to the next finer stage's width, that of the last one to
    the classes. Upsampling puts each value where the encoder's pooling found its maximum.
    """
    if len(units) != len(widths):
        raise ValueError(f"{len(units)} units for {len(widths)} widths")
    blocks = replace(blocks, bias=True, upsampling="nearest")
    chain = Chain()
    for i, (width, count) in enumerate(zip(widths, units)):
        chain.add(blocks.convs(width, count), name=f"s{i}")
        chain.add(blocks.pool())
    for i in reversed(range(len(widths))):
        chain.add(blocks.resize(), Product(f"s{i}", through=blocks.maxima()))
        chain.add(blocks.convs(widths[i], units[i] - 1))
        if i:
            chain.add(blocks.conv(widths[i - 1]))
    chain.add(blocks.plain_conv(classes, 3))
    return chain
