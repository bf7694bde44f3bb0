"""What each skip connection is worth: the score with its tap zeroed."""

from __future__ import annotations

import io
from typing import Any, Dict

from segtrain.bar import Bar
from segtrain.data.dataset import Dataset
from segtrain.errors import UserError
from segtrain.evaluation.evaluate import evaluate
from segtrain.graph import graph
from segtrain.prediction.infer import Policy
from segtrain.trained import Trained


def worth(trained: Trained, dataset: Dataset, policy: Policy = Policy()) -> Dict[str, Any]:
    """The result of `segtrain skips` for JSON: miou, and skips[{name, shape, miou, worth}].

    shape: (C, H, W) of the tap at the config's crop; miou: the score where all that read the tap
    get zeros instead; worth: what is lost by that. UserError where the network has no skips.
    """
    config, net = trained.config, trained.net
    if config is None:
        raise UserError("a bundle has no taps: give the run folder that it came from")
    sides = [net.side or -(-side // net.stride) * net.stride for side in config.data.crop]
    found = graph.skips(net, (1, config.model.in_channels, *sides[-config.model.dim :]))
    if not found:
        raise UserError(f"model {config.model.name} has no skip connections to cut")
    whole = _score(trained, dataset, policy)
    rows = []
    for skip in Bar(found, desc="skips", unit="skip"):
        with skip.chain.cut(skip.key):
            score = _score(trained, dataset, policy)
        lost = whole["miou"] - score["miou"]
        rows.append({"name": skip.name, "shape": skip.shape[1:], "miou": score["miou"], "worth": lost})
    _fresh(net)
    return {"miou": whole["miou"], "skips": rows, "policy": whole["policy"], "images": len(dataset.ids)}


def _score(trained: Trained, dataset: Dataset, policy: Policy) -> Dict[str, Any]:
    _fresh(trained.net)
    result = evaluate(trained.predictor(policy), dataset)
    if result["miou"] is None:
        raise UserError("every pixel of the split is ignored: there is no score")
    return result


def _fresh(net: Any) -> None:
    """Forget the graph that was traced before a tap was cut or mended."""
    net.hybridize(static_alloc=True, static_shape=True)


def chart(result: Dict[str, Any]) -> bytes:
    """The worth of each skip as a bar chart, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result["skips"]
    figure = Figure(figsize=(7, 1.2 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [f"{row['name']}  ({'x'.join(map(str, row['shape']))})" for row in rows]
    bars = axes.barh(names[::-1], [100 * row["worth"] for row in rows[::-1]], color="#3a6ea5")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.axvline(0, color="#333", linewidth=0.8)
    axes.set_xlabel(f"points of mIoU lost without the skip (whole: {100 * result['miou']:.1f})")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
