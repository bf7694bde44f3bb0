"""GluonCV's own segmentation networks, built offline, with their auxiliary heads."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, Dict, List

from mxnet.gluon import HybridBlock, nn
from pydantic import PositiveInt

from segtrain.errors import nearest
from segtrain.layers import Blocks
from segtrain.layers.sync import SyncBatchNorm

_RESNETS = ("resnet50", "resnet101", "resnet152")
_STEM = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
_FAMILIES = {
    "fcn": ("fcn", "FCN", _RESNETS),
    "psp": ("pspnet", "PSPNet", _RESNETS),
    "deeplab": ("deeplabv3", "DeepLabV3", _RESNETS),
    "danet": ("danet", "DANet", _RESNETS),
    "icnet": ("icnet", "ICNet", _RESNETS),
    "deeplabplus": ("deeplabv3_plus", "DeepLabV3Plus", ("xception",)),
    "deeplabv3bplus": ("deeplabv3b_plus", "DeepLabWV3Plus", ("wideresnet",)),
}
_HRNETS = ("w18_small_v1", "w18_small_v2", "w18", "w30", "w32", "w40", "w44", "w48", "w64")


def names() -> List[str]:
    """The networks that there are."""
    resnets = [f"{family}_{base}" for family, (_, _, bases) in _FAMILIES.items() for base in bases]
    return [*resnets, "fastscnn", *[f"hrnet_{size}" for size in _HRNETS]]


def build(
    classes: int,
    blocks: Blocks,
    *,
    network: str,
    crop_size: PositiveInt = 480,
    aux: bool = True,
) -> HybridBlock:
    """RGB (N, 3, H, W) to a list of class scores, the main head's first; H = W = `crop_size`.

    network: FAMILY_BACKBONE, as in GluonCV's names (their papers are in its model zoo's docs).
    crop_size: the side that the layers are made for (data.crop must be the same); images of other
    sizes go through in windows. HRNets alone take any multiple of 32. aux: whether the auxiliary
    heads train beside the main one; their losses count train.aux_weight.
    """
    if blocks.dim == 1 or blocks.in_channels != 3:
        raise ValueError("zoo networks take RGB images: model.dim=2, in_channels=3, fold=1")
    if blocks.norm not in ("batch", "sync"):
        raise ValueError("zoo networks have batch norm: model.norm=batch, or sync")
    with open(os.devnull, "w") as sink, redirect_stdout(sink):  # some print their size
        return Zoo(network, classes, _norm(blocks), crop_size, aux)


class Zoo(HybridBlock):
    """A network of GluonCV's, its heads' scores brought to the input's size."""

    def __init__(self, network: str, classes: int, norm: Dict[str, Any], crop_size: int, aux: bool):
        super().__init__()
        family, _, base = network.partition("_")
        any_size = family == "hrnet"
        self._resized = family in ("hrnet", "icnet")
        self._aux = aux
        self.side = None if any_size else crop_size
        with self.name_scope():
            self.net = _made(network, classes, norm, crop_size, aux)
        self.net.collect_params().setattr("lr_mult", 1)  # a learning rate means what it says
        parameters = self.net._collect_params_with_prefix()
        if base in _RESNETS:
            self.encoder_name = f"{base}_v1s"
            self.encoder_parameters = {
                key: p for key, p in parameters.items() if key.partition(".")[0] in _STEM
            }

    def hybrid_forward(self, F, x):
        heads = self.net(x)
        heads = list(heads) if isinstance(heads, (list, tuple)) else [heads]
        if self._resized:
            heads = [F.contrib.BilinearResize2D(head, x, mode="like") for head in heads]
        return heads if self._aux else heads[:1]


def _made(network: str, classes: int, norm: Dict[str, Any], crop_size: int, aux: bool) -> HybridBlock:
    if network not in names():
        raise ValueError(f"network: GluonCV has no {network!r} here; {nearest(network, names())}")
    family, _, base = network.partition("_")
    if family == "hrnet":
        from gluoncv.model_zoo.hrnet import get_hrnet

        return get_hrnet(base, purpose="seg", num_classes=classes, **norm)
    options = {"pretrained_base": False, "crop_size": crop_size, "aux": aux, **norm}
    if family == "fastscnn":
        from gluoncv.model_zoo.fastscnn import FastSCNN

        return FastSCNN(classes, **options)
    module, name, _ = _FAMILIES[family]
    return getattr(import_module(f"gluoncv.model_zoo.{module}"), name)(classes, backbone=base, **options)


def _norm(blocks: Blocks) -> Dict[str, Any]:
    if blocks.norm == "sync" and blocks.devices > 1:
        return {"norm_layer": SyncBatchNorm, "norm_kwargs": {}}
    return {"norm_layer": nn.BatchNorm, "norm_kwargs": {}}
