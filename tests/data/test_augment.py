import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data import shapes
from segtrain.data.augment import augment, parse
from segtrain.data.crop import Window
from segtrain.data.dataset import Sample
from segtrain.errors import UserError

SAMPLE = shapes.build("train", size=(48, 64)).read(0)
ALL = parse(["scale(0.5, 2)", "flip", "vflip", "rotate(10)", "color(0.3)", "blur(1)", "noise(5)"])


def made(steps, crop=(32, 40), seed=0, sample=SAMPLE, other=None, **window):
    rng = np.random.default_rng(seed)
    return augment(sample, Window(crop, 255, **window), steps, rng, other or (lambda: sample))


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


@pytest.mark.parametrize("steps", [[], ["scale(0.5, 2)", "rotate(30)"], ["flip(1)", "elastic(4)"]])
def test_images_that_are_too_long_for_opencv(steps, monkeypatch):
    """They are cut before they are warped, and the crops are those of the whole image."""
    random = np.random.default_rng(0)
    mask = random.integers(0, 3, (60, 90)).astype(np.uint8)
    sample = Sample(random.integers(0, 256, (60, 90, 3)).astype(np.uint8), mask)
    whole = [made(parse(steps), seed=seed, sample=sample) for seed in range(30)]
    monkeypatch.setattr("segtrain.data.crop.LONGEST", 8)
    for seed, (image, ids) in enumerate(whole):
        again = made(parse(steps), seed=seed, sample=sample)
        assert np.abs(again.image.astype(int) - image).max() <= 1
        assert (again.mask != ids).mean() < 0.002  # where a place lies between two pixels
    monkeypatch.undo()
    for size in ((40000, 50), (50, 40000)):
        long = Sample(np.zeros((*size, 1), np.uint8), np.zeros(size, np.uint8))
        assert made(parse(steps), sample=long).image.shape == (32, 40, 1)


def test_noise_leaves_the_mean():
    grey = Sample(np.full((64, 64, 3), 100, np.uint8), np.zeros((64, 64), np.uint8))
    means = [made(parse(["noise(2)"]), seed=seed, sample=grey).image.mean() for seed in range(20)]
    assert np.mean(means) == pytest.approx(100, abs=0.05)


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
        crops = (made(steps, (32, 32), seed, sample, foreground=foreground) for seed in range(40))
        return [(crop.mask == 3).any() for crop in crops]

    assert sum(held(0)) < 10 and all(held(1))
    assert all(held(1, parse(["scale(1.5, 2)", "flip", "rotate(20)"])))
    empty = Sample(sample.image, np.zeros_like(mask))
    assert made([], (32, 32), 0, empty, foreground=1).mask.shape == (32, 32)


def test_bends_keep_any_channels_and_types():
    image = np.random.default_rng(0).random((48, 64, 6), np.float32)
    found = made(parse(["elastic(3)", "cutout(0.3)"]), sample=Sample(image, SAMPLE.mask))
    assert found.image.shape == (32, 40, 6) and found.image.dtype == np.float32


# ---- several samples in one


def plain(value, ids, dtype=np.uint8, channels=3):
    """An image of one value, with a mask of ids (H, W)."""
    ids = np.array(ids, np.uint8)
    return Sample(np.full((*ids.shape, channels), value, dtype), ids)


@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 3), (np.uint8, 7), (np.float32, 1), (np.float32, 4)]
)
def test_mosaic_puts_four_samples_about_a_point(dtype, channels):
    values = iter(range(2, 100))

    def other():
        value = next(values)
        return plain(value, np.full((50, 60), value), dtype, channels)

    own = plain(1, np.full((50, 60), 1), dtype, channels)
    for seed in range(20):
        image, mask = made(parse(["mosaic(1)"]), seed=seed, sample=own, other=other)
        assert image.dtype == dtype and image.shape == (32, 40, channels)
        assert (image == mask[..., None]).all() and len(np.unique(mask)) == 4 and (mask == 1).any()
        cuts = [
            1 + np.flatnonzero(np.diff(mask.astype(int), axis=axis).any(1 - axis)) for axis in (0, 1)
        ]
        assert [len(cut) for cut in cuts] == [1, 1]
        assert 8 <= cuts[0][0] <= 24 and 10 <= cuts[1][0] <= 30


def test_copy_paste_copies_whole_objects_of_one_class_with_their_pixels():
    ids = np.zeros((40, 40), np.uint8)
    ids[2:8, 2:8], ids[2:8, 20:30], ids[20:30, 5:15], ids[35:] = 1, 1, 2, 255
    source = plain(200, ids)
    objects = [(slice(2, 8), slice(2, 8)), (slice(2, 8), slice(20, 30)), (slice(20, 30), slice(5, 15))]
    seen = set()
    for seed in range(40):
        steps = parse(["copy_paste(1)"])
        own = plain(10, np.full((40, 40), 3))
        image, mask = made(steps, (40, 40), seed, own, lambda: source)
        pasted = mask != 3
        assert (image[pasted] == 200).all() and (image[~pasted] == 10).all()
        assert (mask[pasted] == ids[pasted]).all()
        whole = tuple(bool(pasted[part].all()) for part in objects)
        assert whole == tuple(bool(pasted[part].any()) for part in objects) and any(whole)
        assert not (whole[2] and (whole[0] or whole[1]))
        seen.add(whole)
    assert len(seen) == 4  # either object of class 1, both, or that of class 2


def test_nothing_is_pasted_from_a_sample_of_background():
    empty, own = plain(0, np.zeros((40, 40))), plain(9, np.full((40, 40), 3))
    image, mask = made(parse(["copy_paste(1)"]), (40, 40), 0, own, lambda: empty)
    assert (image == 9).all() and (mask == 3).all()


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
def test_the_probability_is_kept_and_what_comes_after_changes_all(name):
    own, source = plain(10, np.full((40, 40), 3)), plain(200, np.full((40, 40), 2))
    changed = [
        (made(parse([f"{name}(0.25)"]), seed=seed, sample=own, other=lambda: source).mask == 2).any()
        for seed in range(400)
    ]
    assert 70 < sum(changed) < 130
    image, mask = made(parse([f"{name}(1)", "cutout(1)"]), (40, 40), 1, own, lambda: source)
    assert (mask == 255).any() and (image[mask == 2] == 200).all()


def test_crops_are_drawn_again_up_to_ten_times_while_a_class_fills_more():
    """Where a crop is balanced with chance p, one of eleven is with chance 1 - (1 - p)^11."""
    ids = np.zeros((120, 120), np.uint8)
    ids[:, 80:], ids[:20] = 1, 255

    def share_of_balanced(ratio, steps=()):
        found = []
        for seed in range(300):
            mask = made(steps, (32, 32), seed, plain(0, ids), cat_max_ratio=ratio).mask
            counts = np.bincount(mask.ravel(), minlength=256)[:2]
            found.append(counts.max() < 0.75 * counts.sum())
        return np.mean(found)

    chance = share_of_balanced(1)
    assert 0.05 < chance < 0.3
    assert share_of_balanced(0.75) == pytest.approx(1 - (1 - chance) ** 11, abs=0.08)
    assert share_of_balanced(0.75, parse(["flip", "rotate(10)", "scale(0.8, 1.2)"])) > 0.75


def test_where_no_crop_is_balanced_one_is_taken_all_the_same():
    assert made([], (16, 16), 0, plain(7, np.ones((40, 40))), cat_max_ratio=0.5).image.min() == 7
