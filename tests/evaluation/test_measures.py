"""Boundaries, calibration and segments against the published definitions, class by class."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.morphology import disk

from segtrain.measures import boundary, calibration, segments

IGNORE = 255


@st.composite
def blobs(draw):
    """Masks of a few connected regions, as networks and people make them, with void in the truth."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(3, 120)), draw(st.integers(3, 160))
    classes = draw(st.integers(2, 5))
    coarse = rng.random((classes, 4, 5)).astype(np.float32)
    other = coarse + rng.normal(0, 0.15, coarse.shape).astype(np.float32)
    truth, predicted = (
        np.argmax([cv2.resize(plane, (width, height)) for plane in planes], axis=0).astype(np.uint8)
        for planes in (coarse, other)
    )
    void = cv2.resize(rng.random((4, 5)).astype(np.float32), (width, height)) > 0.8
    return classes + 1, np.where(void, np.uint8(IGNORE), truth), predicted


def binary(truth, predicted, i):
    """The masks of one class, without the pixels whose truth is void."""
    valid = truth != IGNORE
    return ((truth == i) & valid).astype(np.uint8), ((predicted == i) & valid).astype(np.uint8)


def published_band(mask):
    """The band inside the outline, by boundary-iou-api's mask_to_boundary."""
    height, width = mask.shape
    dilation = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)
    return (mask - eroded[1:-1, 1:-1]).astype(bool)


def published_outline(mask):
    """The outline, by DAVIS's seg2bmap at equal sizes."""
    mask = mask.astype(bool)
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    line = mask ^ right | mask ^ below | mask ^ diagonal
    line[-1] = mask[-1] ^ right[-1]
    line[:, -1] = mask[:, -1] ^ below[:, -1]
    line[-1, -1] = False
    return line


def published_f1(truth, predicted):
    """F of DAVIS's db_eval_boundary: outlines widened by a disk."""
    reach = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    real, found = published_outline(truth), published_outline(predicted)
    wide = [cv2.dilate(line.astype(np.uint8), disk(reach).astype(np.uint8)) for line in (real, found)]
    if not found.any() and real.any():
        precision, recall = 1, 0
    elif found.any() and not real.any():
        precision, recall = 0, 1
    elif not found.any() and not real.any():
        precision, recall = 1, 1
    else:
        precision = (found * wide[0]).sum() / found.sum()
        recall = (real * wide[1]).sum() / real.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


@settings(max_examples=60)
@given(blobs())
def test_boundary_scores_are_the_published_ones(case):
    classes, truth, predicted = case
    measure = boundary.build(classes, IGNORE)
    own = measure.add(truth, predicted)
    found = measure.result()
    ious, f1s = [], []
    for i in range(classes):
        t, p = binary(truth, predicted, i)
        bands = [published_band(mask) for mask in (t, p)]
        union = (bands[0] | bands[1]).sum()
        ious.append((bands[0] & bands[1]).sum() / union if union else None)
        f1s.append(published_f1(t, p) if t.any() or p.any() else None)
    assert found.per_class["boundary_iou"] == pytest.approx(ious)
    assert found.per_class["boundary_f1"] == pytest.approx(f1s)
    known = [[v for v in values if v is not None] for values in (ious, f1s)]
    wanted = [np.mean(values) if values else None for values in known]
    assert [own["boundary_iou"], own["boundary_f1"]] == pytest.approx(wanted)
    assert [found.figures["boundary_iou"], found.figures["boundary_f1"]] == pytest.approx(wanted)


def test_boundary_scores_are_pooled_and_per_image():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (4, 30, 40)).astype(np.uint8)
    measure = boundary.build(2, None)
    own = [measure.add(masks[0], masks[1]), measure.add(masks[2], masks[2])]
    assert own[1] == {"boundary_iou": 1, "boundary_f1": 1}
    figures, policy, *_ = measure.result()
    for key, first in own[0].items():
        assert figures[f"{key}_per_image"] == pytest.approx((first + 1) / 2)
        assert first < figures[key] < 1
    assert "0.02" in policy and "0.008" in policy


@settings(max_examples=60)
@given(blobs())
def test_rand_error_and_variation_of_information_are_scikit_images(case):
    _, truth, predicted = case
    void = truth == IGNORE
    partitions = [
        label(np.where(void, 0, mask.astype(int) + 1), background=0) for mask in (truth, predicted)
    ]
    own = segments.build(5, IGNORE).add(truth, predicted)
    if void.all():
        assert set(own.values()) == {None}
        return
    split, merge = variation_of_information(*partitions, ignore_labels=(0,))
    assert own["vi_split"] == pytest.approx(split, abs=1e-9)
    assert own["vi_merge"] == pytest.approx(merge, abs=1e-9)
    assert own["vi"] == pytest.approx(split + merge, abs=1e-9)
    if (~void).sum() > 1:
        error, _, _ = adapted_rand_error(*partitions)
        assert own["rand_error"] == pytest.approx(0 if np.isnan(error) else error, abs=1e-9)


@pytest.mark.parametrize(("predicted", "bits"), [("aaaa", 0), ("aabb", 1), ("abab", 2)])
def test_a_segment_cut_in_two_costs_a_bit(predicted, bits):
    truth = np.zeros((1, 4), np.uint8)
    ids = np.array([["ab".index(letter) for letter in predicted]], np.uint8)
    measure = segments.build(2, None)
    assert measure.add(truth, ids)["vi_split"] == pytest.approx(bits)
    assert measure.add(ids, truth)["vi_merge"] == pytest.approx(bits)
    assert measure.result().figures["vi"] == pytest.approx(bits)


def test_calibration_is_guos_sum_over_bins():
    rng = np.random.default_rng(0)
    edges, measure, seen = np.linspace(0, 1, 16), calibration.build(4, IGNORE), []
    for _ in range(3):
        logits = rng.normal(0, 2, (4, 20, 30)).astype(np.float32)
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        truth = rng.integers(0, 4, (20, 30)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.2] = IGNORE
        predicted = p.argmax(axis=0)
        own = measure.add(truth, predicted, p)
        valid = truth != IGNORE
        seen.append((p.max(axis=0)[valid], (predicted == truth)[valid]))
    confidence, hits = (np.concatenate(parts) for parts in zip(*seen))
    error, rows = 0, measure.result().details["calibration"]
    for low, high, row in zip(edges, edges[1:], rows):
        inside = (confidence > low) & (confidence <= high)
        assert row["pixels"] == inside.sum()
        if inside.any():
            error += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
            assert row["accuracy"] == pytest.approx(hits[inside].mean())
    assert measure.result().figures["ece"] == pytest.approx(error, rel=1e-5)
    assert 0 < own["ece"] < 1 and len(rows) == 15


def test_certain_and_right_has_no_error_and_certain_and_wrong_all_of_it():
    truth = np.zeros((4, 4), np.uint8)
    sure = np.stack([np.ones((4, 4)), np.zeros((4, 4))])
    assert calibration.build(2, None).add(truth, truth, sure)["ece"] == 0
    assert calibration.build(2, None).add(truth + 1, truth, sure)["ece"] == 1
    assert calibration.build(2, 0).add(truth, truth, sure)["ece"] is None
