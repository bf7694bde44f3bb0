"""Whether one of two networks is better, or the images are too few to tell.

Two tests on the same images: a paired bootstrap (Efron & Tibshirani 1993) of the pooled scores, and a
sign test of the images' own. Resampling few images is too confident, and counting wins doesn't know
by how much, so a difference counts only where both find it: the larger p-value is taken, which is
the intersection-union test (Berger 1982).
"""

from __future__ import annotations

from typing import Any, Dict, Sequence

import numpy as np
from scipy.stats import binom

from segtrain.errors import UserError
from segtrain.evaluation import metrics
from segtrain.evaluation.evaluate import image_counts
from segtrain.evaluation.metrics import Counts, number

LEVEL = 0.05
ROUNDS, AT_ONCE = 10_000, 500  # resamples, and how many of them are in memory
POLICY = (
    f"paired bootstrap over images ({ROUNDS:,} resamples, scores pooled in each, percentile interval) "
    "and a sign test of each image's own score, ties left out; p is the larger one, or 1 where they "
    f"point apart; different means p < {LEVEL}, for classes after Holm's correction over all classes "
    "(Holm 1979); the images' chance alone is in it, and another seed gives another network: of two "
    "finished runs whose configs differ in the seed alone neither is called better, and to compare "
    "other configs compare several runs of each"
)

Result = Dict[str, Any]


def compare(a: Result, b: Result, across_policies: bool = False) -> Result:
    """The result of `segtrain compare` for JSON, of two results of `evaluate`; B minus A.

    Keys: verdict, in words; better: 'a', 'b' or None; miou, the whole's row; per_class, a row each
    with its name and p_holm; images; policy. A row: a, b, difference, ci95 (all from 0 to 1),
    wins{a, b, ties}, p_bootstrap, p_sign, p, different. UserError where the two are of different
    images, truths, classes or, unless `across_policies`, policies.
    """
    check_same(a, b, across_policies)
    places = {row["id"]: i for i, row in enumerate(b["images"])}
    order = [places[row["id"]] for row in a["images"]]
    first = image_counts(a["images"])
    second = Counts(*(array[order] for array in image_counts(b["images"])))
    differences = _resampled(first, second)
    own = [np.column_stack([metrics.miou(c), metrics.ious(c)]) for c in (first, second)]
    pooled = [np.append(metrics.miou(c.sum()), metrics.ious(c.sum())) for c in (first, second)]
    whole, *classes = (
        _row(pooled[0][i], pooled[1][i], differences[:, i], _sides(own[0][:, i], own[1][:, i], bool(i)))
        for i in range(len(pooled[0]))
    )
    whole["different"] = whole["p"] < LEVEL
    for row, p in zip(classes, holm([row["p"] for row in classes])):
        row.update(p_holm=p, different=p < LEVEL)
    names = [row["name"] for row in a["per_class"]]
    seeds = differ_in_seed(a, b)
    better = ("b" if whole["difference"] > 0 else "a") if whole["different"] and not seeds else None
    return {
        "verdict": verdict(whole, len(order), seeds),
        "better": better,
        "miou": whole,
        "per_class": [{"name": name, **row} for name, row in zip(names, classes)],
        "images": len(order),
        "policy": {"comparison": POLICY, "a": a["policy"], "b": b["policy"]},
    }


def differ_in_seed(a: Result, b: Result) -> bool:
    """Whether two results are of finished runs of one config, scored in one way, with two seeds."""
    recipes = [result.get("recipe") or {} for result in (a, b)]
    alike = bool(recipes[0]) and recipes[0]["config"] == recipes[1].get("config")
    return alike and recipes[0]["seed"] != recipes[1]["seed"] and a["policy"] == b["policy"]


def check_same(a: Result, b: Result, across_policies: bool) -> None:
    """UserError where two results can't be paired."""
    for result, name in ((a, "A"), (b, "B")):
        if not all("counts" in row for row in result.get("images") or [{}]):
            raise UserError(f"{name} is no result of `segtrain eval --json`, or of an older version")
    names = [[row["name"] for row in result["per_class"]] for result in (a, b)]
    if names[0] != names[1]:
        raise UserError(f"A has the classes {', '.join(names[0])}, and B {', '.join(names[1])}")
    truths = [{row["id"]: row["truth_sha256"] for row in result["images"]} for result in (a, b)]
    odd = sorted(set(truths[0]) ^ set(truths[1]))
    if odd:
        has = "A" if odd[0] in truths[0] else "B"
        raise UserError(
            f"they were scored on different images: {odd[0]} is in {has} alone ({len(odd)} such)"
        )
    changed = [name for name, digest in truths[0].items() if truths[1][name] != digest]
    if changed:
        raise UserError(f"the truth of {changed[0]} differs between them ({len(changed)} such)")
    _check_policies(a["policy"], b["policy"], across_policies)


def _check_policies(a: Result, b: Result, across: bool) -> None:
    scoring = {"absent_classes", "ignore"}
    for key in sorted({*a, *b}, key=lambda key: key not in scoring):
        if a.get(key) == b.get(key) or (across and key not in scoring):
            continue
        told = f"A was scored with {key}={a.get(key)}, and B with {key}={b.get(key)}"
        ways = ": score both alike, or compare the ways themselves with --across-policies"
        raise UserError(told + (": score both by one version" if key in scoring else ways))


# ---- the tests


def _resampled(a: Counts, b: Counts) -> np.ndarray:
    """B - A of the mIoU and of each class, in each resample, (ROUNDS, 1 + classes)."""
    rng, parts = np.random.default_rng(0), []
    for _ in range(ROUNDS // AT_ONCE):
        drawn = metrics.resampled(a, rng, AT_ONCE, b)
        scores = [np.column_stack([metrics.miou(c), metrics.ious(c)]) for c in drawn]
        parts.append(scores[1] - scores[0])
    return np.concatenate(parts)


def _sides(a: np.ndarray, b: np.ndarray, of_class: bool) -> Dict[str, int]:
    """The images on which each is better, of their own scores (images,).

    For a class that the truth lacks, no score is better than a false alarm's 0.
    """
    if of_class:
        a, b = (np.where(np.isnan(own) & ~np.isnan(other), 1, own) for own, other in ((a, b), (b, a)))
    wins = {"a": int((a > b).sum()), "b": int((b > a).sum())}
    return {**wins, "ties": int((a == b).sum())}


def _row(a: float, b: float, differences: np.ndarray, wins: Dict[str, int]) -> Result:
    known = differences[np.isfinite(differences)]
    difference, count = b - a, len(known)
    tails = [((known <= 0).sum() + 1) / (count + 1), ((known >= 0).sum() + 1) / (count + 1)]
    p_bootstrap = min(1.0, 2 * float(min(tails)))
    p_sign = sign_test(wins["a"], wins["b"])
    apart = not np.isfinite(difference) or difference * (wins["b"] - wins["a"]) <= 0
    return {
        "a": number(a),
        "b": number(b),
        "difference": number(difference),
        "ci95": metrics.interval(differences),
        "wins": wins,
        "p_bootstrap": p_bootstrap,
        "p_sign": p_sign,
        "p": 1.0 if apart else max(p_bootstrap, p_sign),
    }


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact p-value of so unequal a split of wins under a fair coin."""
    return min(1.0, 2 * float(binom.cdf(min(wins, losses), wins + losses, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for there being many of them (Holm 1979), in their order."""
    order = np.argsort(values)
    steps = np.asarray(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


# ---- in words


def verdict(row: Result, images: int, seeds: bool = False) -> str:
    """What may be said of the whole's row; `seeds`: of two runs that differ in the seed alone."""
    if row["difference"] is None:
        return "no score in one of them: every pixel is ignored"
    points, wins = 100 * row["difference"], row["wins"]
    low, high = (100 * (end or 0) for end in row["ci95"])
    ties = f", equal on {wins['ties']}" if wins["ties"] else ""
    counted = f"A scores higher on {wins['a']} images, B on {wins['b']}{ties}"
    between = f"B - A is {points:+.1f} points, 95% CI {low:+.1f} to {high:+.1f}"
    if row["different"] and seeds:
        return f"one config, two seeds: they differ by chance of training ({between}; {counted})"
    if row["different"]:
        better, ends = ("B", (low, high)) if points > 0 else ("A", (-high, -low))
        interval = f"95% CI {ends[0]:.1f} to {ends[1]:.1f}"
        return f"{better} is better by {abs(points):.1f} points ({interval}; {counted})"
    many = f"{images} image{'s' * (images != 1)}"
    torn = low * high > 0  # the pooled scores differ, but not on enough single images
    return f"no difference that {many} can show ({between}{', but ' if torn else '; '}{counted})"
