"""Pictures written row by row, read back by Pillow and OpenCV."""

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segtrain.data.dataset import palette
from segtrain.prediction import pictures
from segtrain.prediction.pictures import Kind


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_a_mask_written_reads_back(height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    with Image.open(io.BytesIO(pictures.encode(mask, palette()))) as file:
        assert file.mode == "P"
        assert (np.asarray(file) == mask).all()
        assert (np.asarray(file.convert("RGB")) == palette()[mask]).all()


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 40), max_size=3), st.booleans())
def test_rows_in_any_portions_make_one_picture(height, width, cuts, colour):
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (height, width, *[3] * colour), np.uint8)
    file = io.BytesIO()
    png = pictures.Png(file, (height, width))
    for rows in np.split(pixels, sorted({min(cut, height) for cut in cuts} - {height})):
        png.add(rows)
    png.close()
    with Image.open(file) as picture:
        assert picture.mode == ("RGB" if colour else "L")
        assert (np.asarray(picture) == pixels).all()


def test_parts_are_put_together(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    with pictures.picture(tmp_path / "a/b.png", (30, 40), lambda part: part.ids, palette()) as add:
        for rows in (slice(0, 7), slice(7, 30)):
            for columns in (slice(0, 11), slice(11, 12), slice(12, 40)):
                add(SimpleNamespace(place=(rows, columns), ids=pixels[rows, columns]))
        assert not (tmp_path / "a/b.png").exists()
    with Image.open(tmp_path / "a/b.png") as file:
        assert (np.asarray(file) == pixels).all()
    assert (pictures.ids((tmp_path / "a/b.png").read_bytes()) == pixels).all()


def test_a_picture_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), pictures.picture(tmp_path / "a.png", (4, 4), None):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (300, 2), (600, 5)])
def test_a_large_file_is_read_like_a_small_one(tmp_path, monkeypatch, channels, size):
    """The colours' order, turned in place strip by strip, against Pillow; from memory and from disk."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    for _ in range(2):
        found = pictures.read(path, Kind(channels))
        if channels > 1:
            assert (found == pixels[..., :channels]).all()
        grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
        assert channels > 1 or np.abs(found[..., 0].astype(int) - grey).max() <= 1
        monkeypatch.setattr(pictures, "LARGE", 0)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(pictures.InputError, match="damaged"):
        pictures.read(path, Kind(channels))
