"""Devices by name: "auto", "cpu", "gpu", "cpu:0,1", "0,1" -> MXNet contexts that exist and can run."""

from __future__ import annotations

import re
import sys
from typing import List

import mxnet as mx

from segtrain.errors import UserError
from segtrain.machines import cuda, driver
from segtrain.machines.driver import Card

_INSTALL = "install a CUDA build: pip uninstall -y mxnet; pip install 'segtrain[cu117]'"


def contexts(text: str = "auto") -> List[mx.Context]:
    """The contexts that `text` names, each one existing and able to run.

    'auto': every usable GPU, else the CPU; 'gpu': every usable GPU; 'gpu:0,2' or '0,2': those;
    'cpu': one; 'cpu:0,1': two logical CPU devices. No kernel runs to find out. UserError for any
    other text, a GPU that doesn't exist, or one that this MXNet build has no kernels for.
    """
    check_driver()
    if text == "auto":
        return _usable() or [mx.cpu()]
    match = re.fullmatch(r"(cpu|gpu)|(?:(cpu|gpu):)?(\d+(?:,\d+)*)", text.strip())
    if not match:
        raise UserError(f"--devices {text!r}: write auto, cpu, gpu, cpu:0,1 or gpu:0,1")
    kind = match.group(1) or match.group(2) or "gpu"
    ids = [int(i) for i in (match.group(3) or "").split(",") if i]
    if len(set(ids)) != len(ids):
        raise UserError(f"--devices {text}: a device is named twice")
    if kind == "cpu":
        return [mx.cpu(i) for i in ids or [0]]
    return _gpus(text, ids)


def built_for_gpus() -> bool:
    """Whether this MXNet is a CUDA build."""
    return mx.runtime.Features().is_enabled("CUDA")


def check_driver() -> None:
    """UserError where CUDA won't work with the driver: then MXNet can't compute on the CPU either."""
    try:
        mx.context.num_gpus()
    except mx.MXNetError as error:
        raise UserError(
            f"this MXNet build's CUDA doesn't work with the driver, which supports CUDA "
            f"{driver.version()} ({str(error).strip().splitlines()[-1].split(' : ')[-1]}): install a "
            "newer driver, or the CPU build: pip uninstall -y mxnet-cu112 mxnet-cu117; "
            "pip install mxnet==1.9.1"
        ) from None


def _usable() -> List[mx.Context]:
    """Every GPU that this build can run on; the others are named on stderr."""
    found = []
    for card in _cards():
        reason = cuda.unusable(card)
        if reason:
            print(f"segtrain: {reason}", file=sys.stderr)
        else:
            found.append(mx.gpu(card.number))
    return found


def _cards() -> List[Card]:
    return driver.cards() if built_for_gpus() else []


def _gpus(text: str, ids: List[int]) -> List[mx.Context]:
    if not built_for_gpus():
        raise UserError(f"--devices {text}: this MXNet is a CPU build; use --devices cpu, or {_INSTALL}")
    if not ids:
        found = _usable()
        if not found:
            raise UserError(f"--devices {text}: there is no usable GPU; use --devices cpu")
        return found
    cards = _cards()
    for i in ids:
        if i >= len(cards):
            raise UserError(
                f"--devices {text}: there is no GPU {i}; the driver has {len(cards)}. See them "
                "with segtrain doctor, or use --devices cpu"
            )
        reason = cuda.unusable(cards[i])
        if reason:
            raise UserError(f"--devices {text}: {reason}")
    return [mx.gpu(i) for i in ids]
