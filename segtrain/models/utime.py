"""U-Time (Perslev et al. 2019, arXiv 1910.11162): a U-Net for long signals, scored by segments."""

from __future__ import annotations

from math import gcd, prod
from typing import Tuple

from mxnet.gluon import HybridBlock, nn
from pydantic import PositiveFloat, PositiveInt

from segtrain.layers import Blocks, Chain, Concat, Encoder, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (16, 32, 64, 128, 256),
    pools: Tuple[PositiveInt, ...] = (10, 8, 6, 4),
    complexity: PositiveFloat = 2**0.5,
    kernel: PositiveInt = 5,
    dilation: PositiveInt = 2,
    segment: PositiveInt = 1,
) -> Chain:
    """(N, C, L) to class scores (N, classes, L); L a multiple of `segment` and of all pools together.

    widths: channels per stream before they are multiplied, finest first; complexity: by what;
    pools: the factors between the streams; kernel: of the convolutions; dilation: of the encoder's;
    segment: samples that get one score together, the average over them. Batch norm comes after the
    ELU, as in the authors' code. Images (dim 2) work as well.
    """
    if len(pools) != len(widths) - 1:
        raise ValueError(f"{len(pools)} pools for {len(widths)} widths: one less is needed")
    wide = [int(width * complexity) for width in widths]

    def conv(width: int, kernel: int, dilation: int = 1) -> Chain:
        plain = blocks.plain_conv(width, kernel, bias=True, dilation=dilation)
        return Chain(plain, blocks.elu(), *blocks.norms(width))

    def unit(width: int, dilation: int = 1) -> Chain:
        return Chain(*[conv(width, kernel, dilation) for _ in range(2)])

    decoder = Chain(takes=[f"s{i}" for i in range(len(wide))])
    for i in reversed(range(len(pools))):
        decoder.add(blocks.resize(pools[i]), conv(wide[i], pools[i]))
        decoder.add(Concat(f"s{i}"))
        decoder.add(unit(wide[i]), name=f"d{i}")
    net = Chain(
        Encoder(
            len(wide),
            unit=lambda i: unit(wide[i], dilation),
            down=lambda i: blocks.pool(pools[i - 1]),
        ),
        decoder,
        blocks.head(int(classes * complexity)),
        nn.Activation("tanh"),
        *([_mean(segment, blocks.dim)] if segment > 1 else []),
        blocks.head(classes),
        blocks.elu(),
        blocks.head(classes),
        *([blocks.resize(segment)] if segment > 1 else []),
    )
    pooled = prod(pools)
    net.stride = pooled * segment // gcd(pooled, segment)
    return net


def _mean(factor: int, dim: int) -> HybridBlock:
    pool = nn.AvgPool1D if dim == 1 else nn.AvgPool2D
    return pool(factor, factor)
