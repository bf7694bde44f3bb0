"""`segtrain predict`: what it writes, read back by others; stopped, killed, gone on with."""

import json
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import ALONE, run, start
from PIL import Image
from pycocotools.coco import COCO

from segtrain.data import shapes
from segtrain.data.dataset import palette
from segtrain.prediction import video
from segtrain.prediction.pictures import InputError, Kind
from segtrain.trained import open_trained

NAMES = ["0", "1", "2", "3", "sub/4", "sub/5"]
CONFIG = """
model: {name: unet, fold: 2, widths: [8, 16], units: 1}
data: {name: shapes, size: [48, 64], train: 24, val: 4, crop: [48, 48], workers: 0}
train: {epochs: 1, batch: 4, lr: 0.01, optimizer: adam}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, its bundle, six images of two sizes in a folder, and a video of twelve frames."""
    home = tmp_path_factory.mktemp("predict")
    (home / "c.yaml").write_text(CONFIG)
    for command, out in (
        (("train", home / "c.yaml"), "run"),
        (("export", home / "run", "--no-fold"), "bundle"),  # a folded one may decide ties otherwise
    ):
        code, text = run(*command, "--out", home / out)
        assert code == 0, text
    (home / "in/sub").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        cv2.imwrite(str(home / f"in/{name}.png"), picture(index)[..., ::-1])
    writer = cv2.VideoWriter(str(home / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (80, 60))
    for index in range(12):
        writer.write(np.ascontiguousarray(picture(index % 4)[..., ::-1]))
    writer.release()
    return home


def picture(index):
    size = (60, 80) if index < 4 else (40, 48)
    return shapes.build("test", size=size, test=6).read(index)[0]


def predicted(home, out, *arguments, model="run", code=0):
    found, text = run("predict", home / model, *arguments, "--out", out, "--json", out / "result.json")
    assert found == code, text
    file = out / "result.json"
    return (json.loads(file.read_text()) if file.is_file() else {}), " ".join(text.split())


def pixels(path):
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.fixture(scope="module")
def made(home):
    """Everything that is made of images, in two runs."""
    out = home / "made"
    first, _ = predicted(
        home, out, home / "in", "--overlay", "--colour", "--entropy", "--probabilities", "npz",
        "--polygons", "geojson", "--batch", 3,
    )  # fmt: skip
    predicted(home, home / "coco", home / "in", "--polygons", "coco", "--probabilities", "png")
    return out, first


def test_masks_are_the_argmax_and_of_the_input_s_size(home, made):
    out, result = made
    assert result["masks"] == [str(out / f"{name}.png") for name in NAMES]
    predictor = open_trained(home / "run", "cpu").predictor()
    for index, name in enumerate(NAMES):
        mask = pixels(out / f"{name}.png")
        assert (mask == predictor.scores(picture(index)).argmax(axis=0)).all()
        assert (mask == pixels(home / "coco" / f"{name}.png")).all()  # with and without a batch
        assert (pixels(out / "colours" / f"{name}.png") == palette()[mask]).all()
        over = pixels(out / "overlays" / f"{name}.png").astype(int)
        assert np.abs(2 * over - picture(index) - palette()[mask].astype(int)).max() <= 2


def test_probabilities_and_entropy(home, made):
    out, result = made
    predictor = open_trained(home / "run", "cpu").predictor()
    for index, name in enumerate(NAMES):
        scores = predictor.scores(picture(index)).astype(np.float64)
        exact = np.exp(scores) / np.exp(scores).sum(axis=0)
        with np.load(out / "probabilities" / f"{name}.npz", allow_pickle=False) as file:
            assert file["classes"].tolist() == shapes.CLASSES
            assert file["probabilities"].dtype == np.float16
            assert np.abs(file["probabilities"] - exact).max() < 1e-3
        for class_id, class_name in enumerate(shapes.CLASSES):
            grey = pixels(home / "coco/probabilities" / name / f"{class_id}-{class_name}.png")
            assert np.abs(grey / 255 - exact[class_id]).max() < 0.5 / 255 + 1e-5
        wanted = -(exact * np.log(exact)).sum(axis=0) / np.log(4)
        assert np.abs(pixels(out / "entropy" / f"{name}.png") / 255 - wanted).max() < 0.5 / 255 + 1e-4
        assert result["inputs"][index]["entropy"] == pytest.approx(wanted.mean(), abs=1e-4)


def test_geojson_and_coco_rasterise_back_to_the_mask(home, made):
    """Exactly: by pycocotools, and by OpenCV's fill at the pixels' centres."""
    out, _ = made
    coco = COCO(str(home / "coco/polygons.json"))
    names = [coco.imgs[i]["file_name"] for i in sorted(coco.imgs)]
    assert names == [f"{name}.png" for name in NAMES]
    for image_id, name in zip(sorted(coco.imgs), NAMES):
        mask = pixels(out / f"{name}.png")
        again = np.full(mask.shape, 255)
        for annotation in coco.loadAnns(coco.getAnnIds([image_id])):
            inside = coco.annToMask(annotation).astype(bool)
            assert inside.sum() == annotation["area"] and (again[inside] == 255).all()
            again[inside] = annotation["category_id"]
        assert (again == mask).all()
        features = json.loads((out / "polygons" / f"{name}.geojson").read_text())["features"]
        assert len(features) == len(coco.getAnnIds([image_id]))
        again = np.full(mask.shape, 255)
        for feature in features:
            inside = filled(feature["geometry"]["coordinates"], mask.shape)
            assert inside.sum() == feature["properties"]["area"]
            assert shapes.CLASSES[feature["properties"]["id"]] == feature["properties"]["class"]
            again[inside] = feature["properties"]["id"]
        assert (again == mask).all()


def filled(rings, size):
    """The pixels whose centres lie in a polygon with holes, by matplotlib's rule of crossings."""
    from matplotlib.path import Path

    y, x = np.mgrid[: size[0], : size[1]]
    centres = np.column_stack([x.ravel(), y.ravel()]) + 0.5
    inside = [Path(ring).contains_points(centres).reshape(size) for ring in rings]
    return inside[0] & ~np.any([np.zeros(size, bool), *inside[1:]], axis=0)


@pytest.mark.parametrize(
    "options",
    [
        ["--window", "48", "--overlap", "0.3", "--blend", "uniform"],
        ["--scales", "0.5,1", "--flip"],
    ],
)
def test_a_bundle_s_own_script_by_the_same_options(home, tmp_path, options):
    """Masks of images and of a video: byte for byte, and frame for frame."""
    inputs, options = [home / "in", home / "drive.mp4"], [*options, "--frames", "3"]
    result, _ = predicted(home, tmp_path / "a", *inputs, "--overlay", *options)
    assert result["inputs"][-1]["frames"] == 3 and result["inputs"][-1]["rate"] == 12.5
    command = [sys.executable, "-c", ALONE, home / "bundle/infer.py", *inputs, "--overlay", *options]
    subprocess.run([*map(str, command), "--out", str(tmp_path / "b")], check=True)
    for name in [*NAMES, *(f"overlays/{name}" for name in NAMES)]:
        mine, theirs = (tmp_path / out / f"{name}.png" for out in "ab")
        assert mine.read_bytes() == theirs.read_bytes()
    for name in ("drive.mp4", "overlays/drive.mp4"):
        mine, theirs = (list(video.Video(str(tmp_path / out / name))) for out in "ab")
        assert len(mine) == 3 and (np.array(mine) == np.array(theirs)).all()


def test_a_video_and_its_frames(home, tmp_path):
    result, _ = predicted(
        home, tmp_path, home / "drive.mp4", "--each-frame", "--entropy", "--frames", 5, "--batch", 2
    )
    assert result["inputs"][0]["frames"] == 5 and 0 < result["inputs"][0]["entropy"] < 1
    film = video.Video(str(tmp_path / "drive.mp4"))
    assert film.rate == 12.5 and film.size == (60, 80)
    given = list(video.Video(str(home / "drive.mp4")))
    predictor = open_trained(home / "run", "cpu").predictor()
    for index, frame in enumerate(film):
        mask = pixels(tmp_path / f"drive/{index:06d}.png")
        assert (mask == predictor.mask(given[index])).all()
        assert np.abs(frame.astype(int) - palette()[mask]).mean() < 32  # the codec loses colour
        assert (tmp_path / f"entropy/drive/{index:06d}.png").is_file()
    assert not (tmp_path / "drive/000005.png").exists()
    assert run("predict", home / "run", home / "drive.mp4", "--colour", "--out", tmp_path / "no")[0] == 2


@pytest.mark.parametrize(
    ("name", "size"), [("a.mp4", (48, 64)), ("a.avi", (48, 64)), ("b.mp4", (47, 63))]
)
def test_films_are_as_large_and_as_fast(tmp_path, name, size):
    class Like:
        rate = 29.97

    like = Like()
    like.size = size
    frames = [np.full((*size, 3), (40 * i, 255 - 40 * i, 99), np.uint8) for i in range(5)]
    with video.film(tmp_path / name, like) as add:
        for frame in frames:
            add(frame)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    found = video.Video(str(tmp_path / name))
    even = tuple(side + side % 2 for side in size)  # which the codecs want
    assert found.rate == pytest.approx(29.97) and found.count == 5 and found.size == even
    again = np.array(list(found))[:, : size[0], : size[1]]
    assert np.abs(again.astype(int) - frames).max() <= 8
    grey = video.Video(str(tmp_path / name), Kind(1))
    assert next(iter(grey)).shape == (*even, 1)
    with pytest.raises(InputError, match="8-bit pictures"):
        video.Video(str(tmp_path / name), Kind(3, 16))


def test_a_film_that_lost_frames_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_count", lambda path: 0)  # as on a full disk: OpenCV tells nothing
    like = video.Video.__new__(video.Video)
    like.rate, like.size = 25.0, (48, 64)
    with pytest.raises(OSError, match="disk full"), video.film(tmp_path / "a.mp4", like) as add:
        add(np.zeros((48, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_bad_inputs_are_named_and_the_others_done(home, tmp_path):
    given = tmp_path / "in"
    given.mkdir()
    whole = (home / "in/0.png").read_bytes()
    (given / "a.png").write_bytes(whole)
    (given / "b.png").write_bytes(whole[:-40])
    (given / "c.mp4").write_bytes((home / "drive.mp4").read_bytes()[:500])
    np.save(given / "d.npy", np.zeros((5, 5, 7), np.uint8))
    (given / "e.png").write_bytes(whole)
    result, text = predicted(home, tmp_path / "out", given, code=2)
    assert [p.stem for p in sorted((tmp_path / "out").glob("*.png"))] == ["a", "e"]
    assert [f["source"] for f in result["failed"]] == [
        str(given / n) for n in ("b.png", "d.npy", "c.mp4")
    ]
    assert "b.png: not an image" in text and "c.mp4: not a video" in text and "7 channels" in text
    assert "3 inputs can't be used" in text
    script = [sys.executable, str(home / "bundle/infer.py"), str(given), "--out", str(tmp_path / "mine")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "b.png: not an image" in done.stderr and "c.mp4" in done.stderr
    assert [p.stem for p in sorted((tmp_path / "mine").glob("*.png"))] == ["a", "e"]


def test_no_camera_is_one_clear_line(home, tmp_path):
    _, text = predicted(home, tmp_path, "camera:77", "--frames", 3, code=2)
    assert "camera:77: there is no such camera, or /dev/video77 can't be opened" in text
    _, text = predicted(home, tmp_path, "camera:front", code=2)
    assert "given by its number, like camera:0" in text


def test_a_camera_ends_by_the_number_of_frames(home, tmp_path, monkeypatch):
    opened = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda source: opened(str(home / "drive.mp4") if source == 0 else source)
    )
    result, _ = predicted(home, tmp_path, "camera:0", "--frames", 7)
    assert result["inputs"][0]["frames"] == 7
    assert len(list(video.Video(str(tmp_path / "camera-0.mp4")))) == 7


def test_going_on_leaves_out_what_is_there(home, tmp_path):
    out = tmp_path / "out"
    predicted(home, out, home / "in", "--resume")
    (out / "1.png").unlink()
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    result, text = predicted(home, out, home / "in", "--resume")
    assert result["skipped"] == 5 and "5 of them from before" in text
    assert len(result["masks"]) == len(result["inputs"]) == 6 and (out / "1.png").is_file()
    assert all(path.stat().st_mtime_ns == t for path, t in times.items())
    assert predicted(home, out, home / "in", "--resume", "--overlay")[0]["skipped"] == 0
    with (out / "predict.jsonl").open("a") as file:
        file.write('{"name": "torn')  # killed while writing
    result, _ = predicted(home, out, home / "in", "--resume", "--overlay")
    assert result["skipped"] == 6
    for options, model in ((["--flip"], "run"), ([], "bundle")):
        _, text = predicted(home, out, home / "in", "--resume", *options, model=model, code=2)
        assert "another model, or another way through it" in text
    image = tmp_path / "0.png"
    image.write_bytes((home / "in/0.png").read_bytes())
    assert predicted(home, out, image, "--resume")[0]["skipped"] == 0  # another file of that name
    assert predicted(home, out, image)[0]["skipped"] == 0


def test_ctrl_c_finishes_the_image_and_can_go_on(home, tmp_path):
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    for index in range(30):
        (given / f"{index:03d}.png").write_bytes((home / "in/0.png").read_bytes())
    arguments = ["predict", home / "run", given, "--out", out, "--polygons", "coco"]
    process = start(*arguments)
    while not (out / "004.png").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    assert process.returncode == 130 and "add --resume to go on" in text
    made = sorted(p.name for p in out.glob("*.png"))
    assert 5 <= len(made) < 30 and made == sorted(p.name for p in given.iterdir())[: len(made)]
    assert not list(out.glob(".*")) and not (out / "polygons.json").exists()
    code, text = run(*arguments, "--resume", "--json", out / "r.json")
    assert code == 0 and json.loads((out / "r.json").read_text())["skipped"] == len(made)
    assert len(COCO(str(out / "polygons.json")).imgs) == 30


def test_ctrl_c_in_a_video_tells_that_it_begins_anew(home, tmp_path):
    given, out = tmp_path / "long.mp4", tmp_path / "out"
    frames = list(video.Video(str(home / "drive.mp4")))
    with video.film(given, video.Video(str(home / "drive.mp4"))) as add:
        for index in range(600):
            add(frames[index % len(frames)])
    process = start("predict", home / "run", given, "--out", out, "--each-frame")
    while not (out / "long/000004.png").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    told = re.search(r"long.mp4 was at frame (\d+) of 600, and will begin anew", " ".join(text.split()))
    assert process.returncode == 130 and told and "add --resume to go on" in text
    assert int(told[1]) == len(list((out / "long").glob("*.png"))) < 600
    assert not list(out.glob("*.mp4")) and not list(out.glob(".*"))


def test_a_large_image_goes_in_windows_and_says_so(home, tmp_path):
    image = cv2.resize(picture(0), (2100, 2100), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / "large.png"), image[..., ::-1])
    result, text = predicted(home, tmp_path / "out", tmp_path / "large.png", "--entropy")
    assert "4 megapixels, so in windows of 1024 that overlap by 25%" in text
    asked, quiet = predicted(
        home,
        tmp_path / "asked",
        tmp_path / "large.png",
        "--window",
        1024,
        "--overlap",
        0.25,
        "--batch",
        2,
    )
    mask = pixels(tmp_path / "out/large.png")
    assert mask.shape == (2100, 2100) and (mask == pixels(tmp_path / "asked/large.png")).all()
    assert "megapixels" not in quiet and 0 < result["inputs"][0]["entropy"] < 1
    predicted(home, tmp_path / "whole", tmp_path / "large.png", "--window", 0)
    whole = pixels(tmp_path / "whole/large.png")
    assert (whole == mask).mean() > 0.9999
