"""Speed of inference: networks run in turn on one input, so that what else runs slows all alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from segtrain.errors import UserError, one_line
from segtrain.machines import devices
from segtrain.prediction import infer, runtimes

PERCENTILES = (50, 90, 99)


def interleaved(
    networks: Mapping[str, Callable[[mx.nd.NDArray], mx.nd.NDArray]], x: mx.nd.NDArray, rounds: int
) -> Dict[str, Dict[str, Any]]:
    """By name: images_per_second, latency_ms by percentile, and equal_argmax with the first one.

    Each round runs each network once on `x` (N, C, H, W) and waits for its scores, as numpy's; one
    round before plans the memory. images_per_second is of the median latency; speedup the median
    over the rounds of the first network's time by this one's.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in networks}
    classes: Dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for name, network in networks.items():
            begun = time.perf_counter()
            scores = network(x).asnumpy()
            if number:
                seconds[name].append(time.perf_counter() - begun)
            else:
                classes[name] = scores.argmax(axis=1)
    first = next(iter(networks))
    return {
        name: {
            "images_per_second": len(x) / float(np.median(times)),
            "latency_ms": {f"p{p}": 1000 * float(np.percentile(times, p)) for p in PERCENTILES},
            "speedup": float(np.median(np.divide(seconds[first], times))),
            "equal_argmax": float((classes[name] == classes[first]).mean()),
        }
        for name, times in seconds.items()
    }


def bundle(
    path: Path,
    device: str = "auto",
    size: Optional[Sequence[int]] = None,
    batches: Sequence[int] = (1, 4),
    rounds: int = 10,
    beside: Mapping[str, Callable[[mx.nd.NDArray], mx.nd.NDArray]] = {},
) -> Dict[str, Any]:
    """How fast each format of a bundle is in each runtime that is installed here.

    size: of the input, 256 by 256 by default, or the network's only side; beside: other networks by
    name, timed before it, the first of them what the others are compared with. Keys: input, device,
    rounds, rows (format, runtime, batch, and what `interleaved` gives) and left_out, with the reason
    for each. UserError where the bundle is damaged.
    """
    context = devices.contexts(device)[0]
    try:
        about = runtimes.describe(path)
        networks, left_out = _networks(path, about, context)
    except (OSError, KeyError, TypeError, ValueError) as error:
        text = one_line(error)
        raise UserError(f"{path} is a damaged bundle ({text}): export it again") from None
    networks = {**{(name, "-"): network for name, network in beside.items()}, **networks}
    shape, dtype = _input(about, size)
    rows = []
    for batch in batches:
        values = np.random.default_rng(0).integers(0, 256, (batch, *shape))
        x = mx.nd.array(values, dtype=dtype, ctx=context)
        found = interleaved({"/".join(key): net for key, net in networks.items()}, x, rounds)
        for (form, runtime), figures in zip(networks, found.values()):
            rows.append({"format": form, "runtime": runtime, "batch": batch, **figures})
    given = {"shape": list(shape), "dtype": dtype}
    return {"input": given, "device": str(context), "rounds": rounds, "rows": rows, "left_out": left_out}


def _networks(
    path: Path, about: Dict[str, Any], context: mx.Context
) -> Tuple[Dict[Tuple[str, str], Callable], Dict[str, str]]:
    """By format and runtime, what runs it; and why others are left out."""
    networks: Dict[Tuple[str, str], Callable] = {}
    left_out: Dict[str, str] = {}
    for name, entry in about["formats"].items():
        for runtime in entry["runtimes"]:
            try:
                networks[name, runtime] = infer.load(path, context, name, runtime)[0]
            except infer.InputError as error:
                left_out[f"{name}/{runtime}"] = str(error)
    if not networks:
        raise UserError(f"{path}: nothing of it runs here: {'; '.join(left_out.values())}")
    return networks, left_out


def _input(about: Dict[str, Any], size: Optional[Sequence[int]]) -> Tuple[Tuple[int, ...], str]:
    """The shape of one input, without the batch, and its type."""
    given, side = about["input"], about["side"]
    if about.get("form"):
        return (len(given["channels"]), *(size or (4096,))[:1]), "float32"
    sides = tuple(size or (256, 256)) if side is None else (side, side)
    if size and side and tuple(size) != sides:
        raise UserError(f"--size: this network takes {side}x{side} alone")
    return (given["channels"], *sides), "uint8" if given["depth"] == 8 else "float32"
