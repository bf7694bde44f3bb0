"""From raw ids and colours to class ids: laws, and what is said of values that are no class."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segtrain.data.labels import Colours, RawIds, labels
from segtrain.errors import UserError

PATH = Path("a.png")
colours = st.tuples(*[st.integers(0, 255)] * 3)
palettes = st.lists(colours, min_size=2, max_size=20, unique=True)
NAMES = ["sky", "road"]
TWO = {"sky": (0, 0, 0), "road": (200, 100, 50)}


@given(palettes, st.data())
def test_a_palette_there_and_back(table, data):
    names = [str(i) for i in range(len(table))]
    ids = data.draw(arrays(np.uint8, (4, 5), elements=st.integers(0, len(table) - 1)))
    made = Colours(names, dict(zip(names, table)))
    assert (made.ids(np.array(table, np.uint8)[ids], PATH) == ids).all()


@given(palettes, colours, st.integers(0, 255))
def test_tolerance_takes_the_nearest_colour_or_none(table, colour, tolerance):
    names = [str(i) for i in range(len(table))]
    made = Colours(names, dict(zip(names, table)), tolerance=tolerance)
    away = [max(abs(a - b) for a, b in zip(colour, known)) for known in table]
    pixels = np.array([[colour, table[0]]], np.uint8)
    if min(away) > tolerance:
        with pytest.raises(UserError, match="1 of 2 pixels"):
            made.ids(pixels, PATH)
    else:
        found = made.ids(pixels, PATH)
        assert away[found[0, 0]] == min(away) and found[0, 1] == 0


@given(
    st.integers(2, 12),
    st.dictionaries(st.integers(0, 300), st.integers(0, 1), max_size=4),
    st.integers(0, 60),
    st.integers(0, 700),
)
def test_tolerance_takes_the_nearest_id_or_none(classes, label_map, tolerance, value):
    made = RawIds([str(i) for i in range(classes)], 255, label_map, tolerance)
    known = {**{i: i for i in range(classes)}, 255: 255, **label_map}
    away = min(abs(value - raw) for raw in known)
    mask = np.array([[value]], np.uint16)
    if away > tolerance:
        with pytest.raises(UserError, match=f"holds {value}"):
            made.ids(mask, PATH)
    else:
        nearest = {target for raw, target in known.items() if abs(value - raw) == away}
        assert int(made.ids(mask, PATH)[0, 0]) in nearest


def test_stray_colours_are_counted_and_the_cure_told():
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[0], mask[1, :2] = (203, 100, 50), (0, 9, 0)
    with pytest.raises(UserError) as error:
        Colours(NAMES, TWO).ids(mask, PATH)
    for text in ("a.png: 7 of 20 pixels", "data.palette", "like [203, 100, 50]", "data.tolerance=9"):
        assert text in str(error.value)
    assert Colours(NAMES, TWO, tolerance=9).ids(mask, PATH).sum() == 5


def test_a_colour_to_ignore():
    made = labels(NAMES, 9, {}, {**TWO, "ignore": (255, 255, 255)}, 0)
    assert made.ids(np.full((1, 2, 3), 255, np.uint8), PATH).tolist() == [[9, 9]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"palette": {"sky": (0, 0, 0)}}, "no colour for road"),
        ({"palette": {**TWO, "raod": (1, 1, 1)}}, "did you mean road"),
        ({"palette": {**TWO, "road": (0, 0, 0)}}, "one colour"),
        ({"palette": {**TWO, "road": (0, 0, 300)}}, "from 0 to 255"),
        ({"palette": TWO, "label_map": {1: 0}}, "set one"),
        ({"palette": {**TWO, "ignore": (9, 9, 9)}, "ignore": None}, "'ignore' is no class"),
        ({"tolerance": -1}, "from 0 up"),
        ({"label_map": {7: 7}}, "leads to no class"),
        ({"classes": ["sky", "sky"]}, "twice"),
    ],
)
def test_options_that_cant_be(options, text):
    given = {"classes": NAMES, "ignore": 255, "label_map": {}, "palette": {}, "tolerance": 0, **options}
    with pytest.raises(UserError, match=text):
        labels(**given)
