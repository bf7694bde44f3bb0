"""Networks wired in ``__init__``: a chain whose blocks read one another's outputs by name.

A block's input is what the block before it gave. A block that has a *name* is a tap; a block
with ``reads`` gets those taps too, after its input. With no names and no reads a `Chain` is
exactly a ``HybridSequential``.

    Chain(
        ("skip", conv(32)),
        down(64), conv(64), up(32),
        Concat("skip", through=conv(32)),
        conv(32),
    )
"""

from __future__ import annotations

from typing import Sequence, Tuple, Union

from mxnet.gluon import HybridBlock, nn

Part = Union[HybridBlock, Tuple[str, HybridBlock]]


class Chain(nn.HybridSequential):
    """Run blocks one after the other, handing each the taps that it reads.

    `blocks` are blocks or ``(name, block)`` pairs. `takes` names the streams that come in as a
    list (the last is the first block's input); `gives` names those handed out as a list,
    instead of the last block's output. An empty chain is the identity.

    Raises ValueError for a repeated name, a read of a name that isn't there yet, and (at the
    first call) a name that nothing reads.
    """

    def __init__(self, *blocks: Part, takes: Sequence[str] = (), gives: Sequence[str] = ()):
        super().__init__()
        self._takes = tuple(takes)
        self._gives = tuple(gives)
        self._unread: dict[str, None] = {}
        for part in blocks:
            name, block = part if isinstance(part, tuple) else (None, part)
            self.add(block, name=name)

    def add(self, *blocks: HybridBlock, name: str | None = None) -> None:
        """Append blocks; `name` makes a tap of the (then only) block's output."""
        if name is not None and len(blocks) != 1:
            raise ValueError(f"the name {name!r} is for one block, and {len(blocks)} were given")
        for block in blocks:
            for read in getattr(block, "reads", ()):
                self._mark_read(read, block)
            if name is None:
                self.register_child(block)
            else:
                self._add_named(name, block)

    def _add_named(self, name: str, block: HybridBlock) -> None:
        if not name.isidentifier():
            raise ValueError(f"{name!r} can't name a block: use letters, digits and _")
        if name in self._taps():
            raise ValueError(f"the name {name!r} is taken; there are {self._known()}")
        self._unread[name] = None
        self.register_child(block, name)

    def _mark_read(self, name: str, block: HybridBlock) -> None:
        if name not in self._taps():
            raise ValueError(
                f"{type(block).__name__} reads {name!r}, which isn't there yet; "
                f"there are {self._known()}"
            )
        self._unread.pop(name, None)

    def _taps(self) -> list[str]:
        return [*self._takes, *(name for name in self._children if not name.isdigit())]

    def _known(self) -> str:
        return ", ".join(self._taps()) or "no names"

    def check(self) -> None:
        """Raise ValueError where a name is given out that isn't there, or one has no reader."""
        absent = [name for name in self._gives if name not in self._taps()]
        if absent:
            raise ValueError(f"gives {absent}, but there are {self._known()}")
        unread = [name for name in self._unread if name not in self._gives]
        if unread:
            raise ValueError(f"nothing reads {unread}: drop the name, or read it")

    def hybrid_forward(self, F, x):
        self.check()
        seen = dict(zip(self._takes, x))
        x = x[-1] if self._takes else x
        for name, block in self._children.items():
            x = seen[name] = block(x, *(seen[read] for read in getattr(block, "reads", ())))
        return [seen[name] for name in self._gives] if self._gives else x


class _Reader(HybridBlock):
    """A block that reads taps, through a block of its own if it is given one."""

    def __init__(self, *names: str, through: HybridBlock | None = None):
        super().__init__()
        if not names:
            raise ValueError(f"{type(self).__name__} needs the name of a block to read")
        if through is not None and len(names) != 1:
            raise ValueError(f"one path goes through one block; {len(names)} names were given")
        self.reads = names
        self.through = through

    def _taken(self, taps):
        return taps if self.through is None else [self.through(*taps)]


class Concat(_Reader):
    """The input and the taps named, concatenated along the channels (axis 1)."""

    def hybrid_forward(self, F, x, *taps):
        return F.concat(x, *self._taken(taps), dim=1)


class Sum(_Reader):
    """The input plus the taps named."""

    def hybrid_forward(self, F, x, *taps):
        return F.add_n(x, *self._taken(taps))


class Product(_Reader):
    """The input times the taps named; a single channel or value counts for all."""

    def hybrid_forward(self, F, x, *taps):
        for tap in self._taken(taps):
            x = F.broadcast_mul(x, tap)
        return x


class From(_Reader):
    """The tap named, in place of the input: a path starts anew from there."""

    def __init__(self, name: str, through: HybridBlock | None = None):
        super().__init__(name, through=through)

    def hybrid_forward(self, F, x, tap):
        return self._taken([tap])[0]


class Each(nn.HybridSequential):
    """Apply the i-th block to the i-th stream of a list, and give the list."""

    def __init__(self, *blocks: HybridBlock):
        super().__init__()
        self.add(*blocks)

    def hybrid_forward(self, F, streams):
        if len(streams) != len(self._children):
            raise ValueError(f"{len(self._children)} blocks for {len(streams)} streams")
        return [block(x) for block, x in zip(self._children.values(), streams)]


class Take(HybridBlock):
    """The `index`-th stream of a list."""

    def __init__(self, index: int):
        super().__init__()
        self._index = index

    def hybrid_forward(self, F, streams):
        return streams[self._index]
