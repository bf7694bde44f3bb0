import numpy as np
import pytest

from segtrain.data import shapes
from segtrain.errors import UserError


def test_a_sample_is_a_function_of_seed_split_and_index():
    a, b = shapes.build("val"), shapes.build("val")
    assert (a.read(5).image == b.read(5).image).all()
    for other in (shapes.build("val", seed=1), shapes.build("train")):
        assert (a.read(5).image != other.read(5).image).any()


def test_all_classes_are_there_in_fair_shares():
    data = shapes.build("train", train=60)
    counts = sum(np.bincount(data.read(i).mask.ravel(), minlength=4) for i in range(60))
    shares = counts / counts.sum()
    assert len(counts) == 4 and shares[0] < 0.95 and shares[1:].min() > 0.01


def test_colour_tells_nothing():
    """The classes' mean colours differ by far less than the colours within a class."""
    data = shapes.build("train", train=80)
    values = {1: [], 2: [], 3: []}
    for index in range(80):
        image, mask = data.read(index)
        for kind in values:
            values[kind].extend(image[mask == kind][::50].tolist())
    means = np.array([np.mean(v, axis=0) for v in values.values()])
    assert np.ptp(means, axis=0).max() < 40 < np.mean([np.std(v) for v in values.values()])


@pytest.mark.parametrize("size", [(32, 32), (50, 131), (300, 200)])
def test_any_size(size):
    image, mask = shapes.build("val", size=size).read(0)
    assert image.shape == (*size, 3) and mask.shape == size


def test_errors():
    with pytest.raises(UserError, match="no split"):
        shapes.build("trian")
    with pytest.raises(UserError, match="32 pixels"):
        shapes.build("train", size=(8, 8))
