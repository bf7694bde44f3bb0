"""Pipelines of Albumentations from the files that it writes itself."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import run

from segtrain.config import Data
from segtrain.data import shapes
from segtrain.data.augment import augment, parse
from segtrain.data.crop import Window
from segtrain.data.dataset import Sample
from segtrain.data.loader import open_loader
from segtrain.errors import UserError

A = pytest.importorskip("albumentations", reason="pip install 'segtrain[albumentations]'")
SAMPLE = shapes.build("train", size=(96, 128)).read(0)


@pytest.fixture
def saved(tmp_path):
    def save(*transforms, name="pipeline.json"):
        form = "json" if name.endswith("json") else "yaml"
        A.save(A.Compose(transforms), str(tmp_path / name), data_format=form)
        return f"albumentations({tmp_path / name})"

    return save


def made(text, sample=SAMPLE, seed=0, crop=None):
    window = Window(crop or sample.mask.shape, 255)
    return augment(sample, window, parse([text]), np.random.default_rng(seed), lambda: sample)


@pytest.mark.parametrize("name", ["pipeline.json", "pipeline.yaml"])
def test_it_makes_what_albumentations_itself_makes(saved, name):
    image, mask = made(saved(A.Transpose(p=1), A.Posterize(num_bits=3, p=1), name=name), crop=(128, 96))
    wanted = A.Compose([A.Transpose(p=1), A.Posterize(num_bits=3, p=1)])(
        image=SAMPLE.image, mask=SAMPLE.mask
    )
    assert (image == wanted["image"]).all() and (mask == wanted["mask"]).all()


def test_masks_keep_their_ids_and_are_ignored_beyond_the_border(saved):
    text = saved(
        A.ShiftScaleRotate(border_mode=0, p=1), A.ElasticTransform(p=1, alpha_affine=5), A.GaussNoise()
    )
    ignored = 0
    for seed in range(10):
        image, mask = made(text, seed=seed)
        assert set(np.unique(mask)) <= {*np.unique(SAMPLE.mask), 255}
        ignored += (mask == 255).any()
        assert (image[mask == 255] == 0).mean() > 0.3
    assert ignored > 5


def test_image_and_mask_move_together(saved):
    ids = np.kron(SAMPLE.mask[::8, ::8] > 0, np.ones((8, 8))).astype(np.uint8)
    twin = Sample(np.repeat(ids[..., None] * 200, 3, axis=2), ids)
    for seed in range(5):
        image, mask = made(saved(A.Affine(rotate=(-30, 30), p=1), A.HorizontalFlip()), twin, seed)
        assert ((image[..., 0] > 100) == (mask == 1))[mask != 255].mean() > 0.97


def test_any_size_that_it_makes_is_cropped(saved):
    for size in ((32, 200), (300, 40)):
        image, mask = made(saved(A.Resize(*size)), crop=(64, 64))
        assert image.shape == (64, 64, 3) and (mask == 255).mean() == pytest.approx(
            1 - min(1, size[0] / 64) * min(1, size[1] / 64), abs=0.02
        )


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_floats_keep_their_range_and_channels(saved, channels):
    rng = np.random.default_rng(0)
    deep = rng.uniform(-3000, 40000, (96, 128, channels)).astype(np.float32)
    sample = Sample(deep, SAMPLE.mask)
    flipped = made(saved(A.VerticalFlip(p=1)), sample).image
    assert flipped.dtype == np.float32 and np.allclose(flipped, deep[::-1], rtol=1e-4, atol=1)
    bright = made(saved(A.RandomBrightnessContrast((0.2, 0.2), 0, p=1)), sample).image
    assert np.allclose(bright, np.minimum(deep + 0.2 * np.ptp(deep), deep.max()), atol=200)


def test_it_is_a_function_of_the_seed_and_leaves_the_generators_alone(saved):
    text = saved(A.RandomSizedCrop((40, 90), 96, 128), A.OneOf([A.GaussNoise(), A.ISONoise()], p=1))
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    pictures = [made(text, seed=seed).image for seed in (0, 0, 1)]
    assert (pictures[0] == pictures[1]).all() and (pictures[0] != pictures[2]).any()
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def test_the_number_of_workers_changes_nothing(saved):
    text = saved(A.RandomSizedCrop((30, 40), 40, 48), A.CoarseDropout(), A.HueSaturationValue())
    data = Data(name="shapes", crop=(32, 32), augment=[text, "mosaic", "flip"])
    dataset = shapes.build("train", size=(40, 48), train=9)
    found = []
    for workers in (0, 2):
        with open_loader(dataset, data, 3, 4, 0, workers) as loader:
            found.append([b.images.copy() for epoch in range(2) for b in loader.epoch(epoch)])
    assert all((a == b).all() for a, b in zip(*found))


def test_read_only_samples_are_left_alone(saved):
    image, mask = SAMPLE.image.copy(), SAMPLE.mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    text = saved(A.CoarseDropout(p=1), A.RandomRain(p=1), A.PixelDropout(p=1))
    assert (made(text, Sample(image, mask)).image != SAMPLE.image).any()


# ---- what it refuses


def refused(text, sample=SAMPLE):
    with pytest.raises(UserError) as error:
        made(text, sample)
    return str(error.value)


def of(tmp_path, content, name="own.json"):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return f"albumentations({tmp_path / name})"


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "subprocess.Popen", "Lambda", "Flop"])
def test_only_albumentations_own_transforms_are_made(tmp_path, name):
    inner = {"__class_fullname__": name, "p": 1}
    whole = {"__class_fullname__": "Compose", "p": 1, "transforms": [inner]}
    assert f"no {name!r} to load" in refused(of(tmp_path, {"transform": whole}))
    assert f"no {name!r} to load" in refused(of(tmp_path, {"transform": inner}))


def test_a_class_that_others_register_is_refused(tmp_path):
    class Foreign(A.ImageOnlyTransform):
        def __init__(self):
            raise AssertionError("made")

    name = Foreign.get_class_fullname()
    assert f"no {name!r} to load" in refused(of(tmp_path, {"transform": {"__class_fullname__": name}}))


def test_yaml_makes_no_objects(tmp_path):
    text = "transform: !!python/object/apply:os.system ['touch %s']" % (tmp_path / "made")
    assert "not a pipeline" in refused(of(tmp_path, text, "own.yaml"))
    assert not (tmp_path / "made").exists()


def test_what_spoils_images_or_masks_is_refused(saved):
    assert "take out Normalize: the network normalises" in refused(saved(A.Normalize()))
    assert "mask_interpolation must be 0" in refused(saved(A.Affine(rotate=9, mask_interpolation=1)))
    assert "puts 77 into a mask" in refused(saved(A.PadIfNeeded(200, 200, border_mode=0, mask_value=77)))


def test_what_fails_within_albumentations_names_the_file(saved):
    said = refused(saved(A.RandomCrop(500, 500)))
    assert "pipeline.json: Albumentations: ValueError: Requested crop size (500, 500)" in said
    grey = Sample(SAMPLE.image[..., :1], SAMPLE.mask)
    assert "pipeline.json: Albumentations: " in refused(saved(A.ISONoise(p=1)), grey)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a pipeline as albumentations.save"),
        ("{", "not a pipeline"),
        ({"transform": {"p": 1}}, "no transform with a __class_fullname__"),
        ({"transform": {"__class_fullname__": "Blur", "no": 1}}, "unexpected keyword argument 'no'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, says):
    said = refused(of(tmp_path, content))
    assert says in said and "own.json" in said


def test_a_missing_file_or_library_is_told(tmp_path, saved, monkeypatch, config_file):
    assert "No such file" in refused("albumentations(nowhere.json)")
    text = saved(A.HorizontalFlip())
    code = (
        "import sys; sys.modules['albumentations'] = None\n"
        "from segtrain.data.augment import parse\n"
        f"parse([{text!r}])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UserError" in found.stderr and "pip install 'segtrain[albumentations]'" in found.stderr
    code, said = run("train", config_file, "data.augment=[albumentations(nowhere.json)]")
    assert code == 2 and "albumentations(nowhere.json): No such file" in said


def test_it_trains_and_is_drawn(saved, config_file, tmp_path):
    text = saved(A.RandomBrightnessContrast(), A.HorizontalFlip())
    code, said = run("train", config_file, f"data.augment=[{text}]", "--out", tmp_path / "run")
    assert code == 0, said
    code, said = run("show", config_file, f"data.augment=[{text}]", "--augment", tmp_path / "a.png")
    assert code == 0 and (tmp_path / "a.png").stat().st_size > 10_000, said


def test_a_run_resumes_with_the_pipeline_that_it_began_with(saved, config_file, tmp_path):
    text, out = saved(A.HorizontalFlip(p=0.5)), tmp_path / "run"
    arguments = ["train", config_file, f"data.augment=['{text}']", "--out", out]
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--resume")[0] == 0
    saved(A.HorizontalFlip(p=0.6))
    code, told = run(*arguments, "--resume")
    assert code == 2 and "pipeline.json holds something else than when" in told
