"""Images and masks of every kind of file, as a program of its own wrote them."""

import struct

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from segtrain.data.files import read_image, read_mask
from segtrain.errors import UserError
from segtrain.prediction import pictures
from segtrain.prediction.infer import Kind

RNG = np.random.default_rng(0)


def values(channels, dtype=np.uint8, size=(6, 9)):
    image = RNG.random((*size, channels)) * (250 if dtype == np.uint8 else 60000)
    return (image if dtype == np.float32 else np.rint(image)).astype(dtype)


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


def kind_of(image):
    return Kind(image.shape[2], {"uint8": 8, "uint16": 16, "float32": 32}[image.dtype.name])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "layout",
    [{}, {"photometric": "minisblack"}, {"planarconfig": "separate"}, {"compression": "zlib"}],
    ids=["plain", "bands", "apart", "zlib"],
)
def test_a_tiff_of_any_bands_keeps_its_values(tmp_path, channels, dtype, layout):
    image, path = values(channels, dtype), tmp_path / "a.tif"
    if layout.get("planarconfig"):
        if channels == 1:
            pytest.skip("one band has no planes")
        tifffile.imwrite(path, np.moveaxis(image, -1, 0), photometric="minisblack", **layout)
    else:
        extra = {"planarconfig": "contig"} if channels > 1 else {}
        tifffile.imwrite(path, image if channels > 1 else image[..., 0], **extra, **layout)
    found = read_image(path, kind_of(image))
    assert found.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert found.shape == image.shape and (found == image).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", ["lzw", "packbits", "zstd", "lzma", "jpeg2000", "jpegxl", "png"])
def test_a_tiff_of_any_compression_keeps_its_values(tmp_path, channels, dtype, compression):
    """Of some, OpenCV makes black pictures without a word; a bundle, which has it alone, says so."""
    image, path = values(channels, dtype, (32, 48)), tmp_path / "a.tif"
    tifffile.imwrite(path, image if channels > 1 else image[..., 0], compression=compression)
    assert (read_image(path, kind_of(image)) == image).all()
    if compression in ("lzw", "packbits"):
        assert (pictures.read(path, kind_of(image)) == image).all()
    else:
        with pytest.raises(pictures.InputError, match="compressed in a way"):
            pictures.read(path, kind_of(image))
    if channels == 1 and dtype == np.uint8:
        assert (read_image(path) == image).all()  # as RGB


@pytest.mark.parametrize("meaning", ["palette", "miniswhite"])
def test_a_tiff_whose_values_are_no_colours_is_told(tmp_path, meaning):
    extra = {"colormap": np.zeros((3, 256), np.uint16)} if meaning == "palette" else {}
    tifffile.imwrite(
        tmp_path / "a.tif", values(1)[..., 0], photometric=meaning, compression="zstd", **extra
    )
    with says("a.tif", meaning, "save it as RGB"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_byte_orders_and_bigtiff(tmp_path, order, big):
    image = values(4, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, byteorder=order, bigtiff=big, photometric="rgb")
    assert (read_image(tmp_path / "a.tif", Kind(4, 16)) == image).all()


def test_pages_are_bands_and_none_is_dropped(tmp_path):
    image = values(3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(image, -1, 0), photometric="minisblack")
    assert (read_image(tmp_path / "a.tif", Kind(3, 16)) == image).all()
    with says("16-bit with 3 channels", "data.channels=3"):
        read_image(tmp_path / "a.tif", Kind(1, 16))
    with pytest.raises(pictures.InputError, match="several pages or bands.*npy"):
        pictures.read(tmp_path / "a.tif", Kind(3, 16))


def test_alpha_is_left_out_and_multiplies_nothing(tmp_path):
    image = values(4)
    Image.fromarray(image, "RGBA").save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        assert (read_image(tmp_path / name) == image[..., :3]).all(), name
        assert (read_image(tmp_path / name, Kind(4)) == image).all(), name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_grey_is_repeated_and_colour_made_grey(tmp_path, dtype):
    grey, colour = values(1, dtype), values(3, dtype)
    name = "tif" if dtype == np.float32 else "png"
    if dtype == np.float32:
        tifffile.imwrite(tmp_path / "grey.tif", grey[..., 0])
        tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    else:
        cv2.imwrite(str(tmp_path / "grey.png"), grey)
        cv2.imwrite(str(tmp_path / "colour.png"), colour[..., ::-1])
    depth = kind_of(grey).depth
    assert (read_image(tmp_path / f"grey.{name}", Kind(3, depth)) == grey).all()
    assert (read_image(tmp_path / f"colour.{name}", Kind(3, depth)) == colour).all()
    mixed = read_image(tmp_path / f"colour.{name}", Kind(1, depth))
    wanted = colour.astype(float) @ [0.299, 0.587, 0.114]
    assert mixed.shape == (6, 9, 1)
    most = 4 if dtype == np.uint16 else 2  # OpenCV's weights have 14 bits
    assert np.abs(mixed[..., 0] - wanted).max() <= most


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_signed_and_double_values(tmp_path, dtype, channels):
    image, depth = (values(channels, np.float32) - 30000).astype(dtype), 16 if dtype == np.int16 else 32
    colour = {"photometric": "rgb"} if channels in (3, 4) else {"photometric": "minisblack"}
    extra = {"planarconfig": "contig"} if channels > 1 else {}
    tifffile.imwrite(tmp_path / "a.tif", image if channels > 1 else image[..., 0], **colour, **extra)
    assert (read_image(tmp_path / "a.tif", Kind(channels, depth)) == image.astype(np.float32)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_no_floats_whatever_their_colours(tmp_path, channels):
    for found in (1, 3):
        cv2.imwrite(str(tmp_path / "a.png"), values(found))
        with says("a.png is 8-bit", "data.depth=8"):
            read_image(tmp_path / "a.png", Kind(channels, 32))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_turns_the_picture(tmp_path, channels, orientation):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:20] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # quarters against the clock
    wanted, found = np.rot90(image, turns), read_image(tmp_path / "a.jpg", Kind(channels))
    assert found.shape == (*wanted.shape[:2], channels)
    assert np.abs(found.astype(int) - wanted[..., :channels]).mean() < 3


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(tmp_path, channels, dtype):
    image = values(channels, np.float32 if dtype == np.float64 else dtype).astype(dtype)
    np.save(tmp_path / "a.npy", image)
    depth = {"uint8": 8, "uint16": 16}.get(image.dtype.name, 32)
    assert (read_image(tmp_path / "a.npy", Kind(channels, depth)) == image).all()


def test_another_depth_or_number_of_channels_says_what_to_set(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), values(3, np.uint16))
    with says("deep.png is 16-bit with 3 channels", "8-bit with 3 channels", "data.depth=16"):
        read_image(tmp_path / "deep.png")
    cv2.imwrite(str(tmp_path / "flat.png"), values(3))
    with says("flat.png is 8-bit", "data.depth=8"):
        read_image(tmp_path / "flat.png", Kind(3, 16))
    with says("flat.png is 8-bit with 3 channels", "4 channels", "data.channels=3"):
        read_image(tmp_path / "flat.png", Kind(4))


def test_images_that_cant_be_used(tmp_path):
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    with says("nan.tif", "not finite"):
        read_image(tmp_path / "nan.tif", Kind(1, 32))
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4, 5), np.uint8))
    with says("cube.npy", "uint8 .2, 3, 4, 5."):
        read_image(tmp_path / "cube.npy")
    (tmp_path / "no.npy").write_bytes(b"no array")
    with says("no.npy"):
        read_image(tmp_path / "no.npy")
    tifffile.imwrite(tmp_path / "a.tif", values(5, size=(90, 90)), planarconfig="contig")
    whole = (tmp_path / "a.tif").read_bytes()
    for length in (3, 9, 100, len(whole) // 2):
        (tmp_path / "cut.tif").write_bytes(whole[:length])
        with says("cut.tif"):
            read_image(tmp_path / "cut.tif", Kind(5))
    with says("gone.tif", "No such file"):
        read_image(tmp_path / "gone.tif")
    tifffile.imwrite(tmp_path / "t.tif", values(5), planarconfig="contig", extratags=[(274, "H", 1, 6)])
    with says("t.tif is stored turned"):
        read_image(tmp_path / "t.tif", Kind(5))


IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "npy", "mat"])
def test_masks_of_ids(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "npy":
        np.save(path, IDS)
    elif ending == "mat":
        savemat(path, {"S": IDS.astype(float), "name": "a", "scale": 2.0, "note": np.zeros((2, 2, 2))})
    else:
        Image.fromarray(IDS).save(path)
    found = read_mask(path)
    assert found.dtype.kind in "iu" and (found == IDS).all()


@pytest.mark.parametrize("dtype", [bool, np.int16, np.int32, np.int64, np.uint64, np.float32, float])
def test_arrays_of_whole_numbers_are_masks(tmp_path, dtype):
    np.save(tmp_path / "a.npy", (IDS > 0).astype(dtype))
    assert (read_mask(tmp_path / "a.npy") == (IDS > 0)).all()


def test_masks_that_cant_be_used(tmp_path):
    np.save(tmp_path / "half.npy", IDS / 2)
    with says("half.npy holds float64", "whole numbers"):
        read_mask(tmp_path / "half.npy")
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    with says("nan.npy", "whole numbers"):
        read_mask(tmp_path / "nan.npy")
    frames = [Image.fromarray(IDS), Image.fromarray(IDS[::-1] * 90)]
    for ending in ("gif", "tif"):
        frames[0].save(tmp_path / f"two.{ending}", save_all=True, append_images=frames[1:])
        with says(f"two.{ending} holds 2 pictures"):
            read_mask(tmp_path / f"two.{ending}")
    savemat(tmp_path / "two.mat", {"a": IDS, "b": IDS})
    with says("two.mat has 2 variables", "data.variable to one of a, b"):
        read_mask(tmp_path / "two.mat")
    assert (read_mask(tmp_path / "two.mat", variable="b") == IDS).all()
    with says("no variable 'c'", "a, b"):
        read_mask(tmp_path / "two.mat", variable="c")
    for name in ("bad.mat", "bad.npy", "bad.gif"):
        (tmp_path / name).write_bytes(b"nonsense" * 40)
        with says(name):
            read_mask(tmp_path / name)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM"
    (tmp_path / "new.mat").write_bytes(header + b"\0" * 400)
    with says("new.mat", "7.3", "-v7"):
        read_mask(tmp_path / "new.mat")


@pytest.mark.parametrize("ending", ["npy", "mat", "png", "gif", "tif", "bmp", "jpg"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4", b"\x93NUMPY\1\0", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_empty_and_broken_files_of_any_ending(tmp_path, ending, content):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    with says(str(path)):
        read_mask(path)
    if ending not in ("mat", "gif"):
        for kind in (Kind(), Kind(4, 16)):
            with says(str(path)):
                read_image(path, kind)


def test_an_archive_of_arrays_is_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", a=IDS)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    for read in (read_mask, read_image):
        with says("a.npy: not a .npy array"):
            read(tmp_path / "a.npy")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(["plain.tif", "bands.tif", "mask.png", "mask.gif"]))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, data, name):
    path = tmp_path / name
    if not path.exists():
        image = values(6 if "bands" in name else 3, np.uint16)
        if name.endswith("tif"):
            tifffile.imwrite(path, image, planarconfig="contig")
        else:
            Image.fromarray(IDS).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"damaged-{name}"
    damaged.write_bytes(content)
    try:
        if name.startswith("mask"):
            assert read_mask(damaged).ndim == 2
        else:
            assert read_image(damaged, Kind(6 if "bands" in name else 3, 16)).ndim == 3
    except UserError as error:
        assert str(damaged) in str(error)


def test_a_gif_whose_second_picture_is_damaged_is_refused(tmp_path):
    path = tmp_path / "a.gif"
    Image.fromarray(IDS).save(path)
    path.write_bytes(path.read_bytes().rstrip(b";") + b"!\xf9\x01\x01\x00;")  # 1 byte of a block of 4
    with says("a.gif: not an image that can be decoded"):
        read_mask(path)


def test_a_palette_png_gives_its_colours_where_they_are_wanted(tmp_path):
    mask = Image.fromarray(IDS, "P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", colours=True)[0].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
    ]
    assert (read_mask(tmp_path / "a.png") == IDS).all()
    np.save(tmp_path / "a.npy", IDS)
    with says("a.npy holds ids", "data.palette"):
        read_mask(tmp_path / "a.npy", colours=True)
