"""Scores against scikit-learn, on random masks with ignored pixels and absent classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from segtrain import metrics

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


@settings(deadline=None)
@given(masks())
def test_confusion_and_scores_are_scikit_learns(case):
    classes, truth, predicted = case
    valid = truth != IGNORE
    t, p = truth[valid], predicted[valid]
    matrix = metrics.confusion(truth, predicted, classes, IGNORE)
    assert (matrix == sk.confusion_matrix(t, p, labels=range(classes))).all()
    found = metrics.scores(matrix, [str(i) for i in range(classes)])
    there = sorted(set(t) | set(p))
    assert found["miou"] == pytest.approx(
        sk.jaccard_score(t, p, labels=there, average="macro", zero_division=0)
    )
    assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(t, p))
    for key, score in (
        ("iou", sk.jaccard_score),
        ("dice", sk.f1_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
    ):
        wanted = score(t, p, labels=range(classes), average=None, zero_division=0)
        for row, value in zip(found["per_class"], wanted):
            assert (row[key] or 0) == pytest.approx(value)


def test_the_policy_for_absent_classes():
    truth, predicted = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2]])
    found = metrics.scores(metrics.confusion(truth, predicted, 4, IGNORE), list("abcd"))
    assert [row["iou"] for row in found["per_class"]] == [1, 0.5, 0, None]
    assert found["miou"] == pytest.approx(0.5)


def test_nothing_but_ignored_pixels():
    matrix = metrics.confusion(np.full((2, 2), IGNORE), np.zeros((2, 2), int), 3, IGNORE)
    assert metrics.scores(matrix, list("abc"))["miou"] is None


def test_bootstrap_holds_the_score_and_shrinks_with_images():
    rng = np.random.default_rng(0)

    def matrices(count):
        return rng.poisson(20, (count, 3, 3)) + np.eye(3, dtype=int) * rng.integers(
            50, 200, (count, 1, 1)
        )

    few, many = matrices(10), matrices(400)
    for group in (few, many):
        low, high = metrics.bootstrap(group)
        assert low < metrics.miou(group.sum(axis=0)) < high
    width = [np.ptp(metrics.bootstrap(group)) for group in (few, many)]
    assert width[1] < width[0] / 3
    assert metrics.bootstrap(few) == metrics.bootstrap(few)
