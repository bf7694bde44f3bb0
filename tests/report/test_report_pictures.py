"""The report's pictures and curves, against what they were drawn from."""

import base64
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from segtrain.data.dataset import Sample, palette
from segtrain.prediction.records import Form
from segtrain.report import cases, charts, layers, traces


def pixels(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))


def test_layers_say_what_the_masks_say():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 40, 60)).astype(np.uint8)
    truth[:10] = 9
    image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    album = layers.Album(4, 9, palette())
    album.add(Sample(image, truth), predicted)
    (drawn,) = album.pictures()
    assert (drawn.width, drawn.height) == (60, 40)
    expected = np.dstack([palette()[predicted], np.full((40, 60), 255)])
    assert (pixels(drawn.predicted) == expected).all()
    shown = pixels(drawn.truth)
    assert (shown[10:, :, :3] == palette()[truth[10:]]).all()
    colours = {tuple(c) for c in shown[:10].reshape(-1, 4).tolist()}
    assert len(colours) == 2 and not colours & {(*c, 255) for c in palette()[:4].tolist()}
    errors = pixels(drawn.errors)
    wrong = truth[10:] != predicted[10:]
    assert (errors[10:, :, 3] == 255 * wrong).all()
    assert (errors[10:][wrong] == (*layers.ERROR, 255)).all()
    assert (errors[:10] == shown[:10]).all()


def test_a_hundred_pictures_stay_below_five_megabytes():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (360, 480, 3), dtype=np.uint8)
    blocks = rng.integers(0, 11, (45, 60)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    album = layers.Album(11, 255, palette())
    for shift in range(100):
        album.add(Sample(np.roll(photo, shift, 0), blocks), np.roll(blocks, shift, 1))
    drawn = album.pictures()
    assert sum(len(uri) for one in drawn for uri in one[2:]) < 4_500_000
    few = layers.Album(11, 255, palette())
    few.add(Sample(photo, blocks), blocks)
    assert few.pictures()[0].width == 480 > drawn[0].width


@given(st.lists(st.none() | st.floats(0, 1), max_size=30), st.integers(0, 12))
def test_the_worst_and_the_best(scores, count):
    worst, best = cases.extremes(scores, count)
    known = [s for s in scores if s is not None]
    assert len({*worst, *best}) == len(worst) + len(best) == min(2 * count, len(known))
    assert [scores[i] for i in worst] == sorted(known)[: len(worst)]
    assert [scores[i] for i in best] == sorted(known, reverse=True)[: len(best)]


@given(
    st.lists(st.none() | st.floats(1e-6, 1e3), min_size=1, max_size=40).filter(
        lambda values: any(v is not None for v in values)
    )
)
@example([1.0, 1.000001])  # whose ticks differ in their seventh digit
def test_curves_lie_where_their_axes_say(values):
    history = [{"epoch": 1.0 + i, "loss": v} for i, v in enumerate(values)]
    (drawn,) = charts.curves(history, {})
    (line,) = drawn["series"]
    points = [tuple(map(float, pair.split(","))) for pair in line["line"].split()]
    (y1, low), (y2, high) = ((y, float(text)) for y, text in (drawn["y_ticks"][0], drawn["y_ticks"][-1]))
    read = [low + (y - y1) / (y2 - y1) * (high - low) for _, y in points]
    known = [v for v in values if v is not None]
    assert read == pytest.approx(known, abs=2e-3 * (high - low) + 1e-9)
    assert all(charts.TOP <= y <= charts.BOTTOM for _, y in points)
    assert all(charts.LEFT <= x <= charts.RIGHT for x, _ in points)
    assert [x for x, _ in points] == sorted({x for x, _ in points})
    for x, text in drawn["x_ticks"]:
        at = int(text) - 1
        if values[at] is not None:
            assert x == points[sum(v is not None for v in values[:at])][0]


def test_which_curves_there_are():
    history = [
        {"epoch": 1.0, "step": 5.0, "lr": 0.1, "loss": 2.0, "loss_ce": 2.0, "miou": None, "other": 7.0},
        {"epoch": 2.0, "step": 9.0, "lr": 0.0, "loss": 1.0, "loss_ce": 1.0, "miou": 0.5, "other": 8.0},
    ]
    found = {c["title"]: [s["name"] for s in c["series"]] for c in charts.curves(history, {})}
    assert found == {"Loss": ["loss"], "Learning rate": ["lr"], "Scores on validation": ["miou"]}
    assert charts.curves([], {}) == []


@given(st.lists(st.floats(0, 1), max_size=50))
def test_the_histogram_counts_every_score(scores):
    bars = charts.histogram(scores)["bars"]
    assert sum(int(bar["told"].split(": ")[1]) for bar in bars) == len(scores)


def trace(length, wrong, void=()):
    truth = np.arange(length) // 7 % 3
    predicted = truth.copy()
    predicted[wrong] = 1 + (truth[wrong] == 1)
    truth[list(void)] = 255
    signal = np.sin(np.arange(length) / 9)[:, None].astype(np.float32)
    album = traces.Album(Form(["a"], False, 100.0), 3, 255, palette())
    album.add(Sample(signal, truth.astype(np.uint8)), predicted.astype(np.uint8))
    return album.pictures()[0], truth, predicted


def test_strips_say_what_the_labels_say():
    drawn, truth, predicted = trace(500, [3, 77, 400], range(20, 30))
    strips = {strip["name"]: pixels(strip["uri"])[0] for strip in drawn.strips}
    kept = truth != 255
    coloured = kept & (truth > 0)
    assert (strips["truth"][coloured, :3] == palette()[truth[coloured]]).all()
    assert not strips["truth"][kept & (truth == 0), 3].any()
    assert (strips["prediction"][predicted > 0, :3] == palette()[predicted[predicted > 0]]).all()
    red = (strips["errors"][:, :3] == layers.ERROR).all(axis=1)
    assert np.flatnonzero(red).tolist() == [3, 77, 400]
    assert strips["errors"][20:30, 3].all()


@given(st.integers(1, 20_000), st.randoms(use_true_random=False))
def test_no_error_is_lost_in_a_long_record(length, random):
    at = random.randrange(length)
    drawn, _, _ = trace(length, [at])
    errors = pixels(drawn.strips[2]["uri"])[0]
    red = np.flatnonzero((errors[:, :3] == layers.ERROR).all(axis=1))
    assert len(errors) == min(length, traces.COLUMNS) and len(red) == 1
    assert abs(red[0] - at / length * len(errors)) <= 1


def test_a_curve_keeps_the_peaks_of_a_long_record():
    signal = np.zeros((50_000, 1), np.float32)
    signal[12_345] = 5
    signal[40_000] = -5
    album = traces.Album(Form(["a"], False, None), 2, 255, palette())
    album.add(Sample(signal, np.zeros(50_000, np.uint8)), np.zeros(50_000, np.uint8))
    points = [tuple(map(float, p.split(","))) for p in album.pictures()[0].channels[0]["line"].split()]
    high, low = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
    across = traces.WIDTH - traces.LEFT
    assert high[0] == pytest.approx(traces.LEFT + across * 12_345 / 50_000, abs=1)
    assert low[0] == pytest.approx(traces.LEFT + across * 40_000 / 50_000, abs=1)
