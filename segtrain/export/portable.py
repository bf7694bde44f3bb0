"""Networks rewritten, with the same values, into operators that MXNet's ONNX exporter takes rightly."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Set

import mxnet as mx
import numpy as np

from segtrain.export import symbols
from segtrain.export.network import Arrays, Network
from segtrain.export.symbols import Node, Output

_RENAMED = {"broadcast_maximum": "_maximum", "_equal": "broadcast_equal"}
"""Operators without a converter, and those that do the same here and have one."""


def rewritten(network: Network, shape: Sequence[int]) -> Network:
    """The network in other operators, for inputs of any size that it takes; `shape` is one such.

    The arrays and the symbol that are given aren't changed.
    """
    heads, arrays = symbols.read(network.symbol), dict(network.arrays)
    sizes = symbols.shapes(heads, shape)
    for node in symbols.walk(heads):
        node.op = _RENAMED.get(node.op, node.op)
        if node.op in ("Convolution", "Pooling"):
            node.attrs.pop("layout", None)  # the exporter asks for NCHW, in 1-D too
        if node.op != "null":
            node.name += "_"  # the exporter takes "norm10" for an output of "norm1"
        if node.op in _REWRITES:
            new = _REWRITES[node.op](node, sizes, arrays)
            heads = symbols.replace(heads, node, new)
    names = {node.name for node in symbols.walk(heads) if node.op == "null"}
    return Network(symbols.write(heads), {n: a for n, a in arrays.items() if n in names})


def operators(symbol: mx.sym.Symbol) -> Set[str]:
    """The operators of a symbol."""
    return {node.op for node in symbols.walk(symbols.read(symbol))}


def unaligned(symbol: mx.sym.Symbol) -> Set[str]:
    """The names of bilinear resizes that don't align corners."""
    return {
        node.name
        for node in symbols.walk(symbols.read(symbol))
        if node.op == "_contrib_BilinearResize2D" and node.attrs.get("align_corners") in ("False", "0")
    }


def loaded(arrays: Arrays) -> Dict[str, mx.nd.NDArray]:
    """Arrays as MXNet's."""
    return {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}


def _group_norm(node: Node, sizes: Dict[int, Any], arrays: Arrays) -> Output:
    """Instance norm over groups of channels side by side: (N, C, H, W) as (N, groups, -1)."""
    x, gamma, beta = node.inputs
    groups = node.numbers("num_groups")[0]
    flat = Node("Reshape", f"{node.name}_flat", {"shape": f"(0, {groups}, -1)"}, [x])
    attributes = {"eps": node.attrs.get("eps", "1e-05")}
    norm = Node("InstanceNorm", f"{node.name}_norm", attributes, [(flat, 0), gamma, beta])
    return Node("reshape_like", f"{node.name}_whole", {}, [(norm, 0), x]), 0


def _resize(node: Node, sizes: Dict[int, Any], arrays: Arrays) -> Output:
    """A resize to another array's size by the factor that it is, where it is a whole one."""
    if node.attrs.get("mode", "size") != "like":
        return node, 0
    before, after = (sizes[id(n)][2:] for n in (node.inputs[0][0], node))
    factors = [b / a for a, b in zip(before, after)]
    attributes = {"align_corners": node.attrs.get("align_corners", "True")}
    if all(factor.is_integer() for factor in factors):
        attributes.update(scale_height=str(factors[0]), scale_width=str(factors[1]))
    else:
        attributes.update(height=str(after[0]), width=str(after[1]))
    return Node(node.op, f"{node.name}_scaled", attributes, node.inputs[:1]), 0


def _adaptive_pool(node: Node, sizes: Dict[int, Any], arrays: Arrays) -> Output:
    """Means over parts of a map of known size, as products with constant matrices."""
    wanted = node.numbers("output_size", [1])
    rows, columns = wanted if len(wanted) == 2 else wanted * 2
    if (rows, columns) == (1, 1):
        return node, 0
    height, width = sizes[id(node.inputs[0][0])][2:]
    across = _product(node.inputs[0], f"{node.name}_w", _means(width, columns), arrays)
    down = _product(_turned(across, f"{node.name}_t"), f"{node.name}_h", _means(height, rows), arrays)
    return _turned(down, f"{node.name}_u")


def _means(length: int, parts: int) -> np.ndarray:
    """(parts, length): the i-th is the mean from floor(i L / parts) to ceil((i + 1) L / parts)."""
    matrix = np.zeros((parts, length), np.float32)
    for i in range(parts):
        start, end = i * length // parts, -(-(i + 1) * length // parts)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _product(x: Output, name: str, matrix: np.ndarray, arrays: Arrays) -> Output:
    """The last axis of x times a matrix (new, old)."""
    arrays[f"{name}_weight"] = matrix
    attributes = {"num_hidden": str(len(matrix)), "no_bias": "True", "flatten": "False"}
    weight = Node("null", f"{name}_weight")
    return Node("FullyConnected", name, attributes, [x, (weight, 0)]), 0


def _turned(x: Output, name: str) -> Output:
    return Node("transpose", name, {"axes": "(0, 1, 3, 2)"}, [x]), 0


_REWRITES: Dict[str, Callable[[Node, Dict[int, Any], Arrays], Output]] = {
    "GroupNorm": _group_norm,
    "_contrib_BilinearResize2D": _resize,
    "_contrib_AdaptiveAvgPooling2D": _adaptive_pool,
}
