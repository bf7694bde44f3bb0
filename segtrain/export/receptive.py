"""The receptive field of a network: how much of an image can change the scores of one pixel.

Found from the graph, not by a probe: for one output pixel in each phase of the stride, the interval
of places that each operator reads is followed back to the input. Borders aren't considered.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from segtrain.export import symbols
from segtrain.export.symbols import Node

WHOLE = "whole image"

_POINTWISE = {
    *("Activation", "BatchNorm", "BlockGrad", "Cast", "Concat", "Dropout", "LeakyReLU", "SyncBatchNorm"),
    *("_copy", "_contrib_SyncBatchNorm", "abs", "add_n", "clip", "identity", "negative", "relu"),
    *("sigmoid", "softmax", "softsign", "square", "sqrt", "tanh", "exp", "log"),
}
_POINTWISE_STARTS = ("broadcast_", "elemwise_", "_equal", "_greater", "_lesser", "_maximum", "_minimum")
_SCALAR_ENDS = ("_scalar",)
_GLOBAL = {
    *("GroupNorm", "InstanceNorm", "L2Normalization", "LayerNorm", "_contrib_AdaptiveAvgPooling2D"),
    *("batch_dot", "max", "mean", "min", "sum", "FullyConnected", "Flatten"),
}
# Whose values don't depend on their input's, and Mirror's take, which reads beyond borders alone.
_CONSTANT = {"ones_like", "zeros_like", "_zeros", "_ones", "_arange", "shape_array", "take"}


class Field(NamedTuple):
    """The receptive field: pixels per axis, `WHOLE`, or "unknown"; exact, or an upper bound."""

    extent: Union[List[int], str]
    exact: bool


class _Span(NamedTuple):
    """What is needed of a node's output: the axis, and the first and last place, per phase."""

    axis: int
    first: np.ndarray
    last: np.ndarray


class _Global(Exception):
    """Something on the way looks at all of the image."""


class _Unknown(Exception):
    """An operator that this module doesn't know."""


def receptive_field(heads: mx.sym.Symbol, shape: Sequence[int], stride: int) -> Field:
    """The receptive field of the scores `heads` for an input (N, C, H, W) or (N, C, L).

    shape: a size that the network takes; stride: the number of pixels after which what a pixel
    sees repeats itself.
    """
    outputs = symbols.read(heads)[:1]
    sizes = _of_data(outputs, symbols.shapes(outputs, shape))
    bounds = False
    extent = []
    try:
        for axis in range(2, len(shape)):
            spans, bounded = _trace(outputs[0][0], sizes, axis, stride)
            bounds = bounds or bounded
            extent.append(int((spans.last - spans.first).max()) + 1)
    except _Global:
        return Field(WHOLE, True)
    except _Unknown:
        return Field("unknown", False)
    return Field(extent, not bounds)


def _of_data(outputs: List[symbols.Output], sizes: Dict[int, Any]) -> Dict[int, Any]:
    """The sizes of nodes that depend on the input alone, and not just on parameters."""
    found = {}
    for node in symbols.walk(outputs):
        if node.name == "data" or any(id(source) in found for source, _ in node.inputs):
            found[id(node)] = sizes[id(node)]
    return found


def _trace(head: Node, sizes: Dict[int, Tuple[int, ...]], axis: int, stride: int) -> Tuple[_Span, bool]:
    """What the head needs of `data`, and whether that is a bound alone."""
    phases = np.arange(stride)
    needed = {id(head): _Span(axis, phases, phases)}
    bounds = False
    for node in reversed(symbols.walk([(head, 0)])):
        span = needed.get(id(node))
        if span is None or node.op in _CONSTANT:
            continue
        if node.name == "data":
            return span, bounds
        bounds = bounds or node.op == "_contrib_BilinearResize2D"
        for source, wanted in _sources(node, span, sizes):
            before = needed.get(id(source), wanted)
            needed[id(source)] = _Span(
                wanted.axis,
                np.minimum(before.first, wanted.first),
                np.maximum(before.last, wanted.last),
            )
    raise _Unknown("the scores don't depend on data")


def _sources(node: Node, span: _Span, sizes: Dict[int, Any]) -> List[Tuple[Node, _Span]]:
    """The inputs of a node that are maps, and what of them is needed."""
    maps = [source for source, _ in node.inputs if id(source) in sizes]
    op, axis = node.op, span.axis
    if op == "Concat" and node.numbers("dim", [1])[0] == axis:
        return _pieces(node, span, sizes)
    pointwise = op in _POINTWISE or op.startswith(_POINTWISE_STARTS) or op.endswith(_SCALAR_ENDS)
    if pointwise:
        return [(source, span) for source in maps]
    if op in ("slice_like", "reshape_like"):
        return [(maps[0], span)]
    if op == "Pooling" and node.is_true("global_pool"):
        raise _Global(op)
    if op in _GLOBAL:
        raise _Global(op)
    if op not in _MOVES:
        raise _Unknown(op)
    return [(maps[0], _MOVES[op](node, span, sizes))]


def _pieces(node: Node, span: _Span, sizes: Dict[int, Any]) -> List[Tuple[Node, _Span]]:
    """Of arrays joined along the axis: each is needed from where it begins."""
    start, found = 0, []
    for source, _ in node.inputs:
        found.append((source, _Span(span.axis, span.first - start, span.last - start)))
        start += sizes[id(source)][span.axis]
    return found


def _kernel(node: Node, axis: int) -> Tuple[int, int, int]:
    """How far a kernel reaches along the axis beyond its first pixel, its stride, and its padding."""
    kernel, stride, pad, dilate = (
        node.numbers(key, [default] * 3)[axis - 2]
        for key, default in (("kernel", 1), ("stride", 1), ("pad", 0), ("dilate", 1))
    )
    return dilate * (kernel - 1), stride, pad


def _window(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    reach, stride, pad = _kernel(node, span.axis)
    return _Span(span.axis, span.first * stride - pad, span.last * stride - pad + reach)


def _transposed(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    reach, stride, pad = _kernel(node, span.axis)
    return _Span(span.axis, -(-(span.first + pad - reach) // stride), (span.last + pad) // stride)


def _grown(span: _Span, factor: int) -> _Span:
    return _Span(span.axis, span.first // factor, span.last // factor)


def _bilinear(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    """With aligned corners a pixel's two sources drift by less than one from first to last."""
    before, after = (sizes[id(n)][span.axis] for n in (node.inputs[0][0], node))
    if before == 1:
        raise _Global("resized from one pixel")
    if before == after:
        return span
    ratio = before / after
    first, last = np.floor((span.first - 1) * ratio), np.floor(span.last * ratio) + 1
    return _Span(span.axis, first.astype(int), last.astype(int))


def _folded(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    size = node.numbers("block_size")[0]
    return _Span(span.axis, span.first * size, span.last * size + size - 1)


def _expanded(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    return span._replace(axis=span.axis - (node.numbers("axis")[0] < span.axis))


def _squeezed(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    return span._replace(axis=span.axis + (node.numbers("axis")[0] <= span.axis))


def _repeated(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    along = node.numbers("axis")[0] == span.axis
    return _grown(span, node.numbers("repeats")[0]) if along else span


def _sliced(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    begin = node.numbers("begin", [0])[0] if node.numbers("axis")[0] == span.axis else 0
    return _Span(span.axis, span.first + begin, span.last + begin)


def _reshaped(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    """(N, C, L, s) to (N, C, L s), all but each s-th sample zeros: a transposed convolution's, 1-D."""
    before = sizes[id(node.inputs[0][0])]
    if node.numbers("shape") != [0, 0, -1] or len(before) != 4 or node.inputs[0][0].op != "Pad":
        raise _Unknown("Reshape")
    return _Span(span.axis, -(-span.first // before[3]), span.last // before[3])


def _padded(node: Node, span: _Span, sizes: Dict[int, Any]) -> _Span:
    before = node.numbers("pad_width")[2 * span.axis]
    return _Span(span.axis, span.first - before, span.last - before)


_MOVES = {
    "Convolution": _window,
    "Pooling": _window,
    "Deconvolution": _transposed,
    "UpSampling": lambda node, span, sizes: _grown(span, node.numbers("scale")[0]),
    "_contrib_BilinearResize2D": _bilinear,
    "space_to_depth": _folded,
    "depth_to_space": lambda node, span, sizes: _grown(span, node.numbers("block_size")[0]),
    "expand_dims": _expanded,
    "squeeze": _squeezed,
    "repeat": _repeated,
    "slice_axis": _sliced,
    "Reshape": _reshaped,
    "Pad": _padded,
}
