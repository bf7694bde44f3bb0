"""What a network is made of: its layers with shapes, parameters and operations, without running it."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np

from segtrain import models, plugins
from segtrain.config import Config
from segtrain.errors import UserError

_PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected"}
_HIDDEN = {"null", "_copy", "identity"}


def describe(config: Config, size: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The network of a config: name, input, parameters, flops, layers.

    size: the input's sides, the crop by default; each is rounded up to the network's stride.
    parameters: trainable ones; flops: of convolutions and dense layers, a multiply-add being two.
    UserError where the config names no classes.
    """
    net = models.network(config.model, _classes(config), config.data.mean, config.data.std)
    stride = net.stride
    sides = size or config.data.crop[-config.model.dim :]
    fitting = [net.side or -(-side // stride) * stride for side in sides]
    shape = (1, config.model.in_channels, *fitting)
    symbol = mx.sym.Group(net.heads(mx.sym.var("data")))
    trainable = {p.name for p in net.collect_params().values() if p.grad_req != "null"}
    layers = _layers(symbol, shape, trainable)
    return {
        "model": config.model.name,
        "input": list(shape),
        "stride": stride,
        "parameters": sum(layer["parameters"] for layer in layers),
        "flops": sum(layer["flops"] for layer in layers),
        "layers": layers,
    }


def _layers(symbol: Any, shape: tuple[int, ...], trainable: set[str]) -> list[dict[str, Any]]:
    internals = symbol.get_internals()
    inputs, outputs, _ = internals.infer_shape(data=shape)
    shapes = dict(zip(internals.list_outputs(), outputs))
    arguments = dict(zip(internals.list_arguments(), inputs))
    nodes = json.loads(symbol.tojson())["nodes"]
    return [
        _layer(node, nodes, shapes, arguments, trainable) for node in nodes if node["op"] not in _HIDDEN
    ]


def _layer(
    node: dict, nodes: list, shapes: dict, arguments: dict, trainable: set[str]
) -> dict[str, Any]:
    own = [nodes[i]["name"] for i, *_ in node["inputs"] if nodes[i]["op"] == "null"]
    key = next(k for k in (f"{node['name']}_output", f"{node['name']}_output0") if k in shapes)
    counts = {name: int(np.prod(arguments[name])) for name in own if name in trainable}
    weight = next((n for name, n in counts.items() if name.endswith("weight")), 0)
    flops = 0
    if node["op"] in _PRODUCTS:
        over = key if node["op"] != "Deconvolution" else _input(node, nodes)
        flops = 2 * weight * int(np.prod(shapes[over][2:]))
    return {
        "name": node["name"],
        "type": node["op"],
        "output_shape": list(shapes[key]),
        "parameters": sum(counts.values()),
        "flops": flops,
    }


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
