"""GluonCV's classifiers as encoders: the features at each resolution, found in the graph itself."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import redirect_stdout
from typing import Any, Dict, Optional, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter, SymbolBlock

from segtrain.errors import nearest
from segtrain.layers.blocks import Blocks
from segtrain.layers.chain import Each
from segtrain.layers.streams import Encoder

_SIDE = 224


class Backbone(HybridBlock):
    """(N, C, H, W) to streams of `widths` channels, finest first, each half the size of the last.

    The first stream is the input through convolutions of its own; each further one is the
    classifier's last feature of that size, brought to its width by a 1x1 convolution. H and W are
    multiples of 2 ** (streams - 1). Raises ValueError for a name that GluonCV doesn't have, and
    for a classifier without such features.
    """

    def __init__(self, name: str, widths: Sequence[int], blocks: Blocks):
        super().__init__(prefix="encoder_")
        if blocks.dim == 1:
            raise ValueError(f"encoder {name} is for images; leave model.encoder out with model.dim=1")
        if blocks.norm == "sync" and blocks.devices > 1:
            raise ValueError("model.norm=sync doesn't reach into an encoder; use batch or group")
        if not 2 <= len(widths) <= 6:
            raise ValueError(f"an encoder has 2 to 6 streams, and there are {len(widths)} widths")
        with self.name_scope():
            self.features, self.encoder_parameters = _features(name, len(widths) - 1)
        self.encoder_name = name
        self.stem = blocks.convs(widths[0])
        self.project = Each(*[blocks.conv(width, 1) for width in widths[1:]])

    def hybrid_forward(self, F, x):
        features = self.features(x)
        features = list(features) if isinstance(features, (list, tuple)) else [features]
        return [self.stem(x), *self.project(features)]


def encoder_of(name: Optional[str], widths: Sequence[int], blocks: Blocks, units: int) -> HybridBlock:
    """GluonCV's classifier of that name as an encoder; without one, a U-Net's.

    That has `units` convolutions of `widths` channels per stream, and max pooling between them.
    """
    if name:
        return Backbone(name, widths, blocks)
    return Encoder(len(widths), lambda i: blocks.convs(widths[i], units), lambda i: blocks.pool())


def _features(name: str, count: int) -> Tuple[SymbolBlock, Dict[str, Parameter]]:
    """The classifier up to its features of 1/2, 1/4, ... of the input, and its parameters.

    The parameters are named as in GluonCV's files, those of the unused rest left out.
    """
    classifier = _classifier(name)
    scores = classifier(mx.sym.var("data"))
    internals = (scores[0] if isinstance(scores, (list, tuple)) else scores).get_internals()
    last = _last_of_each_size(name, internals)
    sides = [_SIDE >> level for level in range(1, count + 1)]
    absent = [side for side in sides if side not in last]
    if absent:
        raise ValueError(
            f"encoder {name} has no feature of 1/{_SIDE // absent[0]} of the input's size; "
            "resnet, resnest, mobilenet, densenet and vgg have all"
        )
    outputs = [internals[last[side]] for side in sides]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type")  # it is float32, the default
        block = SymbolBlock(outputs, mx.sym.var("data"), params=classifier.collect_params())
    used = set(block.collect_params())
    named = classifier._collect_params_with_prefix()
    return block, {key: p for key, p in named.items() if p.name in used}


def _classifier(name: str) -> HybridBlock:
    from gluoncv import model_zoo

    try:
        with open(os.devnull, "w") as sink, redirect_stdout(sink):
            return model_zoo.get_model(name, pretrained=False)
    except ValueError:
        known = [n for n in model_zoo.get_model_list() if "_" not in n or n.count("_") < 3]
        raise ValueError(f"encoder: GluonCV has no {name!r}; {nearest(name, known)}") from None


def _last_of_each_size(name: str, internals: Any) -> Dict[int, str]:
    """By side, the last value through which everything from input to output must pass.

    So a stage's output counts, and what runs beside a shortcut doesn't. A node is passed by all
    where the paths to it, times the paths from it on, are all the paths that there are.
    """
    try:
        with redirect_stdout(None):  # MXNet prints the shapes that don't fit
            _, shapes, _ = internals.infer_shape(data=(1, 3, _SIDE, _SIDE))
    except mx.MXNetError:
        raise ValueError(f"encoder {name} doesn't take inputs of any size") from None
    shape_of = dict(zip(internals.list_outputs(), shapes))
    nodes = json.loads(internals.tojson())["nodes"]
    inputs = [[i for i, *_ in node["inputs"] if _is_data(nodes[i])] for node in nodes]
    before, after = [0] * len(nodes), [0] * len(nodes)
    for i, node in enumerate(nodes):
        before[i] = 1 if node["name"] == "data" else sum(before[j] for j in inputs[i])
    after[-1] = 1
    for i in reversed(range(len(nodes))):
        for j in inputs[i]:
            after[j] += after[i]
    found = {}
    for i, node in enumerate(nodes):
        outputs = [f"{node['name']}_output", f"{node['name']}_output0"]
        key = next((k for k in outputs if k in shape_of), None)
        if key and before[i] * after[i] == before[-1] and len(shape_of[key]) == 4:
            found[shape_of[key][2]] = key
    return found


def _is_data(node: dict) -> bool:
    return node["op"] != "null" or node["name"] == "data"
