"""FC-DenseNet, "the one hundred layers tiramisu" (Jegou et al. 2017, arXiv 1611.09326)."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from mxnet.gluon import nn
from pydantic import Field, PositiveInt
from typing_extensions import Annotated

from segtrain.layers import Blocks, Chain, Concat


def build(
    classes: int,
    blocks: Blocks,
    *,
    growth: PositiveInt = 16,
    layers: Tuple[PositiveInt, ...] = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4),
    stem: PositiveInt = 48,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** pools.

    growth: channels that each layer adds; layers: their number in each dense block, encoder,
    bottom and decoder (section 3 and table 2); stem: channels of the first convolution; dropout:
    the share of a layer's outputs that is dropped.
    """
    if len(layers) % 2 == 0:
        raise ValueError(f"layers has {len(layers)} entries: as many up as down, and the bottom")
    pre = replace(blocks, pre=True, bias=True)
    pools = len(layers) // 2
    chain, width = Chain(pre.plain_conv(stem)), stem
    skips = []
    for i in range(pools):
        chain.add(_dense(pre, width, growth, layers[i], dropout, whole=True), name=f"s{i}")
        width += growth * layers[i]
        skips.append(width)
        chain.add(pre.conv(width, kernel=1, from_width=width), nn.Dropout(dropout), pre.pool())
    chain.add(_dense(pre, width, growth, layers[pools], dropout, whole=False))
    for i in range(pools):
        new = growth * layers[pools + i]
        chain.add(pre.deconv(new, 3), Concat(f"s{pools - 1 - i}"))
        width = new + skips[pools - 1 - i]
        last = i == pools - 1
        chain.add(_dense(pre, width, growth, layers[pools + 1 + i], dropout, whole=last))
    chain.add(blocks.head(classes))
    return chain


def _dense(blocks: Blocks, width: int, growth: int, layers: int, dropout: float, whole: bool) -> Chain:
    """A dense block: each layer sees all before it. Gives all of that, or the new maps alone."""
    chain, last = Chain(), layers - 1
    chain.add(Chain(), name="all0" if whole or last else None)
    for k in range(layers):
        chain.add(blocks.conv(growth, from_width=width + k * growth))
        chain.add(nn.Dropout(dropout), name=None if whole or k == last else f"new{k}")
        if k < last:
            read_again = whole or k + 1 < last
            chain.add(Concat(f"all{k}"), name=f"all{k + 1}" if read_again else None)
    if whole:
        chain.add(Concat(f"all{last}"))
    elif last:
        chain.add(Concat(*[f"new{k}" for k in range(last)]))
    return chain
