"""Devices by name: "auto", "cpu", "gpu", "cpu:0,1", "0,1" -> MXNet contexts that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata

import mxnet as mx

from segtrain.errors import UserError

# The machine code in the published CUDA wheels (no PTX): Maxwell to Ada cards can run it.
_OLDEST, _NEWEST = (5, 0), (8, 9)


def contexts(text: str = "auto") -> list[mx.Context]:
    """The contexts that `text` names, each one existing and able to run.

    'auto': every usable GPU, else the CPU; 'gpu': every GPU; 'gpu:0,2' or '0,2': those;
    'cpu': one; 'cpu:0,1': two logical CPU devices. UserError for any other text, a GPU that
    doesn't exist, or one that the published MXNet builds have no kernels for.
    """
    if text == "auto":
        reasons = {i: _unusable(i) for i in range(mx.context.num_gpus())}
        for reason in filter(None, reasons.values()):
            print(f"segtrain: {reason}", file=sys.stderr)
        return [mx.gpu(i) for i, reason in reasons.items() if reason is None] or [mx.cpu()]
    match = re.fullmatch(r"(?:(cpu|gpu)(?::|$))?((?:\d+(?:,\d+)*)?)", text.strip())
    if not match or not text.strip():
        raise UserError(f"--devices {text!r}: write auto, cpu, gpu, cpu:0,1 or gpu:0,1")
    kind, ids = match.group(1) or "gpu", [int(i) for i in match.group(2).split(",") if i]
    if len(set(ids)) != len(ids):
        raise UserError(f"--devices {text}: a device is named twice")
    if kind == "cpu":
        return [mx.cpu(i) for i in ids or [0]]
    return _gpus(text, ids)


def _gpus(text: str, ids: list[int]) -> list[mx.Context]:
    count = mx.context.num_gpus()
    ids = ids or list(range(count))
    for i in ids or [0]:
        if i >= count:
            raise UserError(
                f"--devices {text}: there is no GPU {i}; this MXNet sees {count}. "
                "Use --devices cpu, or install a CUDA build: pip install 'segtrain[cu117]'"
            )
        reason = _unusable(i)
        if reason:
            raise UserError(f"--devices {text}: {reason}")
    return [mx.gpu(i) for i in ids]


def _unusable(index: int) -> str | None:
    """Why GPU `index` can't run the published wheels' kernels, or None where it can.

    An MXNet build of another source than the package index is believed to suit its machine.
    """
    if not any(_installed(wheel) for wheel in ("mxnet-cu112", "mxnet-cu117")):
        return None
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    query += ["-i", _physical(index)]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        name, capability = (part.strip() for part in out.strip().rsplit(",", 1))
        major, minor = (int(part) for part in capability.split("."))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    if _OLDEST <= (major, minor) <= _NEWEST:
        return None
    return (
        f"GPU {index} ({name}) has compute capability {capability}, and the published MXNet 1.9.1 "
        "wheels hold kernels for 5.0 to 8.9 only: use another card, --devices cpu, or an MXNet "
        "build made for this card"
    )


def _installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def _physical(index: int) -> str:
    """The `index`-th visible card as nvidia-smi knows it."""
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return visible[index] if index < len(visible) and visible[index] else str(index)
