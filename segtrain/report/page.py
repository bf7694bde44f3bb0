"""The page: a Jinja2 template that escapes all it is given, with its style and script inside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Sequence

import jinja2
import numpy as np
from markupsafe import Markup

from segtrain import version
from segtrain.report import charts
from segtrain.report.cases import Case
from segtrain.report.facts import Facts

ROWS = 2000  # of the table of all images: the lowest ones, where there are more
CONFUSED = 8  # pairs of classes in the list of the largest confusions
_HOME = Path(__file__).parent
_WORDS = {  # in place of those that a key is made of
    "miou": "mIoU",
    "iou": "IoU",
    "lr": "learning rate",
    "ece": "calibration error (ECE)",
    "vi": "variation of information",
    "ppv": "PPV",
    "f1": "F1",
    "kappa": "Cohen's kappa",
    "frequency": "frequency-",
}
_NAMES = {"dice": "Dice", "mean_ms": "mean error, ms", "std_ms": "deviation, ms"}  # of whole keys
_APART = {"miou", "miou_ci95", "images_per_second"}  # told elsewhere, or not of the network


def render(
    facts: Facts,
    scores: dict[str, Any],
    *,
    split: str,
    worst: Sequence[Case],
    best: Sequence[Case],
    network: dict[str, Any],
    palette: np.ndarray,
) -> str:
    """The report as HTML.

    scores: the result of `evaluate`, of which every number is shown; network: `graph.describe`'s
    result with the drawing as `svg`; palette: (256, 3) uint8 RGB.
    """
    script = (_HOME / "report.js").read_text(encoding="utf-8")
    ranked = sorted(scores["images"], key=lambda image: (image["miou"] is None, image["miou"] or 0))
    return (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            scores=scores,
            split=split,
            groups=[("worst", worst), ("best", best)],
            shown={case.name: case.place for case in (*worst, *best)},
            network={**network, "svg": Markup(network["svg"])},
            colours=_colours(palette, facts.config.model.dim == 1),
            charts=charts.curves(facts.history, facts.best),
            further=further(scores),
            remarks=remarks(facts, scores, split),
            confusion=confusion(scores["confusion"], [row["name"] for row in scores["per_class"]]),
            columns=figures(scores["per_class"]),
            histogram=charts.histogram([image["miou"] for image in ranked if image["miou"] is not None]),
            ranked=ranked[:ROWS],
            ranks=figures(ranked),
            style=Markup((_HOME / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=version.__version__,
            size=charts,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HOME),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, exact=exact, plain=plain, label=label, duration=duration)
    return environment


def _colours(palette: np.ndarray, signals: bool) -> list[str]:
    """Each class's colour for CSS; of signals the first has none, as in their plots."""
    colours = [f"rgb({r} {g} {b})" for r, g, b in palette.tolist()]
    return ["transparent", *colours[1:]] if signals else colours


def figure(value: Any) -> str:
    """A score, a count or an interval: 0.583, 1,944,604, 0.574 to 0.591; a dash for none."""
    if isinstance(value, list):
        return " to ".join(map(figure, value))
    if isinstance(value, float) and np.isfinite(value):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else "–"


def exact(value: float | None) -> str:
    """A number of a history to four digits, however small it is."""
    return "–" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def plain(value: Any) -> str:
    """A part of the policy: text as it is, none for null, yes or no, numbers with commas between."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(key: str, signals: bool = False) -> str:
    """The name of a column or a score in the field's words; a signal has samples, not pixels."""
    if key.endswith("_ci95"):
        return f"{label(key[:-5], signals)}, 95% CI"
    if key in _NAMES:
        return _NAMES[key]
    text = " ".join(_WORDS.get(word, word) for word in key.split("_")).replace("- ", "-")
    return text.replace("pixel", "sample") if signals else text


def duration(seconds: float) -> str:
    """Seconds as 42 s, 12 min or 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def further(scores: dict[str, Any]) -> list[tuple[str, Any]]:
    """The scores of the whole split beside mIoU, numbers and intervals."""
    return [(key, value) for key, value in scores.items() if key not in _APART and _is_figure(value)]


def figures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The keys under which all rows have a number, an interval or nothing."""
    return [key for key in rows[0] if all(row[key] is None or _is_figure(row[key]) for row in rows)]


def _is_figure(value: Any) -> bool:
    """A number, or an interval."""
    parts = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in parts)


def remarks(facts: Facts, scores: dict[str, Any], split: str) -> list[str]:
    """What a reader should know before trusting the figures."""
    said = []
    if split == "val":
        said.append(
            "The checkpoint was chosen by its mIoU on this split, so the score is a little optimistic; "
            "a split that training never saw is free of that."
        )
    if facts.best and facts.best["epoch"] == facts.config.train.epochs and facts.best["epoch"] > 1:
        said.append("The best epoch is the last one: with more epochs the score may rise further.")
    matrix = np.array(scores["confusion"])
    names = np.array([row["name"] for row in scores["per_class"]])
    absent, unseen = matrix.sum(axis=1) == 0, matrix.sum(axis=0) == 0
    for which, text in (
        (absent, "Not in the truth of this split: {}."),
        (unseen & ~absent, "Never predicted: {}."),
    ):
        if which.any():
            said.append(text.format(", ".join(names[which])))
    blank = sum(image["miou"] is None for image in scores["images"])
    if blank:
        said.append(f"Without a scored pixel, and so without a score: {blank} of the samples.")
    return said


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """Shares of the true class's pixels (classes, classes), and the pairs confused most."""
    matrix = np.array(counts)
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, matrix.shape)) if wrong[i, j]]
    return {
        "names": list(names),
        "counts": matrix.tolist(),
        "totals": totals.tolist(),
        "shares": shares.tolist(),
        "pairs": [
            {"truth": i, "predicted": j, "pixels": int(matrix[i, j]), "share": float(shares[i, j])}
            for i, j in pairs
        ],
    }
