"""Residual chains: any number of convolutions of any kernel, stride and padding, and a shortcut."""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from segtrain.layers.blocks import Blocks
from segtrain.layers.chain import Chain, Sum
from segtrain.layers.sizes import Margin


def residual_chain(
    channels: int,
    kernel: int,
    initial_stride: int = 1,
    chain_length: int = 2,
    stride: int = 1,
    padding: int | None = None,
    dim: int = 1,
    from_channels: int = 0,
) -> Chain:
    """`chain_length` units conv-BN-ReLU, the input added before the last ReLU (He et al. 2016a).

    (N, C, L), or (N, C, H, W) where `dim` is 2, to `channels` channels. The first unit has the
    stride `initial_stride`, the others `stride`. padding: on both sides of each convolution; the
    default keeps the length, but for strides. The input is projected by a 1x1 convolution and BN
    whenever the shape changes: other channels than `from_channels` (0: unknown, so taken to
    differ), a stride, or a length that the padding doesn't keep.
    """
    if min(channels, kernel, initial_stride, chain_length, stride) < 1:
        raise ValueError("channels, kernel, strides and chain_length are 1 or more")
    padding = (kernel - 1) // 2 if padding is None else padding
    strides = [initial_stride, *[stride] * (chain_length - 1)]
    blocks = Blocks(dim=dim)
    conv = nn.Conv1D if dim == 1 else nn.Conv2D
    path: list[HybridBlock] = []
    for each in strides:
        path += [conv(channels, kernel, each, padding, use_bias=False), *blocks.norms(channels)]
        path.append(blocks.relu())
    last = path.pop()
    before, after, step = _margins(kernel, padding, strides)
    same = (before, after, step, from_channels) == (0, 0, 1, channels)
    through = None if same else _shortcut(blocks, channels, before, after, step)
    return Chain(("input", Chain()), *path, Sum("input", through=through), last)


def _margins(kernel: int, padding: int, strides: list[int]) -> tuple[int, int, int]:
    """What the path cuts off before and after (negative: adds), and its stride as a whole.

    An output of the path is centred on every `stride`-th input from `before` on.
    """
    before, after, step = 0, 0, 1
    for stride in strides:
        before += ((kernel - 1) // 2 - padding) * step
        after += (kernel // 2 - padding) * step
        step *= stride
    return before, after, step


def _shortcut(blocks: Blocks, channels: int, before: int, after: int, step: int) -> Chain:
    cut = [] if before == after == 0 else [Margin(before, after, blocks.dim)]
    project = blocks.plain_conv(channels, 1, step, bias=False)
    return Chain(*cut, project, *blocks.norms(channels))
