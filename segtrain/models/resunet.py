"""ResUNet (Zhang et al. 2018, arXiv 1711.10684): a U-Net of pre-activation residual units."""

from __future__ import annotations

from dataclasses import replace

from segtrain.layers import Blocks, Chain, Concat, Encoder, Sum, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (64, 128, 256, 512),
    shortcuts: bool = True,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per stream, finest first, the bridge last; shortcuts: False leaves the
    residual additions out. Strides in the convolutions, no pooling (section II.A, table I).
    """
    pre = replace(blocks, pre=True, bias=True)

    def unit(width: int, from_width: int, stride: int = 1) -> Chain:
        path = [pre.conv(width, stride=stride, from_width=from_width), pre.conv(width)]
        return _residual(path, shortcuts, pre, width, stride)

    def stream(i: int) -> Chain:
        if i:
            return unit(widths[i], widths[i - 1], stride=2)
        path = [pre.plain_conv(widths[0]), pre.conv(widths[0])]
        return _residual(path, shortcuts, pre, widths[0])

    decoder = Chain(takes=[f"s{i}" for i in range(len(widths))])
    for i in reversed(range(len(widths) - 1)):
        decoder.add(pre.resize(), Concat(f"s{i}"), unit(widths[i], widths[i] + widths[i + 1]))
    encoder = Encoder(len(widths), unit=stream, down=lambda i: Chain())
    return Chain(encoder, decoder, blocks.head(classes))


def _residual(path: list, shortcuts: bool, blocks: Blocks, width: int, stride: int = 1) -> Chain:
    if not shortcuts:
        return Chain(*path)
    project = blocks.plain_conv(width, 1, stride)
    return Chain(("shortcut", Chain()), *path, Sum("shortcut", through=project))
