"""Encoder, skips, decoder and grid column: blocks whose contract is a list of streams.

A list of streams is one array per resolution, finest first, each half the size of the one before.
"""

from __future__ import annotations

from typing import Callable, Sequence, Tuple

from mxnet.gluon import HybridBlock
from pydantic import Field, PositiveInt
from typing_extensions import Annotated

from segtrain.layers.blocks import Blocks
from segtrain.layers.chain import Chain, Concat, Each, From, Sum
from segtrain.layers.sizes import Margin

Make = Callable[[int], HybridBlock]

Widths = Annotated[Tuple[PositiveInt, ...], Field(min_length=1)]
"""Channels per stream, finest first: the type of a model's option."""


def default_widths(widths: Tuple[int, ...], encoder: str | None) -> Tuple[int, ...]:
    """`widths`, or what a U-Net has by default: six streams over a classifier, four of its own."""
    return widths or ((16, 32, 64, 128, 256, 512) if encoder else (32, 64, 128, 256))


MERGES = {"concat": Concat, "sum": Sum}
SKIPS = ("identity", "conv", "residual")


class Encoder(Chain):
    """One array in, the streams e0, e1, ... out: unit, down, unit, down, ... unit.

    `unit(i)` and `down(i)` make the blocks of the i-th stream; `down` leads into it.
    """

    def __init__(self, streams: int, unit: Make, down: Make):
        super().__init__(gives=_names("e", streams))
        for i, name in enumerate(self._gives):
            if i:
                self.add(down(i))
            self.add(unit(i), name=name)


class Skips(Each):
    """Each stream through `depth` blocks of its own; the last, the bottom, passes as it is.

    kind: 'identity', 'conv' or 'residual'.
    """

    def __init__(self, widths: Sequence[int], blocks: Blocks, kind: str, depth: int = 1):
        if kind not in SKIPS:
            raise ValueError(f"skip {kind!r} is none of {', '.join(SKIPS)}")
        make = {
            "identity": lambda width: [],
            "conv": lambda width: [blocks.conv(width) for _ in range(depth)],
            "residual": lambda width: [blocks.residual(width, width) for _ in range(depth)],
        }[kind]
        super().__init__(*[Chain(*make(width)) for width in widths[:-1]], Chain())


class Decoder(Chain):
    """A list of streams s0, s1, ... in, one array of the finest stream's size out.

    From the bottom: up, merge with the next finer stream ('concat' or 'sum'), unit d2, d1, d0.
    crops: what each stream loses at each border first, for convolutions without padding.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Blocks,
        unit: Make,
        merge: str = "concat",
        crops: Sequence[int] = (),
    ):
        if merge not in MERGES:
            raise ValueError(f"merge {merge!r} is none of {', '.join(MERGES)}")
        super().__init__(takes=_names("s", len(widths)))
        for i in reversed(range(len(widths) - 1)):
            through = Margin(crops[i], crops[i], blocks.dim) if crops else None
            self.add(blocks.up(widths[i]), MERGES[merge](f"s{i}", through=through))
            self.add(unit(i), name=f"d{i}")


class Column(Chain):
    """One column of a GridNet (Fourure et al. 2017, figure 2): streams in, streams out.

    Each row's lateral block, plus what comes through `move(i)`, into row i, from its neighbour:
    the finer row in a 'down' column, the coarser in an 'up' column.
    """

    def __init__(self, streams: int, lateral: Make, move: Make, direction: str):
        super().__init__(takes=_names("x", streams), gives=_names("y", streams))
        rows = list(range(streams)) if direction == "down" else list(reversed(range(streams)))
        for before, row in zip([None, *rows], rows):
            if before is None:
                self.add(From(f"x{row}", through=lateral(row)), name=f"y{row}")
            else:
                self.add(From(f"x{row}", through=lateral(row)))
                self.add(Sum(f"y{before}", through=move(row)), name=f"y{row}")


def _names(letter: str, count: int) -> list[str]:
    return [f"{letter}{i}" for i in range(count)]
