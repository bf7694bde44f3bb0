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

import warnings
from contextlib import ExitStack, contextmanager
from typing import Iterator, Sequence, Tuple, Union

from mxnet import sym
from mxnet.gluon import HybridBlock, SymbolBlock, nn

Part = Union[HybridBlock, Tuple[str, HybridBlock]]


class Chain(nn.HybridSequential):
    """Run blocks one after the other, handing each the taps that it reads.

    `blocks` are blocks or ``(name, block)`` pairs. `takes` names the streams that come in as a
    list (the last is the first block's input); `gives` names those handed out as a list,
    instead of the last block's output. An empty chain is the identity.

    Raises ValueError for a repeated name, a read of a name that isn't there yet, and (at the
    first call) a name given out that isn't there.
    """

    def __init__(self, *blocks: Part, takes: Sequence[str] = (), gives: Sequence[str] = ()):
        super().__init__()
        self._takes = tuple(takes)
        self._gives = tuple(gives)
        self._cut: set[str] = set()
        for part in blocks:
            name, block = part if isinstance(part, tuple) else (None, part)
            self.add(block, name=name)

    def add(self, *blocks: HybridBlock, name: str | None = None) -> None:
        """Append blocks; `name` makes a tap of the (then only) block's output."""
        if name is not None and len(blocks) != 1:
            raise ValueError(f"the name {name!r} is for one block, and {len(blocks)} were given")
        for block in blocks:
            for read in getattr(block, "reads", ()):
                self._check_read(read, block)
            if name is None:
                self.register_child(block)
            else:
                self._add_named(name, block)

    def _add_named(self, name: str, block: HybridBlock) -> None:
        if not name.isidentifier():
            raise ValueError(f"{name!r} can't name a block: use letters, digits and _")
        if name in self._names():
            raise ValueError(f"the name {name!r} is taken; there are {self._known()}")
        self.register_child(block, name)

    @property
    def takes(self) -> Tuple[str, ...]:
        """The names of the streams that come in."""
        return self._takes

    def _check_read(self, name: str, block: HybridBlock) -> None:
        if name not in self._names():
            raise ValueError(
                f"{type(block).__name__} reads {name!r}, which isn't there yet; "
                f"there are {self._known()}"
            )

    def _names(self) -> list[str]:
        return [*self._takes, *(name for name in self._children if not name.isdigit())]

    def _known(self) -> str:
        return ", ".join(self._names()) or "no names"

    def hybrid_forward(self, F, x):
        absent = [name for name in self._gives if name not in self._names()]
        if absent:
            raise ValueError(f"gives {absent}, but there are {self._known()}")
        seen = dict(zip(self._takes, x))
        x = x[-1] if self._takes else x
        for name, block in self._children.items():
            reads = [self._read(F, seen, read) for read in getattr(block, "reads", ())]
            x = seen[name] = block(x, *reads)
        return [seen[name] for name in self._gives] if self._gives else x

    def _read(self, F, seen: dict, name: str):
        return F.zeros_like(seen[name]) if name in self._cut else seen[name]

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Within this, whoever reads the tap `name` gets zeros.

        A network that holds this chain and is hybridized must be hybridized again, before and after.
        """
        if name not in self._names():
            raise ValueError(f"there is no {name!r} to cut; there are {self._known()}")
        self._cut.add(name)
        try:
            yield
        finally:
            self._cut.discard(name)

    def taps(self, x, names: Sequence[str]) -> list:
        """The outputs of the blocks named, for the input `x`: a list per name of several streams.

        A name is a block's own, in this chain or one within, or its path as in a parameter's key,
        like 'encoder.e1'. Works the same whether hybridized or not, and under autograd.record().
        Raises ValueError for a name that isn't there, or stands for several blocks.
        """
        found: dict[str, object] = {}
        data = [sym.var(f"data{i}") for i in range(len(x))] if self._takes else sym.var("data")
        with ExitStack() as hooks:
            for name in names:
                block = self.block(name)
                hook = block.register_forward_hook(_keeper(found, name))
                hooks.callback(hook.detach)
            self(data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cannot decide type")  # of raw pixels, which any fit
            graph = SymbolBlock([found[n] for n in names], data, params=self.collect_params())
        values = graph(*x) if self._takes else graph(x)
        return [values] if len(names) == 1 else list(values)

    def block(self, name: str) -> HybridBlock:
        """The block within of that name or path; ValueError with what there is."""
        paths = dict(_walk(self))
        hits = [p for p in paths if p.rpartition(".")[2] == name and not name.isdigit()]
        hits = [name] if name in paths else hits
        if len(hits) == 1:
            return paths[hits[0]]
        if hits:
            raise ValueError(f"{name!r} stands for several blocks: {', '.join(hits)}")
        named = sorted({p for p in paths if not p.rpartition(".")[2].isdigit()})
        raise ValueError(f"no block {name!r}; named ones are {', '.join(named) or 'none'}")


def _keeper(found: dict, name: str):
    """A forward hook that keeps the block's output."""

    def keep(block, inputs, output):
        found[name] = output

    return keep


def _walk(block: HybridBlock, prefix: str = "") -> Iterator[Tuple[str, HybridBlock]]:
    """Every block within, with its path."""
    for key, child in block._children.items():
        yield f"{prefix}{key}", child
        yield from _walk(child, f"{prefix}{key}.")


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
