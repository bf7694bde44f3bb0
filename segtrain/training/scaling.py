"""Dynamic loss scaling: small float16 gradients are kept from vanishing, large ones found."""

from __future__ import annotations

from typing import Any, Dict, List

import mxnet as mx

_AT_ONCE = 200  # more arrays than that overflow a table in MXNet's kernel


def all_finite(arrays: List[mx.nd.NDArray]) -> bool:
    """Whether all numbers of arrays on one device are finite; waits for it."""
    parts = [arrays[start : start + _AT_ONCE] for start in range(0, len(arrays), _AT_ONCE)]
    found = [mx.nd.multi_all_finite(*part, num_arrays=len(part)) for part in parts]
    return all(bool(part.asscalar()) for part in found)


class LossScaler:
    """What the loss is multiplied by before the backward pass (Micikevicius et al. 2018, section 3.2).

    Halved when a gradient overflows, whose step is then left out; doubled after `patience` steps
    without one.
    """

    def __init__(self, scale: float = 2.0**15, patience: int = 2000):
        self.scale, self._patience, self._passed = scale, patience, 0

    def passes(self, gradients: List[mx.nd.NDArray]) -> bool:
        """Whether all the gradients are finite, so that the step counts; waits for their device."""
        if not all_finite(gradients):
            self.scale, self._passed = max(1.0, self.scale / 2), 0
            return False
        self._passed += 1
        if self._passed == self._patience:
            self.scale, self._passed = min(2.0**24, self.scale * 2), 0
        return True

    def state(self) -> Dict[str, Any]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "passed": self._passed}

    def restore(self, state: Dict[str, Any]) -> None:
        """Go back to what a checkpoint kept."""
        self.scale, self._passed = state["scale"], state["passed"]
