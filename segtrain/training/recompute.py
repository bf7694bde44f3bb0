"""Training in less memory: keep little of the forward pass, and run it again on the way back.

Chen et al. 2016 (arXiv 1604.06174), section 3: the network is cut into segments. A first pass
keeps only what crosses the cuts; the backward pass runs each segment once more, recorded, before
it goes back through it. The gradients are the same, and a step costs one more forward pass.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple, Union

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock

from segtrain.export import symbols
from segtrain.export.symbols import Node, Output

Value = Tuple[int, int]
"""The place of an operator in the graph's order, and which of its outputs."""

_LOSS = 4  # what a loss keeps, in sizes of the scores


@dataclass(frozen=True)
class Part:
    """A graph, and what it takes and gives: values, and by their names parameters and "data"."""

    run: Any
    takes: List[Union[Value, str]]
    gives: List[Value]


@dataclass(frozen=True)
class Segment:
    """Operators between two cuts, for the first pass and for the second.

    The second takes the masks of dropouts, which the first gives besides what crosses the cut.
    """

    first: Part
    second: Part
    learns: bool
    """Whether a gradient is wanted of anything that it takes."""


class Recomputed:
    """The heads of a network for training, with little of the forward pass kept.

    heads: a block that gives a list of scores; shape: (N, C, ...) of an input, by which the cuts
    are chosen. A call runs under ``autograd.record``; after the backward pass from what it gave,
    `backward` goes on to the parameters.
    """

    def __init__(self, heads: HybridBlock, shape: Sequence[int]):
        self._parameters = heads.collect_params()
        learned = {name for name, p in self._parameters.items() if p.grad_req != "null"}
        graph = _Graph(symbols.read(mx.sym.Group(list(heads(mx.sym.var("data"))))), shape, learned)
        cuts = graph.cuts()
        self.segments = [graph.segment(start, end) for start, end in zip(cuts, cuts[1:])]
        self._scores = graph.scores
        self._calls: List[_Call] = []
        _return_freed_memory()

    def __call__(self, images: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """The scores (N, classes, H, W) of each head, for images (N, C, H, W)."""
        call = _Call(images, self._parameters)
        with autograd.pause(train_mode=True):
            for segment in self.segments[:-1]:
                call.run(segment.first)
        call.mark([*self.segments[-1].first.takes, *self._scores])
        call.run(self.segments[-1].first)
        self._calls.append(call)
        return [call.values[key] for key in self._scores]

    def backward(self) -> None:
        """Go back through the rest of all calls since the last time."""
        for call in self._calls:
            call.gather()
            call.forget(self.segments[-1].first.gives)
        for segment in reversed(self.segments[:-1]):
            for call in self._calls:
                call.back(segment)
        self._calls = []


class _Call:
    """The values kept of one call."""

    def __init__(self, images: mx.nd.NDArray, parameters: Dict[str, Any]):
        self.values: Dict[Union[Value, str], mx.nd.NDArray] = {"data": images}
        self._parameters, self._context = parameters, images.context
        self._gradients: Dict[Union[Value, str], mx.nd.NDArray] = {}
        self._marked: List[Union[Value, str]] = []

    def run(self, part: Part) -> List[mx.nd.NDArray]:
        made = part.run(*[self._taken(key) for key in part.takes])
        made = made if isinstance(made, list) else [made]
        self.values.update(zip(part.gives, made))
        return made

    def _taken(self, key: Union[Value, str]) -> mx.nd.NDArray:
        return self.values[key] if key in self.values else self._parameters[str(key)].data(self._context)

    def mark(self, keys: Sequence[Union[Value, str]]) -> None:
        """Let the next backward pass tell the gradients of these values; of parameters it does."""
        self._marked = [key for key in dict.fromkeys(keys) if key in self.values and key != "data"]
        for key in self._marked:
            self.values[key].attach_grad()

    def gather(self) -> None:
        """Add up what it told. Here, for not every operator of MXNet's can add to a gradient: batch
        norm as it runs without oneDNN leaves out what it should add."""
        for key in self._marked:
            told = self.values[key].grad
            before = self._gradients.get(key)
            self._gradients[key] = told if before is None else before + told
        self._marked = []

    def forget(self, keys: Sequence[Value]) -> None:
        for key in keys:
            del self.values[key]

    def back(self, segment: Segment) -> None:
        """Run the segment again and go back through it, from the gradients of what it gave."""
        gives = segment.second.gives
        masks = set(segment.first.gives) - set(gives)
        self.forget(gives)
        gradients = [self._gradients.pop(key) for key in gives]
        if segment.learns:
            self.mark([key for key in segment.second.takes if key not in masks])
            with autograd.record():
                made = self.run(segment.second)
            autograd.backward(made, gradients)
            self.gather()
            self.forget(gives)
        self.forget(list(masks))


class _Graph:
    """The operators of a network in their order, and where to cut between them."""

    def __init__(self, heads: List[Output], shape: Sequence[int], learned: Set[str]):
        self._learned, self._masks = learned, {id(mask) for mask in _drawn_apart(heads)}
        self._operators = [node for node in symbols.walk(heads) if node.op != "null"]
        self._place = {id(node): place for place, node in enumerate(self._operators)}
        sizes = symbols.shapes(heads, shape)
        self._sizes = [prod(sizes[id(node)]) for node in self._operators]
        self.scores = [(self._place[id(node)], output) for node, output in heads]
        self._last: Dict[Value, int] = dict.fromkeys(self.scores, len(self._operators))
        self._tied: Set[int] = set()
        self._read()
        self._readers = [0] * len(self._operators)  # the last place that takes any value of each
        for (place, _), reader in self._last.items():
            self._readers[place] = max(self._readers[place], reader)

    def _read(self) -> None:
        """Note where each value is last taken, and the places that no cut may be at: those between
        two uses of a parameter, and those about a mask."""
        used: Dict[str, int] = {}
        for place, node in enumerate(self._operators):
            if id(node) in self._masks:  # between its ones and what it masks
                self._tied |= {place, place + 1}
            for source, output in node.inputs:
                if source.op != "null":
                    value = (self._place[id(source)], output)
                    self._last[value] = max(place, self._last.get(value, 0))
                elif source.name in self._learned:  # its gradient is written by one segment
                    self._tied |= set(range(used.setdefault(source.name, place) + 1, place + 1))

    # ---- where to cut

    def cuts(self) -> List[int]:
        """The places at which segments begin, and the end: those for which a step needs least."""
        low, high = float(max(self._sizes)), 8.0 * sum(self._sizes)
        found = [0, len(self._operators)]
        while high > 1.01 * low:
            most = sqrt(low * high)
            better = self._cuts_within(most)
            low, high, found = (low, most, better) if better else (most, high, found)
        return found

    def _cuts_within(self, most: float) -> List[int]:
        """Cuts with which no segment's turn in the backward pass needs more than `most`, if any.

        A turn holds what is kept of the segments before, the gradients that come in, and the
        segment's own values with the gradients of the two largest. The less is kept, the better
        for all that follows: so the best cuts up to each place follow from those before.
        """
        end, kept, before = len(self._operators), {0: 0.0}, {}
        for cut in range(1, end + 1):
            if cut in self._tied:
                continue
            for start, crossing, needed in self._ending_at(cut):
                if needed > most:
                    break
                if start in kept and kept[start] + needed <= most:
                    total = kept[start] + crossing
                    if total < kept.get(cut, float("inf")):
                        kept[cut], before[cut] = total, start
        if end not in before:
            return []
        cuts = [end]
        while cuts[0]:
            cuts.insert(0, before[cuts[0]])
        return cuts

    def _ending_at(self, cut: int) -> Iterator[Tuple[int, int, int]]:
        """The segments that end at a cut, the shortest first: where each begins, and sizes.

        What is kept of it, and what its turn needs beside what is kept of those before.
        """
        incoming = sum(s for s, reader in zip(self._sizes[:cut], self._readers) if reader >= cut)
        incoming += _LOSS * self._sizes[-1] if cut == len(self._operators) else 0
        own = crossing = largest = 0
        for start in reversed(range(cut)):
            size = self._sizes[start]
            own, largest = own + size, max(largest, size)
            drawn = id(self._operators[start]) in self._masks
            crossing += size if self._readers[start] >= cut or drawn else 0
            yield start, crossing, own + 2 * largest + incoming

    # ---- what is between two cuts

    def segment(self, start: int, end: int) -> Segment:
        last = end == len(self._operators)
        masks = [(i, 0) for i in range(start, end) if id(self._operators[i]) in self._masks]
        gives = sorted(
            value for value, reader in self._last.items() if start <= value[0] < end <= reader
        )
        first = self._part(range(start, end), [*masks, *gives], moves=last)
        second = self._part(range(start, end), gives, given=masks)
        learns = any(key in self._learned or not isinstance(key, str) for key in first.takes)
        return Segment(first, second, learns)

    def _part(
        self, places: range, gives: List[Value], given: Sequence[Value] = (), moves: bool = True
    ) -> Part:
        """The operators at these places; `moves`: whether batch norms move their statistics.

        The gives come first in a graph's order: so dropouts draw in the order of the whole network.
        """
        inside: Dict[int, Node] = {}
        outside: Dict[Value, Node] = {}

        def taken(output: Output) -> Output:
            if output[0].op == "null":
                return output
            value = (self._place[id(output[0])], output[1])
            if value[0] in inside:
                return inside[value[0]], value[1]
            name = "value_{}_{}".format(*value)
            return outside.setdefault(value, Node("null", name)), 0

        for place in places:
            if (place, 0) not in given:
                node = self._operators[place]
                still = {} if moves or node.op != "BatchNorm" else {"momentum": "1"}
                inputs = [taken(output) for output in node.inputs]
                inside[place] = Node(node.op, node.name, {**node.attrs, **still}, inputs, node.rest)
        symbol = symbols.write([(inside[place], output) for place, output in gives])
        values = {node.name: value for value, node in outside.items()}
        takes = [values.get(name, name) for name in symbol.list_inputs()]
        return Part(mx.nd.CachedOp(symbol), takes, gives)


def _drawn_apart(heads: List[Output]) -> List[Node]:
    """Make of each dropout its input times a mask, which is a dropout of ones; the masks."""
    masks = []
    for node in symbols.walk(heads):
        if node.op == "Dropout":
            ones = Node("ones_like", f"{node.name}_ones", {}, node.inputs[:1])
            mask = Node("Dropout", f"{node.name}_mask", node.attrs, [(ones, 0)])
            node.op, node.attrs, node.inputs = "elemwise_mul", {}, [node.inputs[0], (mask, 0)]
            masks.append(mask)
    return masks


def _return_freed_memory() -> None:
    """Let glibc give what is freed back to the system; it would keep up to 32 MB of each piece."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 20)
        libc.mallopt(trim_threshold, 1 << 20)
