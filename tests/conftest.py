"""A small dataset on disk, and the command line as a user has it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from typer.testing import CliRunner

# Small networks gain nothing from a second thread, and lose much by it on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from segtrain.data import shapes

hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")

CLASSES = shapes.CLASSES
DATA = Path(os.environ.get("SEGTRAIN_DATA", Path(__file__).parents[2] / "shared" / "data"))


def real(name: str) -> Path:
    """A folder of real data, or a skip that says why."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set SEGTRAIN_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """What commands keep between them lies in a folder of this session's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def gpus() -> list:
    """The GPUs that this MXNet can run on, or a skip."""
    from segtrain.machines import cuda, devices, driver

    cards = driver.cards() if devices.built_for_gpus() else []
    numbers = [card.number for card in cards if not cuda.unusable(card)]
    if not numbers:
        pytest.skip("no GPU that this MXNet can use")
    import mxnet as mx

    return [mx.gpu(number) for number in numbers]


def write_pair(home: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind, pixels in (("images", image[..., ::-1]), ("masks", mask)):
        path = home / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training and three validation pairs of 64x48 pixels, as `data.folder` wants them."""
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 3)):
        source = shapes.build(split, size=(48, 64))
        for index in range(count):
            write_pair(root / split, f"{index:02d}", *source.read(index))
    return root


@pytest.fixture
def config_file(tmp_path: Path, folder: Path) -> Path:
    """A config that trains a tiny U-Net on `folder` for two epochs."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
model: {{name: unet, widths: [8, 16], units: 1}}
data: {{name: folder, root: {folder}, classes: {CLASSES}, crop: [32, 32], workers: 0}}
train: {{epochs: 2, batch: 4, lr: 0.01}}
"""
    )
    return path


def run(*arguments: object, cwd: "Path | None" = None) -> "tuple[int, str]":
    """The command line in this process: exit code, and all that it printed."""
    from segtrain.cli import app

    before = os.getcwd()
    os.chdir(cwd or before)
    try:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def start(*arguments: object, **options: object) -> "subprocess.Popen[str]":
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "segtrain", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def read_events(run):
    """TensorBoard's own reading: the steps and values of each tag, none thinned out or forgotten."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"size_guidance": {"scalars": 0, "images": 0}, "purge_orphaned_data": False}
    accumulator = EventAccumulator(str(run / "events"), **everything)
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {t: [(e.step, e.value) for e in accumulator.Scalars(t)] for t in tags["scalars"]}
    return scalars, {t: accumulator.Images(t) for t in tags["images"]}


# Runs a file of a bundle where nothing but mxnet, numpy and opencv can be imported.
ALONE = """
import importlib.abc, runpy, sys
class OnlyThree(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "segtrain gluoncv pydantic PIL tqdm typer rich yaml".split():
            raise ImportError(f"{name} is not among mxnet, numpy and opencv")
sys.meta_path.insert(0, OnlyThree())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
