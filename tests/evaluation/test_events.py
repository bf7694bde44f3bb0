"""Onsets and offsets against cases made by hand, and matching against every matching there is."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.evaluation.events import Tally, edges, match

places = st.lists(st.integers(0, 60), max_size=5, unique=True).map(sorted)


def best(truth, predicted, reach):
    """The most pairs and then the least total distance, by trying every matching."""
    found = (0, 0)
    for count in range(1, min(len(truth), len(predicted)) + 1):
        for some in combinations(truth, count):
            for others in permutations(predicted, count):
                apart = [abs(a - b) for a, b in zip(some, others)]
                if max(apart) <= reach:
                    found = max(found, (count, -sum(apart)))
    return found


@settings(max_examples=150)
@given(places, places, st.integers(0, 30))
def test_no_matching_is_better(truth, predicted, reach):
    truth, predicted = np.array(truth, int), np.array(predicted, int)
    pairs = match(truth, predicted, reach)
    apart = np.abs(truth[pairs[:, 0]] - predicted[pairs[:, 1]])
    assert (len(pairs), -apart.sum()) == best(truth.tolist(), predicted.tolist(), reach)
    assert (apart <= reach).all()
    assert all(len(set(column)) == len(column) for column in pairs.T.tolist())


def test_the_tolerance_itself_still_matches():
    assert len(match(np.array([10]), np.array([15]), 5)) == 1
    assert len(match(np.array([10]), np.array([16]), 5)) == 0


def test_edges_at_the_ends_and_beside_ignored_samples_are_not_seen():
    mask = np.array([1, 1, 0, 1, 1, 255, 1, 0, 1])
    on, off = edges(mask, 1, 255)
    assert on.places.tolist() == [0, 3, 6, 8] and on.seen.tolist() == [False, True, False, True]
    assert off.places.tolist() == [1, 4, 6, 8] and off.seen.tolist() == [True, False, True, False]


def labels(length, *stretches):
    mask = np.zeros(length, np.uint8)
    for start, stop, class_id in stretches:
        mask[start:stop] = class_id
    return mask


def scored(truth, predicted, tolerance=30, rate=100):
    counting = Tally(["none", "P", "T"], 0, 255, rate, tolerance)
    counting.add(truth, predicted)
    return counting.result()


def test_by_hand():
    """Onsets 20 ms late and 10 early, one event missed, one invented; offsets exact."""
    truth = labels(200, (10, 20, 1), (50, 60, 1), (100, 110, 1), (150, 160, 2))
    predicted = labels(200, (12, 20, 1), (49, 60, 1), (130, 140, 1), (150, 160, 2))
    result = scored(truth, predicted)
    p, t = result["classes"]
    assert p["name"] == "P" and result["tolerance_ms"] == 30
    for kind in ("onset", "offset"):
        assert p[kind]["sensitivity"] == p[kind]["ppv"] == p[kind]["f1"] == pytest.approx(2 / 3)
        assert t[kind]["f1"] == 1 and t[kind]["mean_ms"] == 0
    assert p["onset"]["mean_ms"] == pytest.approx(5) and p["onset"]["std_ms"] == pytest.approx(15)
    assert p["offset"]["mean_ms"] == p["offset"]["std_ms"] == 0
    assert result["mean_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 1) / 4)


def test_two_predictions_for_one_event_match_once():
    truth, predicted = labels(60, (20, 30, 1)), labels(60, (20, 24, 1), (26, 30, 1))
    onset = scored(truth, predicted, tolerance=100)["classes"][0]["onset"]
    assert onset["sensitivity"] == 1 and onset["ppv"] == 0.5 and onset["mean_ms"] == 0


def test_what_begins_before_the_record_has_no_onset():
    truth, predicted = labels(60, (0, 10, 1)), labels(60, (2, 10, 1))
    row = scored(truth, predicted)["classes"][0]
    assert row["onset"]["f1"] is None and row["offset"]["f1"] == 1


def test_ignored_stretches_count_for_nothing():
    truth = labels(100, (10, 20, 1), (40, 100, 255))
    result = scored(truth, labels(100, (10, 20, 1), (60, 70, 1)))
    assert result["classes"][0]["onset"]["ppv"] == 1


def test_nothing_there_is_no_number():
    result = scored(labels(9), labels(9))
    assert result["mean_f1"] is None
    assert result["classes"][0]["onset"]["mean_ms"] is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 500))
def test_the_truth_itself_is_perfect(mask, tolerance):
    mask = np.array(mask, np.uint8)
    assert scored(mask, mask, tolerance)["mean_f1"] in (None, 1.0)
