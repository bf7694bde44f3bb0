"""MultiResUNet (Ibtehaz & Rahman 2020, arXiv 1902.04049): multi-resolution blocks, ResPath skips."""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from pydantic import PositiveInt

from segtrain.layers import Blocks, Chain, Concat, Each, Encoder, Sum, Widths


def build(
    classes: int,
    blocks: Blocks,
    *,
    widths: Widths = (32, 64, 128, 256, 512),
    alpha: float = 1.67,
    paths: Tuple[PositiveInt, ...] = (4, 3, 2, 1),
) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W); H and W multiples of 2 ** (streams - 1).

    widths: of the U-Net that each stream stands for, finest first; alpha: a block has about
    alpha * width channels (section 4); paths: residual units in each skip path.
    """
    if len(paths) != len(widths) - 1:
        raise ValueError(f"{len(paths)} paths for {len(widths)} widths: one less is needed")
    parts = [_parts(alpha * width) for width in widths]
    encoder = Encoder(
        len(widths), unit=lambda i: _multires(blocks, parts[i]), down=lambda i: blocks.pool()
    )
    skips = Each(*[_respath(blocks, w, n) for w, n in zip(widths, paths)], Chain())
    decoder = Chain(takes=[f"s{i}" for i in range(len(widths))])
    for i in reversed(range(len(widths) - 1)):
        decoder.add(blocks.deconv(widths[i], 2), Concat(f"s{i}"), _multires(blocks, parts[i]))
    return Chain(encoder, skips, decoder, blocks.head(classes))


def _parts(width: float) -> Tuple[int, int, int]:
    """The channels of a block's three convolutions."""
    return int(width * 0.167), int(width * 0.333), int(width * 0.5)


def _multires(blocks: Blocks, parts: Tuple[int, int, int]) -> Chain:
    """3x3, 5x5 and 7x7 views by three 3x3 convolutions in a row, concatenated (figure 3c)."""
    total, plain = sum(parts), replace(blocks, scale=False)
    return Chain(
        ("input", Chain()),
        ("small", plain.conv(parts[0])),
        ("medium", plain.conv(parts[1])),
        plain.conv(parts[2]),
        Concat("small", "medium"),
        *blocks.norms(total),
        Sum("input", through=Chain(plain.plain_conv(total, 1), *plain.norms(total))),
        blocks.relu(),
        *blocks.norms(total),
    )


def _respath(blocks: Blocks, width: int, units: int) -> Chain:
    """3x3 convolutions, each with a 1x1 convolution around it (figure 4)."""
    chain, plain = Chain(), replace(blocks, scale=False)
    for k in range(units):
        shortcut = Chain(plain.plain_conv(width, 1), *plain.norms(width))
        chain.add(Chain(), name=f"r{k}")
        chain.add(plain.conv(width), Sum(f"r{k}", through=shortcut), blocks.relu())
        chain.add(*blocks.norms(width))
    return chain
