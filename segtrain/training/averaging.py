"""An exponential moving average of a network's weights while it trains."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator

import mxnet as mx


class Average:
    """Averages parameters step by step (Tarvainen & Valpola 2017, section 2).

    After step t an average keeps min(decay, (1 + t) / (10 + t)) of itself, so that the first
    weights are soon forgotten. Running statistics aren't averaged: they are averages already.
    """

    def __init__(self, parameters: Dict[str, Any], context: mx.Context, decay: float):
        self._parameters, self._context, self._decay = parameters, context, decay
        self.begin()

    def begin(self) -> None:
        """Begin anew with the weights as they are."""
        self._kept = {n: p.data(self._context).astype("float32") for n, p in self._parameters.items()}

    def update(self, number: int) -> None:
        """Take in the weights after the `number`-th step; doesn't wait for the device."""
        share = 1 - min(self._decay, (1 + number) / (10 + number))
        for name, parameter in self._parameters.items():
            kept = self._kept[name]
            kept += share * (parameter.data(self._context).astype("float32") - kept)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The network with the averaged weights, on the average's device; then with its own again."""
        weights = {n: p.data(self._context) for n, p in self._parameters.items()}
        own = {n: w.copy() for n, w in weights.items()}
        for name, weight in weights.items():
            weight[:] = self._kept[name].astype(weight.dtype)
        try:
            yield
        finally:
            mx.nd.waitall()
            for name, weight in weights.items():
                weight[:] = own[name]

    def arrays(self) -> Dict[str, mx.nd.NDArray]:
        """The averages, for a checkpoint."""
        return {f"average.{n}": a.as_in_context(mx.cpu()) for n, a in self._kept.items()}

    def restore(self, arrays: Dict[str, mx.nd.NDArray]) -> None:
        """Go back to the averages that a checkpoint kept."""
        for name, kept in self._kept.items():
            kept[:] = arrays[f"average.{name}"].as_in_context(self._context)
