"""Symbols rewritten to do the same with less: norms into convolutions, upsampling as convolution."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np

from segtrain.export import symbols
from segtrain.export.symbols import Node, Output

Arrays = Dict[str, np.ndarray]
"""Parameters and running statistics by name."""


def batch_norms(symbol: mx.sym.Symbol, arrays: Arrays) -> Tuple[mx.sym.Symbol, Arrays, int]:
    """The network with each batch norm that follows a convolution alone folded into it.

    Ioffe & Szegedy 2015, section 3.1, at inference: w' = w gamma / sqrt(var + eps), and
    b' = (b - mean) gamma / sqrt(var + eps) + beta, of transposed convolutions too. In 1-D, where
    the norm is run between expand_dims and squeeze, these go as well. Returns the symbol, its
    arrays, and how many norms were folded; the arrays given aren't changed.
    """
    heads, arrays, count = symbols.read(symbol), dict(arrays), 0
    takers = symbols.consumers(heads)
    weights = [n.inputs[1][0].name for n in symbols.walk(heads) if n.op in _CONVOLUTIONS]
    for norm in [node for node in symbols.walk(heads) if node.op == "BatchNorm"]:
        conv, last = _convolution_before(norm, takers), _end(norm, takers)
        if conv is None or weights.count(conv.inputs[1][0].name) > 1:
            continue
        _fold(conv, norm, arrays)
        heads = symbols.replace(heads, last, (conv, 0))
        count += 1
    return symbols.write(heads), _used(heads, arrays), count


_CONVOLUTIONS = ("Convolution", "Deconvolution")


def _convolution_before(norm: Node, takers: Dict[int, List[Node]]) -> Optional[Node]:
    """The convolution whose output the norm alone takes; None where something else does too."""
    node = norm.inputs[0][0]
    if node.op == "expand_dims" and _end(norm, takers) is norm:
        return None
    while node.op == "expand_dims" and len(takers[id(node)]) == 1:
        node = node.inputs[0][0]
    alone = all(len(takers[id(n)]) == 1 for n in (node, norm.inputs[0][0]))
    return node if node.op in _CONVOLUTIONS and alone else None


def _end(norm: Node, takers: Dict[int, List[Node]]) -> Node:
    """The norm, or the squeeze that brings its output back to the convolution's shape."""
    after = takers[id(norm)]
    before = norm.inputs[0][0]
    if before.op == "expand_dims" and len(after) == 1 and after[0].op == "squeeze":
        return after[0] if before.numbers("axis") == after[0].numbers("axis") else norm
    return norm


def _fold(conv: Node, norm: Node, arrays: Arrays) -> None:
    gamma, beta, mean, variance = (arrays[n.name].astype(np.float64) for n, _ in norm.inputs[1:5])
    if norm.attrs.get("fix_gamma", "True") == "True":
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(variance + float(norm.attrs.get("eps", 1e-3)))
    weight = conv.inputs[1][0]
    bias = conv.inputs[2][0] if len(conv.inputs) > 2 else None
    shift = arrays[bias.name].astype(np.float64) if bias else np.zeros_like(scale)
    arrays[weight.name] = _scaled(arrays[weight.name], scale, conv)
    name = bias.name if bias else f"{conv.name}_bias"
    arrays[name] = ((shift - mean) * scale + beta).astype(np.float32)
    if bias is None:
        conv.inputs.append((Node("null", name), 0))
        conv.attrs["no_bias"] = "False"


def _scaled(weight: np.ndarray, scale: np.ndarray, conv: Node) -> np.ndarray:
    """A convolution's weights (out, in, ...), or a transposed one's (in, out / groups, ...)."""
    groups = conv.numbers("num_group", [1])[0]
    if conv.op == "Convolution":
        factors = scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        per_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        shape = (groups, weight.shape[0] // groups, *weight.shape[1:])
        return (weight.reshape(shape) * per_group).reshape(weight.shape).astype(np.float32)
    return (weight * factors).astype(np.float32)


def upsampling(symbol: mx.sym.Symbol, arrays: Arrays) -> Tuple[mx.sym.Symbol, Arrays, int]:
    """The network with transposed convolutions of kernel 2, stride 2 run as 1x1 convolutions.

    Each input pixel gives four output pixels, which are channels of a 1x1 convolution (Shi et al.
    2016, section 3.2): so it can be quantised, which MXNet does to no transposed one. Two
    transpositions of matrices put them in their places, many times as fast as depth_to_space.
    Returns the symbol, its arrays, and how many were changed.
    """
    heads, arrays, count = symbols.read(symbol), dict(arrays), 0
    for node in [node for node in symbols.walk(heads) if _is_square(node)]:
        width = node.numbers("num_filter")[0]
        conv = _pixel_convolution(node, arrays)
        heads = symbols.replace(heads, node, _placed(conv, width))
        count += 1
    return symbols.write(heads), _used(heads, arrays), count


def _is_square(node: Node) -> bool:
    kernel, stride = node.numbers("kernel"), node.numbers("stride")
    plain = not any(node.numbers("pad")) and not any(node.numbers("adj"))
    single = node.numbers("num_group", [1]) == [1]
    return node.op == "Deconvolution" and kernel == stride == [2, 2] and plain and single


def _pixel_convolution(node: Node, arrays: Arrays) -> Node:
    """(N, C, H, W) to (N, 2 width 2, H, W), the channels by row, channel and column of a square."""
    weight = arrays.pop(node.inputs[1][0].name)
    name, inside = f"{node.name}_pixels", len(weight)
    arrays[f"{name}_weight"] = np.ascontiguousarray(
        weight.transpose(2, 1, 3, 0).reshape(-1, inside, 1, 1), np.float32
    )
    inputs: List[Output] = [node.inputs[0], (Node("null", f"{name}_weight"), 0)]
    if len(node.inputs) > 2:
        bias = arrays.pop(node.inputs[2][0].name)
        arrays[f"{name}_bias"] = np.tile(np.repeat(bias, 2), 2)
        inputs.append((Node("null", f"{name}_bias"), 0))
    filters = str(len(arrays[f"{name}_weight"]))
    attributes = {"kernel": "(1, 1)", "num_filter": filters, "no_bias": str(len(inputs) == 2)}
    return Node("Convolution", name, attributes, inputs)


def _placed(conv: Node, width: int) -> Output:
    """(N, 2 width 2, H, W) to (N, width, 2 H, 2 W), as transpositions of matrices."""
    like = {"lhs_begin": "2", "lhs_end": "3", "rhs_begin": "2", "rhs_end": "4"}
    steps: List[Tuple[str, Dict[str, str]]] = [
        ("Reshape", {"shape": f"(0, -4, {2 * width}, 2, -3)"}),  # row and channel, column, pixels
        ("transpose", {"axes": "(0, 1, 3, 2)"}),
        ("reshape_like", like),  # H and W again, of no known size
        ("Reshape", {"shape": "(0, -3, -3)"}),
        ("Reshape", {"shape": "(0, -4, 2, -1, 0)"}),  # row, channel and H, 2 W
        ("transpose", {"axes": "(0, 2, 1, 3)"}),
        ("Reshape", {"shape": "(0, -3, 0)"}),
        ("Reshape", {"shape": f"(0, -4, {width}, -1, 0)"}),
    ]
    node = conv
    for number, (op, attributes) in enumerate(steps):
        others: List[Output] = [(conv, 0)] if op == "reshape_like" else []
        node = Node(op, f"{conv.name}_{number}", attributes, [(node, 0), *others])
    return node, 0


def _used(heads: List[Output], arrays: Arrays) -> Arrays:
    names = {node.name for node in symbols.walk(heads) if node.op == "null"}
    return {name: array for name, array in arrays.items() if name in names}
