"""MXNet's own: a symbol and its parameters, for CPUs and GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Sequence

from segtrain.export import bundle

if TYPE_CHECKING:  # the check of a bundle loads no framework
    from segtrain.export.network import Source

BAR = "the same class at every pixel"
RUNTIMES = ("mxnet",)


def passed(found: Dict[str, Any]) -> bool:
    """Whether a comparison with the run is good enough."""
    return found["differing_pixels"] == 0


def build(source: Source, folder: Path) -> Dict[str, Any]:
    """model-symbol.json and model-0000.params."""
    return source.network.save(folder, "model", dtype=source.dtype)


def check(folder: Path, files: Sequence[str]) -> None:
    """SegtrainError where the files aren't a network's."""
    bundle.check_network(folder, files)
