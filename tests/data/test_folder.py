import cv2
import numpy as np
import pytest
from conftest import CLASSES, real, write_pair
from PIL import Image, ImageFile

from segtrain.config import Data
from segtrain.data.dataset import open_split
from segtrain.data.scan import scan
from segtrain.errors import UserError


def opened(root, split="train", **options):
    return open_split(Data(name="folder", root=root, **{"classes": CLASSES, **options}), split)


def says(*texts):
    return pytest.raises(UserError, match="".join(f"(?=.*{t})" for t in texts))


def test_pairs_are_found_in_order_and_read(folder):
    data = opened(folder)
    assert data.ids == [f"{i:02d}" for i in range(6)]
    image, mask = data.read(2)
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    assert mask.shape == (48, 64) and mask.max() < 4


def test_the_image_is_rgb(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    write_pair(tmp_path / "train", "a", red, np.zeros((4, 4), np.uint8))
    assert opened(tmp_path).read(0).image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".jpg", ".JPEG"])
def test_image_formats(tmp_path, ending):
    pixels = np.full((6, 5, 3), 100, np.uint8)
    write_pair(tmp_path / "train", "a", pixels, np.zeros((6, 5), np.uint8))
    (tmp_path / "train/images/a.png").unlink()
    cv2.imwrite(str(tmp_path / f"train/images/a{ending}"), pixels)
    assert opened(tmp_path).read(0).image.shape == (6, 5, 3)


@pytest.mark.parametrize("kind", ["L", "P", "grey RGB", "I;16", "1", "bmp", "tif"])
def test_mask_formats(tmp_path, kind):
    ids = np.array([[0, 1], [1, 0]], np.uint8)
    write_pair(tmp_path / "train", "a", np.zeros((2, 2, 3), np.uint8), ids)
    path = tmp_path / "train/masks/a.png"
    if kind == "P":
        mask = Image.fromarray(ids, "P")
        mask.putpalette([0, 0, 0, 128, 0, 0])
        mask.save(path)
    elif kind == "grey RGB":
        cv2.imwrite(str(path), np.stack([ids] * 3, axis=-1))
    elif kind == "I;16":
        Image.fromarray(ids.astype(np.uint16)).save(path)
    elif kind == "1":
        Image.fromarray(ids.astype(bool)).save(path)
    elif kind in ("bmp", "tif"):
        path.unlink()
        cv2.imwrite(str(path.with_suffix(f".{kind}")), ids)
    assert (opened(tmp_path).read(0).mask == ids).all()


def test_label_map_and_ignore(tmp_path):
    raw = np.array([[0, 255], [7, 9]], np.uint8)
    write_pair(tmp_path / "train", "a", np.zeros((2, 2, 3), np.uint8), raw)
    data = opened(tmp_path, label_map={255: 1, 7: 2, 9: 200}, ignore=200)
    assert data.read(0).mask.tolist() == [[0, 1], [2, 200]]


def test_splits_by_list_files(folder):
    both = folder.parent / "both"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            for path in (folder / split / kind).iterdir():
                target = both / kind / f"{split}-{path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    (both / "train.txt").write_text("train-00\ntrain-01.png\n\n")
    (both / "held-out.txt").write_text("val-00\n")
    assert opened(both).ids == ["train-00", "train-01"]
    assert opened(both, "val", splits={"val": "held-out.txt"}).ids == ["val-00"]
    with says("no split 'test'"):
        opened(both, "test")
    (both / "train.txt").write_text("train-00\ntrain-01\ntrain-00\n")
    with says("train.txt has 'train-00' more than once"):
        opened(both)
    (both / "train.txt").write_text("train-77\n")
    with says("train-77"):
        opened(both)


def test_what_is_missing_is_named(folder, tmp_path):
    with says("no folder", "nowhere", "data.root"):
        opened(tmp_path / "nowhere")
    with says("no split 'test'"):
        opened(folder, "test")
    (folder / "train/masks/03.png").unlink()
    with says("images/03.png", "without a mask"):
        opened(folder)
    (folder / "train/images/03.png").unlink()
    (folder / "train/images/02.png").unlink()
    with says("masks/02.png", "without an image"):
        opened(folder)


def test_two_images_of_one_name(folder):
    (folder / "train/images/00.jpg").write_bytes(b"")
    with says("00.jpg", "00.png", "one name"):
        opened(folder)


def test_a_mask_of_another_size(folder):
    cv2.imwrite(str(folder / "train/masks/01.png"), np.zeros((10, 20), np.uint8))
    with says("01.png", "20x10", "64x48"):
        scan(opened(folder), "train")


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_truncated_file(folder, kind, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as gluoncv.data leaves it
    path = folder / "train" / kind / "04.png"
    path.write_bytes(path.read_bytes()[:-60])
    with says("04.png"):
        scan(opened(folder), "train")


def test_a_truncated_jpeg(folder):
    path = folder / "train/images/04.png"
    ok, data = cv2.imencode(".jpg", cv2.imread(str(path)))
    path.with_suffix(".jpg").write_bytes(data.tobytes()[: len(data) // 2])
    path.unlink()
    with says("04.jpg"):
        scan(opened(folder), "train")


def test_a_jpeg_with_something_after_its_end(folder):
    path = folder / "train/images/04.png"
    data = cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes()
    path.with_suffix(".jpg").write_bytes(data + b"a camera's own notes" * 10)
    path.unlink()
    scan(opened(folder), "train")


def test_hidden_folders_are_left_alone(folder):
    hidden = folder / "train/images/.ipynb_checkpoints"
    hidden.mkdir()
    (hidden / "00-checkpoint.png").write_bytes(b"")
    assert len(opened(folder).ids) == 6


def test_links_to_folders_are_followed_but_not_in_circles(folder, tmp_path):
    for kind in ("images", "masks"):
        (folder / "train" / kind).rename(tmp_path / kind)
        (folder / "train" / kind).mkdir()
        for link in ("a", "b"):
            (folder / "train" / kind / link).symlink_to(tmp_path / kind)
        (tmp_path / kind / "back").symlink_to(folder / "train" / kind)
    ids = opened(folder).ids
    assert len(ids) == 12 and ids[0] == "a/00" and ids[-1] == "b/05"


def test_an_id_out_of_range_and_the_cure(folder):
    path = folder / "train/masks/05.png"
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    mask[:2] = 17
    cv2.imwrite(str(path), mask)
    with says("05.png", "holds 17", "4.2%", "data.label_map=.17: CLASS"):
        scan(opened(folder), "train")
    scan(opened(folder, label_map={17: 0}), "train")


def test_too_few_classes_and_the_cures(folder):
    path = folder / "train/masks/00.png"
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    mask[:2], mask[2:4] = len(CLASSES), len(CLASSES) + 1
    cv2.imwrite(str(path), mask)
    with says("holds 4, 5 ", "name more of them in data.classes", "label_map=.4: CLASS, 5: CLASS}$"):
        opened(folder).read(0)


def test_a_photo_that_its_exif_turns(folder):
    picture, turned = folder / "train/images/02.png", Image.Exif()
    turned[0x0112] = 6
    Image.open(picture).save(picture.with_suffix(".jpg"), exif=turned)
    picture.unlink()
    with says("02.png is 64x48 and its image .*02.jpg 48x64", "EXIF"):
        opened(folder).read(2)


def test_a_colour_mask(folder):
    colours = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    cv2.imwrite(str(folder / "train/masks/00.png"), colours)
    with says("00.png", "colour mask"):
        scan(opened(folder), "train")


def test_masks_of_0_and_255_with_two_classes(folder):
    for path in (folder / "train/masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.where(mask > 0, 255, 0).astype(np.uint8))
    with says("data.label_map=.255: 1"):
        scan(opened(folder, classes=["ground", "thing"]), "train")
    census = scan(opened(folder, classes=["ground", "thing"], label_map={255: 1}), "train")
    assert (census.pixels > 0).all() and census.pixels.sum() == 6 * 48 * 64


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"classes": ["one"]}, "1 names"),
        ({"classes": ["a", "a"]}, "twice"),
        ({"ignore": 300}, "ignore=300"),
        ({"label_map": {3: 77}}, "3: 77"),
    ],
)
def test_options_out_of_range(folder, options, text):
    with says(text):
        opened(folder, **options)


def test_camvid_counts():
    """Pixels by class as NumPy counts them in the raw files."""
    root = real("camvid")
    names = [str(i) for i in range(11)]
    data = opened(root, "val", classes=names, ignore=11)
    assert len(data.ids) == 101
    raw = [np.asarray(Image.open(p)) for p in (root / "val/masks").iterdir()]
    counts = np.bincount(np.concatenate([r.ravel() for r in raw]), minlength=12)[:11]
    assert (scan(data, "val").pixels.sum(axis=0) == counts).all()


def test_palette_masks_of_voc():
    root = real("voc-sample") / "VOC2012"
    data = opened(
        root,
        "train",
        classes=[str(i) for i in range(21)],
        images="JPEGImages",
        masks="SegmentationClass",
        splits={"train": "ImageSets/Segmentation/train.txt"},
    )
    assert set(np.unique(data.read(0).mask)) <= {*range(21), 255}


# ---- suffixes, colours, depths


def test_images_and_masks_in_one_folder_told_apart_by_a_suffix(folder):
    for kind, suffix in (("images", ""), ("masks", "_mask")):
        for path in sorted((folder / "train" / kind).iterdir()):
            target = folder / "one/all/deep" / f"{path.stem}{suffix}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    options = {"images": "all", "masks": "all", "mask_suffix": "_mask", "splits": {"train": "one"}}
    data = opened(folder, **options)
    assert data.ids == [f"deep/{i:02d}" for i in range(6)]
    assert all(data.read(i).mask.max() < 4 for i in range(6))
    (folder / "one/all/deep/03_mask.png").unlink()
    with says("03.png: an image without a mask"):
        opened(folder, **options)
    with says("data.images and data.masks are both all", "data.mask_suffix"):
        opened(folder, **{**options, "mask_suffix": ""})


def test_a_suffix_of_the_images(folder):
    for path in sorted((folder / "train/images").iterdir()):
        path.rename(folder / "train/masks" / f"{path.stem}_rgb.png")
    one = {"images": "masks", "image_suffix": "_rgb"}
    assert opened(folder, **one).ids == [f"{i:02d}" for i in range(6)]
    (folder / "train").rename(folder / "both")
    (folder / "some.txt").write_text("03\n01_rgb.png\n")
    listed = {"images": "both/masks", "masks": "both/masks", "image_suffix": "_rgb"}
    assert opened(folder, "some", **listed).ids == ["01", "03"]


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif", "P.png"])
def test_masks_of_colours(tmp_path, ending):
    ids = np.array([[0, 1, 1], [3, 2, 0]], np.uint8)
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
    write_pair(tmp_path / "train", "a", np.zeros((2, 3, 3), np.uint8), ids)
    (tmp_path / "train/masks/a.png").unlink()
    picture = Image.fromarray(table[ids])
    picture = picture.quantize(8) if ending == "P.png" else picture
    picture.save(tmp_path / f"train/masks/a.{ending.split('.')[-1]}")
    palette = dict(zip(CLASSES, map(tuple, table.tolist())))
    assert (opened(tmp_path, palette=palette).read(0).mask == ids).all()


def test_jpeg_masks_only_with_a_tolerance(folder):
    for path in (folder / "train/masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path.with_suffix(".jpg")), np.where(mask > 0, 255, 0).astype(np.uint8))
        path.unlink()
    options = {"classes": ["ground", "thing"], "label_map": {255: 1}, "ignore": None}
    with says("00.jpg", "JPEG", "data.tolerance"):
        scan(opened(folder, **options), "train")
    census = scan(opened(folder, **options, tolerance=127), "train")
    assert (census.pixels > 0).all() and census.pixels.sum() == 6 * 48 * 64


def test_deep_images(folder):
    for path in (folder / "train/images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path)).astype(np.uint16) * 257)
    with says("00.png is 16-bit with 3 channels", "data.depth=16"):
        opened(folder).read(0)
    with says("data.depth=16: set data.mean and data.std"):
        opened(folder, depth=16)
    deep = {"depth": 16, "mean": [30_000] * 3, "std": [15_000] * 3}
    data = opened(folder, **deep)
    image = data.read(0).image
    assert data.dtype == "float32" == image.dtype.name and image.max() > 255
    grey = opened(folder, depth=16, mean=[30_000], std=[9_000], channels=1)
    assert grey.read(0).image.shape == (48, 64, 1)
    with says("data.channels=0"):
        opened(folder, channels=0)
