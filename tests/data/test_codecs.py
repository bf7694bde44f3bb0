"""The quick decoders give the pixels that OpenCV and Pillow do, or nothing."""

from io import BytesIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from segtrain.data import codecs
from segtrain.data.files import read_image
from segtrain.errors import UserError
from segtrain.prediction import pictures

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def smooth(size, channels, seed):
    """A picture that PNG's filters and JPEG have something to do with."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (3, 3, channels), np.uint8)
    image = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)
    noise = rng.integers(0, 4, image.shape, np.uint8)
    return cv2.add(image, noise).reshape(image.shape)


def saved(image, kind, **options):
    content = BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(content, kind, **options)
    return content.getvalue()


def by_opencv(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@given(sizes, st.integers(0, 9), st.integers(0, 2**32))
@example((300, 400), 6, 0)  # over several stored blocks
@example((21845, 1), 1, 0)
def test_png_in_colour(size, level, seed):
    content = saved(smooth(size, 3, seed), "PNG", compress_level=level)
    assert np.array_equal(codecs.image(content), by_opencv(content))
    assert codecs.values(content) is None


@pytest.mark.parametrize("filter_", ["NONE", "SUB", "UP", "AVG", "PAETH", "ALL"])
def test_each_filter(filter_):
    level = getattr(imagecodecs.PNG.FILTER, filter_, None)
    if level is None:
        pytest.skip(f"this imagecodecs has no filter {filter_}")
    image = smooth((40, 50), 3, 1)
    assert np.array_equal(codecs.image(imagecodecs.png_encode(image, filter=level)), image)


@given(sizes, st.integers(0, 9), st.integers(0, 2**32), st.booleans())
def test_masks_of_grey_values_and_palettes(size, level, seed, palette):
    mask = smooth(size, 1, seed)
    content = BytesIO()
    picture = Image.fromarray(mask[..., 0])
    if palette:
        picture = Image.fromarray(mask[..., 0], "P")
        picture.putpalette(list(range(256)) * 3)
    picture.save(content, "PNG", compress_level=level, bits=8)
    assert np.array_equal(codecs.values(content.getvalue()), mask[..., 0])
    assert codecs.image(content.getvalue()) is None


@given(
    sizes,
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.integers(),
)
def test_jpeg(size, quality, subsampling, progressive, seed):
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    content = saved(smooth(size, 3, abs(seed)), "JPEG", **options)
    assert np.array_equal(codecs.image(content), by_opencv(content))


def turned(by):
    exif = Image.Exif()
    exif[274] = by
    return {"exif": exif}


COLOUR, GREY = smooth((20, 30), 3, 0), smooth((20, 30), 1, 0)
LEFT = {
    "16 bits": cv2.imencode(".png", COLOUR.astype(np.uint16) * 257)[1].tobytes(),
    "alpha": saved(np.dstack([COLOUR, GREY]), "PNG"),
    "a colour that is transparent": saved(COLOUR, "PNG", transparency=(1, 2, 3)),
    "turned PNG": saved(COLOUR, "PNG", **turned(6)),
    "turned JPEG": saved(COLOUR, "JPEG", **turned(6)),
    "grey JPEG": saved(GREY, "JPEG"),
    "1 bit": saved(GREY > 100, "PNG"),
    "a palette of 4 bits": saved(GREY // 128, "PNG", bits=4),
    "BMP": saved(COLOUR, "BMP"),
    "nothing": b"",
    "a signature alone": b"\x89PNG\r\n\x1a\n",
    "start of a JPEG alone": b"\xff\xd8",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_others(name):
    assert codecs.image(LEFT[name]) is None
    if name != "a palette of 4 bits":
        assert codecs.values(LEFT[name]) is None


def test_an_interlaced_png_is_left_to_others():
    content = bytearray(saved(COLOUR, "PNG"))
    content[28] = 1  # IHDR's interlace method
    assert codecs.image(bytes(content)) is None


def test_exif_data_of_an_upright_picture_are_no_hindrance(tmp_path):
    content = saved(COLOUR, "JPEG", **turned(1))
    assert np.array_equal(codecs.image(content), by_opencv(content))


@given(st.sampled_from(["PNG", "JPEG"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_damaged_file_is_left_to_others_or_read_as_they_do(kind, where, change):
    content = bytearray(saved(COLOUR, kind))
    content[int(where * len(content))] ^= change
    found = codecs.image(bytes(content))
    told = pictures.decode(bytes(content))
    if found is not None and kind == "PNG":  # with a wrong checksum alone, OpenCV gives up
        assert np.array_equal(found, COLOUR)
    elif found is not None:  # beyond what an encoder writes, inverse cosine transforms differ
        assert told is not None and found.shape == told.shape


@given(st.sampled_from(["PNG", "JPEG"]), st.floats(0, 0.999))
def test_a_cut_off_file_is_left_to_others(kind, share):
    content = saved(COLOUR, kind)
    least = len(content) - 8 * (kind == "PNG")  # of its last chunk, the name is enough
    assert codecs.image(content[: int(share * least)]) is None


def test_a_picture_that_claims_to_be_vast_is_left_to_others():
    """A header of a few bytes must not have gigabytes written."""
    png, jpeg = bytearray(saved(COLOUR, "PNG")), bytearray(saved(COLOUR, "JPEG"))
    png[16:24] = b"\0\1\0\0\0\1\0\0"
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert codecs.image(bytes(png)) is None and codecs.image(bytes(jpeg)) is None
    with pytest.raises(UserError, match="not an image that can be decoded"):
        read_image(Path("vast.jpg"), content=bytes(jpeg))
