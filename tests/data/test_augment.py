import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data import shapes
from segtrain.data.augment import augment, parse
from segtrain.data.dataset import Sample
from segtrain.errors import UserError

SAMPLE = shapes.build("train", size=(48, 64)).read(0)
ALL = parse(["scale(0.5, 2)", "flip", "vflip", "rotate(10)", "color(0.3)", "blur(1)", "noise(5)"])


def made(steps, crop=(32, 40), seed=0, sample=SAMPLE):
    return augment(sample, crop, steps, np.random.default_rng(seed), 255)


def test_a_crop_alone_is_a_part_of_the_sample():
    image, mask = made([])
    tops = [
        (y, x)
        for y in range(17)
        for x in range(25)
        if (SAMPLE.image[y : y + 32, x : x + 40] == image).all()
    ]
    assert len(tops) == 1
    y, x = tops[0]
    assert (SAMPLE.mask[y : y + 32, x : x + 40] == mask).all()


def test_flips_are_exact():
    for name, axis in (("flip(1)", 1), ("vflip(1)", 0)):
        image, mask = made(parse([name]), crop=SAMPLE.mask.shape)
        assert (image == np.flip(SAMPLE.image, axis)).all()
        assert (mask == np.flip(SAMPLE.mask, axis)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 100), st.integers(8, 100))
def test_any_seed_and_crop(seed, height, width):
    image, mask = made(ALL, (height, width), seed)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert mask.shape == (height, width)
    assert set(np.unique(mask)) <= {*np.unique(SAMPLE.mask), 255}
    again = made(ALL, (height, width), seed)
    assert (again.image == image).all() and (again.mask == mask).all()


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_number_of_channels_of_bytes_or_floats(channels, dtype):
    deep = Sample(np.repeat(SAMPLE.image[..., :1], channels, axis=2).astype(dtype), SAMPLE.mask)
    for seed in range(5):
        image, mask = made(ALL, (32, 40), seed, deep)
        assert image.shape == (32, 40, channels) and image.dtype == dtype and mask.shape == (32, 40)


def test_floats_are_augmented_in_their_own_range():
    """Values a hundred times as great come out a hundred times as great, and nothing is cut off."""
    steps = parse(["color(0.5)", "noise(20)", "blur(2)"])
    plain = made(steps, seed=3, sample=Sample(SAMPLE.image.astype(np.float32), SAMPLE.mask)).image
    great = made(steps, seed=3, sample=Sample(SAMPLE.image * np.float32(100), SAMPLE.mask)).image
    assert plain.max() > 255 or plain.min() < 0
    assert great == pytest.approx(plain * 100, rel=1e-3, abs=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_image_and_mask_move_together(seed):
    """Where the picture is the mask itself, the warped picture is the warped mask."""
    mask = np.kron(SAMPLE.mask[::8, ::8] > 0, np.ones((8, 8))).astype(np.uint8)
    twin = Sample(np.repeat(mask[..., None] * 200, 3, axis=2), mask)
    image, warped = made(parse(["scale(0.7, 1.5)", "flip", "rotate(20)"]), (40, 40), seed, twin)
    inside = warped != 255
    assert ((image[..., 0] > 100) == (warped == 1))[inside].mean() > 0.97


def test_beyond_the_border_the_mask_is_ignored_and_the_image_mirrored():
    image, mask = made(parse(["scale(0.5, 0.5)"]), (48, 64))
    assert 0.7 < (mask == 255).mean() < 0.78
    assert (image == 0).mean() < 0.2


def test_colour_alone_leaves_the_mask():
    plain, coloured = made([], (48, 64)), made(parse(["color(0.5)"]), (48, 64))
    assert (plain.mask == coloured.mask).all()
    assert (plain.image != coloured.image).any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flop", "did you mean flip"),
        ("scale(2)", "scale(low, high)"),
        ("scale(a, b)", "must be numbers"),
        ("rotate(__import__('os'))", "must be numbers"),
        ("rotate(-3)", "from 0 up"),
        ("scale 1 2", "no 'scale 1 2'"),
    ],
)
def test_wrong_texts_are_named(text, says):
    with pytest.raises(UserError) as error:
        parse([text])
    assert says in str(error.value)


def test_elastic_of_no_height_is_the_plain_crop():
    plain, bent = made([], seed=3), made(parse(["elastic(0)"]), seed=3)
    assert (plain.mask == bent.mask).all()
    assert np.abs(plain.image.astype(int) - bent.image).max() <= 1


def test_elastic_moves_image_and_mask_alike():
    """Where the image is the mask in grey, it stays so."""
    sample = Sample((SAMPLE.mask * 60)[..., None].repeat(3, axis=2), SAMPLE.mask)
    image, mask = made(parse(["elastic(5)"]), crop=SAMPLE.mask.shape, sample=sample)
    flat = mask != 255
    agree = np.abs(image[..., 0].astype(int) - mask * 60.0)[flat] <= 30
    assert agree.mean() > 0.97
    assert (mask != made([], crop=SAMPLE.mask.shape, sample=sample).mask).mean() > 0.02


def test_cutout_hides_a_part_from_image_and_mask():
    for seed in range(20):
        image, mask = made(parse(["cutout(0.5)"]), seed=seed)
        plain = made([], seed=seed)
        hidden = (mask == 255) & (plain.mask != 255)
        assert hidden.sum() <= 16 * 20
        assert (image[mask != 255] == plain.image[mask != 255]).all()
        assert len(np.unique(image[hidden].reshape(-1, 3), axis=0)) <= 1


def test_crops_about_the_foreground_hold_some():
    mask = np.zeros((200, 300), np.uint8)
    mask[150, 250], mask[:4] = 3, 255
    sample = Sample(np.zeros((200, 300, 3), np.uint8), mask)

    def held(foreground, steps=()):
        rngs = (np.random.default_rng(seed) for seed in range(40))
        return [(augment(sample, (32, 32), steps, r, 255, foreground).mask == 3).any() for r in rngs]

    assert sum(held(0)) < 10 and all(held(1))
    assert all(held(1, parse(["scale(1.5, 2)", "flip", "rotate(20)"])))
    empty = Sample(sample.image, np.zeros_like(mask))
    assert augment(empty, (32, 32), [], np.random.default_rng(0), 255, 1).mask.shape == (32, 32)


def test_bends_keep_any_channels_and_types():
    image = np.random.default_rng(0).random((48, 64, 6), np.float32)
    found = made(parse(["elastic(3)", "cutout(0.3)"]), sample=Sample(image, SAMPLE.mask))
    assert found.image.shape == (32, 40, 6) and found.image.dtype == np.float32
