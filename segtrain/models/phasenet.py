"""PhaseNet (Zhu & Beroza 2019): a U-Net for signals with wide kernels and strides of four."""

from __future__ import annotations

from dataclasses import replace

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Concat, Encoder, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (8, 16, 32, 64, 128),
    kernel: PositiveInt = 7,
    stride: PositiveInt = 4,
) -> Chain:
    """(N, C, L) to class scores (N, classes, L); L a multiple of stride ** (streams - 1).

    widths: channels per stream, finest first; kernel, stride: of the convolutions. Images (dim 2)
    work as well.
    """

    def down(i: int) -> Chain:
        return blocks.conv(widths[i - 1], kernel, stride)

    decoder = Chain(takes=[f"s{i}" for i in range(len(widths))])
    for i in reversed(range(len(widths) - 1)):
        up = blocks.deconv(widths[i], kernel, stride, bias=blocks.norm == "none")
        decoder.add(up, *blocks.norms(widths[i]))
        decoder.add(blocks.relu(), Concat(f"s{i}"), blocks.conv(widths[i], kernel))
    return Chain(
        replace(blocks, bias=True).conv(widths[0], kernel),
        Encoder(len(widths), unit=lambda i: blocks.conv(widths[i], kernel), down=down),
        decoder,
        blocks.head(classes),
    )
