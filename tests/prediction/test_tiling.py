"""Blending of windows, against sums over the whole image and against the network as a whole."""

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain import models
from segtrain.config import Model
from segtrain.prediction import tiling
from segtrain.prediction.infer import OVERLAP, SIDE, WHOLE, Policy, Predictor
from segtrain.prediction.tiling import Windows, blended, shares

POLICIES = [Policy(window=64, overlap=o, blend=b) for o in (0.25, 0.5, 0.7) for b in tiling.BLENDS]


@given(st.integers(1, 5000), st.integers(1, 80), st.floats(0, 0.95), st.sampled_from([1, 3, 8, 32]))
def test_windows_cover_everything_and_overlap_as_asked(length, strides, overlap, stride):
    side = strides * stride
    found = Windows(side, overlap, stride=stride).spans(length)
    assert found[0].start == 0 and found[-1].stop == length
    assert all(s.start % stride == 0 and s.stop - s.start == min(side, length) for s in found[:-1])
    assert min(side, length) - stride < found[-1].stop - found[-1].start <= side
    for a, b in zip(found, found[1:]):
        assert b.start > a.start
        assert a.start + side - b.start >= min(side * overlap, side - stride) - 1e-6


@given(st.integers(1, 900), st.integers(1, 300), st.floats(0, 0.9), st.sampled_from(tiling.BLENDS))
def test_the_shares_of_a_place_add_up_to_one(length, side, overlap, blend):
    windows = Windows(side, overlap, stride=min(side, 7)).spans(length)
    total = np.zeros(length)
    for window, share in zip(windows, shares(windows, blend)):
        assert share.dtype == np.float32 and (share > 0).all()
        total[window] += share
    assert np.abs(total - 1).max() < 1e-6


def summed(image, windows, run):
    """The definition: windows times weights, added up over the whole image, by the weights' sum."""
    height, width = image.shape[:2]
    total, weights = 0.0, np.zeros((height, width))
    side = windows.side
    line = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    line = line if windows.blend == "gaussian" else np.ones(side)
    rows, columns = windows.spans(height), windows.spans(width)
    for row in rows:
        for column in columns:
            size = row.stop - row.start, column.stop - column.start
            # of an axis that one window covers, its weight takes no part
            alone = len(rows) == 1, len(columns) == 1
            weight = np.outer(*(np.ones(n) if one else line[:n] for n, one in zip(size, alone)))
            found = run(image[row, column][None])[0]
            padded = np.zeros((len(found), height, width))
            padded[:, row, column] = found * weight
            total, weights[row, column] = total + padded, weights[row, column] + weight
    return total / weights


def uneven(batch):
    """Three maps of each window that depend on where a pixel lies in it."""
    n, height, width, _ = batch.shape
    slope = np.arange(height)[:, None] / 20 + np.arange(width) / 10
    values = batch[..., 0] / 255 + slope
    return np.stack([values, values**2, np.sin(values)], axis=1).astype(np.float32)


@pytest.mark.parametrize("blend", tiling.BLENDS)
@pytest.mark.parametrize(("size", "side"), [((70, 50), 20), ((20, 61), 20), ((9, 33), 16), ((5, 5), 8)])
@pytest.mark.parametrize(("overlap", "batch"), [(0, 1), (0.3, 2), (0.5, 3), (0.8, 100)])
def test_blending_in_parts_is_the_weighted_mean(size, side, overlap, blend, batch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 1), np.uint8)
    windows = Windows(side, overlap, blend, stride=4)
    found, seen = np.full((3, *size), np.nan), np.zeros(size, int)
    last = (0, 0)
    for (rows, columns), part in blended(image, windows, uneven, batch):
        assert (rows.start, columns.start) >= last
        last = rows.start, columns.start
        found[:, rows, columns], seen[rows, columns] = part, seen[rows, columns] + 1
    assert (seen == 1).all()
    assert np.abs(found - summed(image, windows, uneven)).max() < 1e-5


def test_rows_that_wait_may_be_float16(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 1), np.uint8)
    exact = [part.copy() for _, part in blended(image, Windows(20), uneven)]
    monkeypatch.setattr(tiling, "FLOAT32_LIMIT", 0)
    for part, wanted in zip(blended(image, Windows(20), uneven), exact):
        assert part[1].dtype == np.float32
        assert np.abs(part[1] - wanted).max() < 5e-3  # of values up to 16


def small(policy):
    """A U-Net with one halving, and how far away what a pixel's scores depend on may lie."""
    model = Model(name="unet", widths=[8, 8], units=1)
    net = models.network(model, 4)
    models.initialize(net, model, [mx.cpu()], seed=0)
    return Predictor(net, mx.cpu(), policy, stride=net.stride), 8


@pytest.mark.parametrize("policy", POLICIES)
def test_windows_equal_the_whole_beyond_the_receptive_field(policy):
    """Where every window that has a share in a pixel sees all that the pixel depends on."""
    image = np.random.default_rng(1).integers(0, 256, (111, 149, 3), np.uint8)
    whole = small(Policy())[0].probabilities(image)
    predictor, reach = small(policy)
    tiled = predictor.probabilities(image)
    seen = np.ones(image.shape[:2], bool)
    for axis, length in enumerate(image.shape[:2]):
        for window in predictor.windows(image.shape).spans(length):
            ends = [slice(window.start, window.start + reach), slice(window.stop - reach, window.stop)]
            for end, border in zip(ends, (window.start == 0, window.stop == length)):
                if not border:
                    seen[(end, slice(None)) if axis == 0 else (slice(None), end)] = False
    assert 0.05 < seen.mean() < 0.95
    apart = np.abs(tiled - whole).max(axis=0)
    assert apart[seen].max() < 1e-5
    assert apart[~seen].max() > 1e-4
    if policy.blend == "gaussian":
        even = small(policy._replace(blend="uniform"))[0].probabilities(image)
        assert apart.mean() < np.abs(even - whole).max(axis=0).mean()


def test_large_images_go_through_in_windows_by_themselves():
    predictor = Predictor(lambda x: x, mx.cpu(), Policy(), stride=48)
    assert predictor.windows((2048, 2048, 3)) is None and WHOLE == 2048 * 2048
    windows = predictor.windows((2048, 2049, 3))
    assert windows == Windows(1056, OVERLAP, "gaussian", 48) and SIDE == 1024
    assert Predictor(lambda x: x, mx.cpu(), Policy(window=0)).windows((20000, 20000, 3)) is None
    assert Predictor(lambda x: x, mx.cpu(), Policy()).windows((10**7, 1)) is None  # a signal
