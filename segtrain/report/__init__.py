"""report.html: a run as one file that explains itself, works offline, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segtrain.config import Config
from segtrain.data.dataset import open_split
from segtrain.evaluation.evaluate import evaluate, policy_of
from segtrain.graph import drawing, graph
from segtrain.prediction import infer
from segtrain.report import cases, facts, page
from segtrain.run import Run
from segtrain.trained import Trained, open_trained


def report(
    run_path: Path,
    out: Path | None = None,
    split: str = "val",
    *,
    images: int = 6,
    device: str = "auto",
    scores: dict[str, Any] | None = None,
) -> Path:
    """Write the report of a run, RUN/report.html or `out`, and return its path.

    images: how many of the worst and how many of the best to show; scores: what `evaluate` gave
    for the run's best checkpoint on this split, where that has been done already. The same run
    and scores give the same bytes. UserError where `run_path` is no run with a checkpoint.
    """
    Run.open(run_path)
    trained = open_trained(run_path, device)
    assert trained.config is not None
    dataset = open_split(trained.config.data, split, trained.classes)
    predictor = trained.predictor(policy_of(trained.config))
    scores = scores or evaluate(predictor, dataset, tolerance_ms=trained.config.eval.tolerance_ms)
    worst, best = cases.extremes([image["miou"] for image in scores["images"]], images)
    drawn = cases.draw(trained, predictor, dataset, [*worst, *best])
    described = graph.describe(_counted(trained.config, trained))
    out = out or run_path / "report.html"
    content = page.render(
        facts.gather(run_path, trained.config, trained.score or {}),
        scores,
        split=split,
        worst=drawn[: len(worst)],
        best=drawn[len(worst) :],
        network={**described, "svg": drawing.svg(described)},
        palette=trained.palette,
    )
    infer.write(out, content.encode())
    return out


def _counted(config: Config, trained: Trained) -> Config:
    """The config with the number of classes that the dataset gave."""
    return config.model_copy(
        update={"model": config.model.model_copy(update={"classes": len(trained.classes)})}
    )


__all__ = ["report"]
