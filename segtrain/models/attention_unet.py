"""Attention U-Net (Oktay et al. 2018): each skip weighted by a gate that the decoder opens."""

from __future__ import annotations

from dataclasses import replace

from segtrain.layers import Blocks, Chain, Concat, Encoder, From, Product, Sum, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (64, 128, 256, 512, 1024),
    gates: bool = True,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: channels per stream, finest first; gates: False leaves the skips as they are. The gate
    is additive attention (section 2.2) at the skip's own resolution, half its width inside.
    """
    blocks = replace(blocks, bias=True)
    names = [f"s{i}" for i in range(len(widths))]
    decoder = Chain(takes=names)
    for i in reversed(range(len(widths) - 1)):
        decoder.add(blocks.resize())
        if gates:
            decoder.add(blocks.conv(widths[i]), name=f"up{i}")
            decoder.add(*_gate(blocks, widths[i], skip=f"s{i}", signal=f"up{i}"), Concat(f"up{i}"))
        else:
            decoder.add(blocks.conv(widths[i]), Concat(f"s{i}"))
        decoder.add(blocks.convs(widths[i]))
    encoder = Encoder(len(widths), unit=lambda i: blocks.convs(widths[i]), down=lambda i: blocks.pool())
    return Chain(encoder, decoder, blocks.head(classes))


def _gate(blocks: Blocks, width: int, skip: str, signal: str) -> list:
    """skip * sigmoid(psi(ReLU(theta skip + phi signal))), with a norm after each 1x1 convolution."""

    def project(to: int) -> Chain:
        return Chain(blocks.plain_conv(to, 1), *blocks.norms(to))

    return [
        From(skip, through=project(width // 2)),
        Sum(signal, through=project(width // 2)),
        blocks.relu(),
        project(1),
        blocks.sigmoid(),
        Product(skip),
    ]
