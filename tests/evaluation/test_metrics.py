"""Scores against scikit-learn, on random masks with ignored pixels and absent classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from segtrain.evaluation import metrics

IGNORE = 255


@st.composite
def masks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = draw(st.integers(2, 6))
    have = draw(st.integers(1, classes))
    truth, predicted = rng.integers(0, have, (2, draw(st.integers(1, 30)), 7))
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    truth[0, 0] = 0
    return classes, truth.astype(np.uint8), predicted.astype(np.uint8)


def counts(truth, predicted, classes, ignore=IGNORE):
    return metrics.counts(metrics.confusion(truth, predicted, classes, ignore))


@given(masks())
def test_confusion_and_scores_are_scikit_learns(case):
    classes, truth, predicted = case
    valid = truth != IGNORE
    t, p = truth[valid], predicted[valid]
    matrix = metrics.confusion(truth, predicted, classes, IGNORE)
    assert (matrix == sk.confusion_matrix(t, p, labels=range(classes))).all()
    found = metrics.scores(metrics.counts(matrix), [str(i) for i in range(classes)])
    there = sorted(set(t) | set(p))
    for key, score in (("miou", sk.jaccard_score), ("dice", sk.f1_score)):
        wanted = score(t, p, labels=there, average="macro", zero_division=0)
        assert found[key] == pytest.approx(wanted)
    assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(t, p))
    recalls = sk.recall_score(t, p, labels=sorted(set(t)), average="macro")
    assert found["mean_accuracy"] == pytest.approx(recalls)
    weighted = sk.jaccard_score(t, p, labels=range(classes), average="weighted", zero_division=0)
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)
    if found["kappa"] is None:
        assert len(there) == 1
    else:
        assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(t, p), abs=1e-9)
    for key, score in (
        ("iou", sk.jaccard_score),
        ("dice", sk.f1_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
    ):
        wanted = score(t, p, labels=range(classes), average=None, zero_division=0)
        for row, value in zip(found["per_class"], wanted):
            assert (row[key] or 0) == pytest.approx(value)


@given(masks(), st.integers(0, 5))
def test_an_ignored_id_may_be_a_class(case, ignore):
    classes, truth, predicted = case
    valid = (truth != ignore) & (truth != IGNORE)
    matrix = metrics.confusion(np.where(valid, truth, ignore), predicted, classes, ignore)
    if valid.any():
        wanted = sk.confusion_matrix(truth[valid], predicted[valid], labels=range(classes))
        assert (matrix == wanted).all()
    assert matrix.sum() == valid.sum()


def test_pixels_are_counted_exactly_beyond_what_a_float_holds():
    truth = np.zeros(40_000_001, np.uint8)
    matrix = metrics.confusion(truth, truth, 2, None)
    assert matrix.tolist() == [[40_000_001, 0], [0, 0]]


def test_the_policy_for_absent_classes():
    truth, predicted = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2]])
    found = metrics.scores(counts(truth, predicted, 4), list("abcd"))
    assert [row["iou"] for row in found["per_class"]] == [1, 0.5, 0, None]
    assert found["miou"] == pytest.approx(0.5)
    assert found["mean_accuracy"] == pytest.approx(0.75)


def test_nothing_but_ignored_pixels():
    found = metrics.scores(counts(np.full((2, 2), IGNORE), np.zeros((2, 2), int), 3), list("abc"))
    assert {value for key, value in found.items() if key != "per_class"} == {None}


def test_bootstrap_holds_the_score_and_shrinks_with_images():
    rng = np.random.default_rng(0)

    def images(count):
        own = np.eye(3, dtype=int) * rng.integers(50, 200, (count, 1, 1))
        return metrics.counts(rng.poisson(20, (count, 3, 3)) + own)

    few, many = images(10), images(400)
    for group in (few, many):
        low, high = metrics.bootstrap(group)
        assert low < metrics.miou(group.sum()) < high
    width = [np.ptp(metrics.bootstrap(group)) for group in (few, many)]
    assert width[1] < width[0] / 3
    assert metrics.bootstrap(few) == metrics.bootstrap(few)
