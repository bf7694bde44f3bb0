"""Whether one of two networks is better, or the images are too few to tell.

Two tests on the same images: a paired bootstrap (Efron & Tibshirani 1993) of the pooled scores, and a
sign test of the images' own. Resampling few images is too confident, and counting wins doesn't know
by how much, so a difference counts only where both find it: the larger p-value is taken, which is
the intersection-union test (Berger 1982).

Another seed gives another network. Where there are several runs of a config, the spread of their
scores joins that of the images in a t test (Satterthwaite 1946), and the verdict is on the configs;
with one run of each it is on two networks, and says so.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Sequence

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from segtrain.errors import UserError
from segtrain.evaluation import metrics
from segtrain.evaluation.evaluate import image_counts
from segtrain.evaluation.metrics import Counts, number

LEVEL = 0.05
ROUNDS, AT_ONCE = 10_000, 500  # resamples, and how many of them are in memory
POLICY = (
    f"paired bootstrap over images ({ROUNDS:,} resamples, scores pooled in each, percentile interval) "
    "and a sign test of each image's own score, ties left out; of several runs the scores' means; where "
    "a config was run with several seeds, also a t test whose variance is that of the bootstrap plus "
    "that between the seeds, with its interval; p is the largest one, or 1 where they point apart; "
    f"different means p < {LEVEL}, for classes after Holm's correction over all classes (Holm 1979)"
)

Result = Dict[str, Any]


def compare(
    a: Result,
    b: Result,
    across_policies: bool = False,
    more_a: Sequence[Result] = (),
    more_b: Sequence[Result] = (),
) -> Result:
    """The result of `segtrain compare` for JSON, of two results of `evaluate`; B minus A.

    more_a, more_b: results of further runs of A's and of B's config, with other seeds.

    Keys: verdict, in words; better: 'a', 'b' or None; miou, the whole's row; per_class, a row each
    with its name and p_holm; images; seeds{a, b, spread}: runs of each, and the standard deviation of
    the mIoU between seeds, None where it is unknown; policy. A row: a, b (means over runs),
    difference, ci95 (all from 0 to 1), wins{a, b, ties}, p_bootstrap, p_sign, p_seeds (None where
    the seeds' spread is unknown), p, different. UserError where the results are of different images,
    truths, classes or, unless `across_policies`, policies, or more runs are of another config.
    """
    sides = ([a, *more_a], [b, *more_b])
    _check_sides(sides, across_policies)
    groups = [_scored(side, [row["id"] for row in a["images"]]) for side in sides]
    differences = _resampled(*(group.counts for group in groups))
    seeds = _between_seeds([group.pooled for group in groups], one_config(a, b))
    whole, *classes = (_row(groups, differences, seeds, column) for column in range(len(seeds.variance)))
    whole["different"] = whole["p"] < LEVEL
    for row, p in zip(classes, holm([row["p"] for row in classes])):
        row.update(p_holm=p, different=p < LEVEL)
    names = [row["name"] for row in a["per_class"]]
    runs = {key: len(side) for key, side in zip("ab", sides)}
    spread = float(np.sqrt(seeds.variance[0])) if seeds.freedom else None
    return {
        "verdict": verdict(whole, len(a["images"]), runs, spread),
        "better": ("b" if whole["difference"] > 0 else "a") if whole["different"] else None,
        "miou": whole,
        "per_class": [{"name": name, **row} for name, row in zip(names, classes)],
        "images": len(a["images"]),
        "seeds": {**runs, "spread": spread},
        "policy": {"comparison": POLICY, "a": a["policy"], "b": b["policy"]},
    }


def one_config(a: Result, b: Result) -> bool:
    """Whether two results are of finished runs of one config, scored in one way, with two seeds."""
    recipes = [result.get("recipe") or {} for result in (a, b)]
    alike = bool(recipes[0]) and recipes[0]["config"] == recipes[1].get("config")
    return alike and recipes[0]["seed"] != recipes[1]["seed"] and a["policy"] == b["policy"]


def _check_sides(sides: Sequence[Sequence[Result]], across_policies: bool) -> None:
    """UserError where A and B can't be paired, or a side's further runs aren't its first one's seeds."""
    check_same(sides[0][0], sides[1][0], across_policies)
    for (first, *others), name in zip(sides, "AB"):
        for other in others:
            check_same(first, other, False, (name, f"another run of {name}"))
            _check_seed(first, other, name)


def _check_seed(first: Result, other: Result, name: str) -> None:
    """UserError where another run of a side is known to be of another config, or of the same seed."""
    recipes = [result.get("recipe") for result in (first, other)]
    if None not in recipes and not one_config(first, other):
        same = recipes[0] == recipes[1]
        what = (
            "has the same seed" if same else "is of another config: they must differ in the seed alone"
        )
        raise UserError(f"another run of {name} {what}")


def check_same(a: Result, b: Result, across_policies: bool, called: Sequence[str] = ("A", "B")) -> None:
    """UserError where two results can't be paired; `called`: what they are called in it."""
    for result, name in zip((a, b), called):
        if not all("counts" in row for row in result.get("images") or [{}]):
            raise UserError(f"{name} is no result of `segtrain eval --json`, or of an older version")
    names = [[row["name"] for row in result["per_class"]] for result in (a, b)]
    if names[0] != names[1]:
        lists = [", ".join(each) for each in names]
        raise UserError(f"{called[0]} has the classes {lists[0]}, and {called[1]} {lists[1]}")
    truths = [{row["id"]: row["truth_sha256"] for row in result["images"]} for result in (a, b)]
    odd = sorted(set(truths[0]) ^ set(truths[1]))
    if odd:
        has = called[odd[0] not in truths[0]]
        raise UserError(
            f"they were scored on different images: {odd[0]} is in {has} alone ({len(odd)} such)"
        )
    changed = [name for name, digest in truths[0].items() if truths[1][name] != digest]
    if changed:
        raise UserError(f"the truth of {changed[0]} differs between them ({len(changed)} such)")
    _check_policies(a["policy"], b["policy"], across_policies, called)


def _check_policies(a: Result, b: Result, across: bool, called: Sequence[str]) -> None:
    scoring = {"absent_classes", "ignore"}
    for key in sorted({*a, *b}, key=lambda key: key not in scoring):
        if a.get(key) == b.get(key) or (across and key not in scoring):
            continue
        told = f"{called[0]} was scored with {key}={a.get(key)}, and {called[1]} with {key}={b.get(key)}"
        ways = ": score both alike, or compare the ways themselves with --across-policies"
        raise UserError(told + (": score both by one version" if key in scoring else ways))


# ---- the tests


class _Side(NamedTuple):
    """The runs of a config: counts of each, and scores of the whole and of each class."""

    counts: Sequence[Counts]  # (images, classes), by run
    own: np.ndarray  # (images, 1 + classes), means over runs
    pooled: np.ndarray  # (runs, 1 + classes)


class _Seeds(NamedTuple):
    """What another seed does to the scores of the whole and of each class."""

    variance: np.ndarray  # (1 + classes,), between runs of one config
    freedom: int  # degrees of it; 0: nothing is known


def _scored(results: Sequence[Result], order: Sequence[str]) -> _Side:
    counts = []
    for result in results:
        rows = {row["id"]: row for row in result["images"]}
        counts.append(image_counts([rows[name] for name in order]))
    own = metrics.mean(np.stack([_scores(c) for c in counts], axis=-1))
    return _Side(counts, own, np.stack([_scores(c.sum()) for c in counts]))


def _scores(c: Counts) -> np.ndarray:
    """mIoU and each class's IoU, (..., 1 + classes)."""
    return np.concatenate([metrics.miou(c)[..., None], metrics.ious(c)], axis=-1)


def _resampled(a: Sequence[Counts], b: Sequence[Counts]) -> np.ndarray:
    """B - A of the mIoU and of each class, in each resample, (ROUNDS, 1 + classes)."""
    rng, parts = np.random.default_rng(0), []
    for _ in range(ROUNDS // AT_ONCE):
        drawn = metrics.resampled(a[0], rng, AT_ONCE, *a[1:], *b)
        scores = np.stack([_scores(c) for c in drawn])
        parts.append(scores[len(a) :].mean(axis=0) - scores[: len(a)].mean(axis=0))
    return np.concatenate(parts)


def _between_seeds(sides: Sequence[np.ndarray], one: bool) -> _Seeds:
    """The variance within the sides' scores (runs, 1 + classes); `one`: both are of one config."""
    groups = [np.concatenate(sides)] if one else sides
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
    return _Seeds(squares / max(1, freedom), freedom)


def _sides(a: np.ndarray, b: np.ndarray, of_class: bool) -> Dict[str, int]:
    """The images on which each is better, of their own scores (images,).

    For a class that the truth lacks, no score is better than a false alarm's 0.
    """
    if of_class:
        a, b = (np.where(np.isnan(own) & ~np.isnan(other), 1, own) for own, other in ((a, b), (b, a)))
    wins = {"a": int((a > b).sum()), "b": int((b > a).sum())}
    return {**wins, "ties": int((a == b).sum())}


def _row(groups: Sequence[_Side], differences: np.ndarray, seeds: _Seeds, column: int) -> Result:
    a, b = (group.pooled[:, column].mean() for group in groups)
    difference, drawn = b - a, differences[:, column]
    known = drawn[np.isfinite(drawn)]
    wins = _sides(groups[0].own[:, column], groups[1].own[:, column], bool(column))
    p_bootstrap, p_sign = _p_of(known), sign_test(wins["a"], wins["b"])
    p_seeds, interval = None, metrics.interval(drawn)
    if seeds.freedom and len(known) and np.isfinite(difference):
        of_seeds = seeds.variance[column] * sum(1 / len(group.pooled) for group in groups)
        p_seeds, ends = t_test(difference, known.var(), of_seeds, seeds.freedom)
        interval = np.clip(ends, -1, 1).tolist()  # which few seeds may exceed
    apart = not np.isfinite(difference) or difference * (wins["b"] - wins["a"]) <= 0
    return {
        "a": number(a),
        "b": number(b),
        "difference": number(difference),
        "ci95": interval,
        "wins": wins,
        "p_bootstrap": p_bootstrap,
        "p_sign": p_sign,
        "p_seeds": p_seeds,
        "p": 1.0 if apart else max(p_bootstrap, p_sign, p_seeds or 0.0),
    }


def _p_of(known: np.ndarray) -> float:
    """The two-sided p-value of resampled differences."""
    tails = [(known <= 0).sum() + 1, (known >= 0).sum() + 1]
    return min(1.0, 2 * float(min(tails)) / (len(known) + 1))


def t_test(
    difference: float, of_images: float, of_seeds: float, freedom: int
) -> tuple[float, list[float]]:
    """The two-sided p-value of a difference with these two variances, and its 95% interval.

    freedom: of the second variance; that of the images is taken for known (Satterthwaite 1946).
    """
    variance = of_images + of_seeds
    if not variance:
        return float(difference == 0), [difference, difference]
    effective = freedom * (variance / of_seeds) ** 2 if of_seeds else np.inf
    deviation = float(np.sqrt(variance))
    p = 2 * float(student.sf(abs(difference) / deviation, effective))
    reach = float(student.ppf(0.975, effective)) * deviation
    return p, [difference - reach, difference + reach]


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


def verdict(row: Result, images: int, runs: Dict[str, int], spread: float | None) -> str:
    """What may be said of the whole's row, of these many `runs` of each side.

    spread: the mIoU's standard deviation between seeds, where it is known.
    """
    if row["difference"] is None:
        return "no score in one of them: every pixel is ignored"
    points, wins = 100 * row["difference"], row["wins"]
    low, high = (100 * (end or 0) for end in row["ci95"])
    ties = f", equal on {wins['ties']}" if wins["ties"] else ""
    counted = f"A scores higher on {wins['a']} images, B on {wins['b']}{ties}"
    many = f"{images} image{'s' * (images != 1)}"
    if spread is not None:
        many += f" and {sum(runs.values())} runs"
        counted += f"; seeds move the score by {100 * spread:.1f} points (standard deviation)"
    if row["different"]:
        better, ends = ("B", (low, high)) if points > 0 else ("A", (-high, -low))
        interval = f"95% CI {ends[0]:.1f} to {ends[1]:.1f}"
        told = f"{better} is better by {abs(points):.1f} points ({interval}; {counted})"
        return told if spread is not None else f"{told}, {OF_TWO}"
    between = f"B - A is {points:+.1f} points, 95% CI {low:+.1f} to {high:+.1f}"
    torn = low * high > 0  # the pooled scores differ, but not on enough single images
    return f"no difference that {many} can show ({between}{', but ' if torn else '; '}{counted})"


OF_TWO = (
    "of these two networks: trained anew with other seeds each would score otherwise, by how much is "
    "unknown"
)
