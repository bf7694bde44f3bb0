"""What a network is made of: its layers with shapes, parameters and operations, without running it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from segtrain import models, plugins
from segtrain.config import Config
from segtrain.errors import UserError
from segtrain.layers import Chain

_PRODUCTS = {"Convolution": "conv", "Deconvolution": "deconv", "FullyConnected": "dense"}
_HIDDEN = {"null", "_copy", "identity"}
_WORDS = {
    "Concat": "concat",
    "elemwise_add": "add",
    "add_n": "add",
    "broadcast_mul": "multiply",
    "UpSampling": "resize",
    "_contrib_BilinearResize2D": "resize",
    "repeat": "resize",
}

Size = Tuple[int, ...]


def describe(config: Config, size: Size | None = None) -> dict[str, Any]:
    """The network of a config: model, input, stride, parameters, flops, layers, outputs.

    size: the input's sides, the crop by default; each is rounded up to the network's stride.
    parameters: trainable ones; flops: of convolutions and dense layers, a multiply-add being two.
    A layer has inputs, the names of the layers it takes from, and taps, the names that blocks of
    the network's streams have. UserError where the config names no classes.
    """
    net = models.network(config.model, _classes(config), config.data.mean, config.data.std)
    sides = size or config.data.crop[-config.model.dim :]
    fitting = [net.side or -(-side // net.stride) * net.stride for side in sides]
    shape = (1, config.model.in_channels, *fitting)
    symbol, blocks = _trace(net)
    trainable = {p.name for p in net.collect_params().values() if p.grad_req != "null"}
    shapes = _shapes(symbol, shape)
    layers = _layers(symbol, shapes, trainable)
    _add_taps(layers, blocks, shapes)
    return {
        "model": config.model.name,
        "input": list(shape),
        "stride": net.stride,
        "parameters": sum(layer["parameters"] for layer in layers),
        "flops": sum(layer["flops"] for layer in layers),
        "layers": layers,
        "outputs": [_shown(name, layers) for name in symbol.list_outputs()],
    }


class Skip(NamedTuple):
    """A tap that a block of its own resolution reads, with something coarser or finer on the way."""

    name: str
    chain: Chain
    key: str
    shape: Size


def skips(net: models.Network, shape: Size) -> List[Skip]:
    """The skip connections of a network for an input of that shape, in the order of their chains.

    A name that stands in several chains has its chain's path before it.
    """
    symbol, blocks = _trace(net)
    shapes = _shapes(symbol, shape)
    found = []
    for path, chain in _chains(net, blocks):
        sizes = _stream_shapes(chain, blocks[chain], shapes)
        read = [
            name
            for key, block in chain._children.items()
            for name in getattr(block, "reads", ())
            if name in sizes and sizes[name][2:] == sizes.get(key, ())[2:]
        ]
        found += [(path, chain, name, sizes[name]) for name in dict.fromkeys(read)]
    twice = {name for name, n in Counter(name for _, _, name, _ in found).items() if n > 1}
    return [
        Skip(f"{path}.{name}" if name in twice else name, chain, name, size)
        for path, chain, name, size in found
    ]


def _chains(net: models.Network, blocks: dict) -> Iterator[Tuple[str, Chain]]:
    """The chains within the heads, with their paths."""

    def walk(block: Any, path: str) -> Iterator[Tuple[str, Chain]]:
        for key, child in block._children.items():
            here = f"{path}.{key}" if path else key
            if child in blocks:
                yield here, child
            yield from walk(child, here)

    yield from walk(net.heads, "")


def _stream_shapes(chain: Chain, outputs: Dict[str, List[str]], shapes: dict) -> Dict[str, Size]:
    """The shape of each value by name in a chain that changes the resolution; else nothing."""
    named = {key: names[0] for key, names in outputs.items() if key and len(names) == 1}
    named.update(zip(chain.takes, outputs.get("", [])))
    sizes = {key: shapes[name] for key, name in named.items() if name in shapes}
    return sizes if len({size[2:] for size in sizes.values()}) > 1 else {}


def _trace(net: models.Network) -> Tuple[Any, Dict[Chain, Dict[str, List[str]]]]:
    """The network's symbol, and by chain the outputs of each of its blocks, and of its input."""
    seen: Dict[Chain, Dict[str, List[str]]] = {}
    hooks = []

    def watch(block: Any) -> None:
        if isinstance(block, Chain):
            hooks.append(block.register_forward_hook(lambda b, x, y: seen[b].update({"": _named(x)})))
            seen[block] = {}
            for key, child in block._children.items():
                hooks.append(child.register_forward_hook(_keeper(seen[block], key)))

    net.heads.apply(watch)
    try:
        symbol = mx.sym.Group(net.heads(mx.sym.var("data")))
    finally:
        for hook in hooks:
            hook.detach()
    return symbol, seen


def _keeper(found: Dict[str, List[str]], key: str) -> Any:
    def keep(block: Any, inputs: Any, output: Any) -> None:
        found[key] = _named(output)

    return keep


def _named(values: Any) -> List[str]:
    """The names of the symbols in a symbol or in nested lists of them."""
    if isinstance(values, (list, tuple)):
        return [name for value in values for name in _named(value)]
    return list(values.list_outputs())


def _shapes(symbol: Any, shape: Size) -> Dict[str, Size]:
    """The shape of each value and parameter within, by name."""
    internals = symbol.get_internals()
    inputs, outputs, _ = internals.infer_shape(data=shape)
    return {
        **dict(zip(internals.list_arguments(), inputs)),
        **dict(zip(internals.list_outputs(), outputs)),
    }


def _layers(symbol: Any, shapes: Dict[str, Size], trainable: set[str]) -> List[Dict[str, Any]]:
    nodes = json.loads(symbol.tojson())["nodes"]
    return [_layer(node, nodes, shapes, trainable) for node in nodes if node["op"] not in _HIDDEN]


def _layer(node: dict, nodes: list, shapes: dict, trainable: set[str]) -> dict[str, Any]:
    own = [nodes[i]["name"] for i, *_ in node["inputs"] if nodes[i]["op"] == "null"]
    key = next(k for k in (f"{node['name']}_output", f"{node['name']}_output0") if k in shapes)
    counts = {name: int(np.prod(shapes[name])) for name in own if name in trainable}
    weight = next((n for name, n in counts.items() if name.endswith("weight")), 0)
    flops = 0
    if node["op"] in _PRODUCTS:
        over = key if node["op"] != "Deconvolution" else _input(node, nodes)
        flops = 2 * weight * int(np.prod(shapes[over][2:]))
    return {
        "name": node["name"],
        "type": node["op"],
        "does": _words(node),
        "output_shape": list(shapes[key]),
        "parameters": sum(counts.values()),
        "flops": flops,
        "inputs": list(dict.fromkeys(name for i, *_ in node["inputs"] for name in _sources(i, nodes))),
        "taps": [],
    }


def _words(node: dict) -> str:
    """What an operator does, in the field's words: '3x3 conv /2', 'max pool', 'concat'."""
    if node["name"].startswith("normalize"):
        return "normalise" if node["op"] == "broadcast_mul" else node["op"]
    attributes = node.get("attrs", {})
    kernel = attributes.get("kernel", "").strip("(),").replace(", ", "x")
    stride = attributes.get("stride", "").strip("()").split(",")[0]
    if node["op"] in _PRODUCTS:
        sign = "x" if node["op"] == "Deconvolution" else "/"
        strided = f" {sign}{stride}" if stride not in ("", "1") else ""
        return f"{kernel} {_PRODUCTS[node['op']]}{strided}".strip()
    if node["op"] == "Pooling":
        return f"{attributes.get('pool_type', 'max')} pool"
    if node["op"] in ("Activation", "LeakyReLU"):
        return str(attributes.get("act_type", "relu"))
    return _WORDS.get(node["op"], node["op"])


def _sources(index: int, nodes: list) -> List[str]:
    """The layers, or 'data', that a value comes from: its own, or what a hidden one passes on."""
    node = nodes[index]
    if node["op"] not in _HIDDEN or node["name"] == "data":
        return [node["name"]]
    return [name for i, *_ in node["inputs"] for name in _sources(i, nodes)]


def _add_taps(layers: List[Dict[str, Any]], blocks: dict, shapes: Dict[str, Size]) -> None:
    """Write into the layers the names of the streams: of chains that change the resolution."""
    of_layer = {layer["name"]: layer for layer in layers}
    for chain, outputs in blocks.items():
        for key in _stream_shapes(chain, outputs, shapes):
            if key in outputs and not key.isdigit():
                layer = of_layer.get(_shown(outputs[key][0], layers))
                if layer and key not in layer["taps"]:
                    layer["taps"].append(key)


def _shown(output: str, layers: List[Dict[str, Any]]) -> str:
    """The name of the layer that has this output; empty for one that isn't shown."""
    names = {layer["name"] for layer in layers}
    ends = ("_output", "_output0")
    return next(
        (output[: -len(e)] for e in ends if output.endswith(e) and output[: -len(e)] in names), ""
    )


def _input(node: dict, nodes: list) -> str:
    before = nodes[node["inputs"][0][0]]
    return f"{before['name']}_output" if before["op"] != "null" else before["name"]


def _classes(config: Config) -> int:
    fixed = getattr(plugins.find("data", config.data.name), "CLASSES", [])
    named: list[str] = config.data.options.get("classes") or fixed
    count = config.model.classes or len(named)
    if not count:
        raise UserError("how many classes? set data.classes, or model.classes where there is no data")
    return count
