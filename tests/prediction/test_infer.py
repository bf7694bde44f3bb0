"""The inference that segtrain and its bundles share, on networks small enough to reason about."""

import os

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mxnet.gluon import nn

from segtrain.data.dataset import palette
from segtrain.layers import Fit
from segtrain.prediction import infer, threads
from segtrain.prediction.infer import Policy, Predictor


def predictor(policy=Policy(), kernel=1, side=None):
    net = nn.Conv2D(4, kernel, padding=kernel // 2, in_channels=3)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())

    def forward(x):
        assert side is None or x.shape[2:] == (side, side)
        return net(x.astype("float32"))

    return Predictor(forward, mx.cpu(), policy, side)


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_images_are_padded_as_the_network_does_it_by_itself(height, width, stride):
    picture = image(height, width)[None]
    padded = infer.pad(picture, [-(-n // stride) * stride for n in (height, width)])
    fitted = Fit(stride)(mx.nd.array(picture.transpose(0, 3, 1, 2), dtype="uint8"))
    assert (padded == fitted.asnumpy().transpose(0, 2, 3, 1)).all()
    assert (padded[:, :height, :width] == picture).all()


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_highest_class_is_numpys_argmax(classes, height, width, seed):
    planes = np.random.default_rng(seed).integers(-2, 3, (classes, height, width)).astype(np.float32)
    for scores in (planes, planes[:, ::-1, 1:], planes[:, 0]):  # also views, and signals; many ties
        assert (infer.highest(scores) == scores.argmax(axis=0)).all()
    assert (infer.argmax(mx.nd.array(planes[None])) == planes.argmax(axis=0)).all()


def test_small_images_go_together():
    made = predictor()
    assert made.together((256, 256, 3)) == 4 and made.together((2000, 2000, 3)) == 1
    assert made.together((1000, 2)) == infer.MOST  # signals
    made.batch = 3
    assert made.together((2000, 2000, 3)) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (33, 17), (16, 16), (40, 50)])
def test_a_network_of_one_size_sees_windows_of_that_size(size):
    made = predictor(side=16)
    assert made.policy.window == 16
    plain = predictor().probabilities(image(*size))
    assert np.abs(made.probabilities(image(*size)) - plain).max() < 1e-6
    assert made.mask(image(*size)).shape == size


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (33, 17), (64, 64)])
@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(flip=True), Policy(window=16), Policy((0.5, 1.0, 2.0), True, 24, 0.25)],
)
def test_any_size_in_the_same_size_out(size, policy):
    mask = predictor(policy=policy).mask(image(*size))
    assert mask.shape == size and mask.dtype == np.uint8
    p = predictor(policy=policy).probabilities(image(*size))
    assert p.sum(axis=0) == pytest.approx(1, abs=1e-5)


def test_a_pointwise_network_gives_the_same_by_windows_and_flips():
    plain = predictor().probabilities(image(50, 70))
    for policy in (Policy(window=16, overlap=0.5), Policy(flip=True), Policy(window=31, flip=True)):
        assert np.abs(predictor(policy=policy).probabilities(image(50, 70)) - plain).max() < 1e-6


def test_windows_agree_inside_beyond_the_receptive_field():
    """A 3x3 network: a window differs from the whole at its own border pixels alone."""
    whole = predictor(kernel=3).probabilities(image(40, 40))
    tiled = predictor(Policy(window=40, overlap=0), kernel=3).probabilities(image(40, 40))
    assert np.abs(whole - tiled).max() < 1e-6
    tiled = predictor(Policy(window=20, overlap=0), kernel=3).probabilities(image(40, 40))
    seams = np.isin(np.arange(40), (19, 20))
    inside = ~(seams[:, None] | seams[None])
    assert np.abs(whole - tiled)[:, inside].max() < 1e-6
    assert np.abs(whole - tiled)[:, ~inside].max() > 1e-3


class Asked:
    """A network that notes what the environment says of cuDNN's search, till its scores are read."""

    context = mx.cpu()

    def __init__(self):
        self.said = {}  # by the sides of what it was given

    def __call__(self, x):
        self._shape = len(x), 2, *x.shape[2:]
        self._now = os.environ.get(infer.SEARCH, "search")
        assert self.said.setdefault(x.shape[2:], self._now) == self._now
        return self

    def asnumpy(self):
        assert os.environ.get(infer.SEARCH, "search") == self._now
        return np.zeros(self._shape, np.float32)


@pytest.mark.parametrize(
    ("policy", "sizes", "said"),
    [
        (Policy(), [(30, 30), (31, 32), (30, 41), (32, 32)], {(32, 32): "search", (32, 44): "0"}),
        (Policy(flip=True), [(30, 41), (8, 8)], {(32, 44): "search", (8, 8): "0"}),
        (
            Policy((0.5, 1.0)),
            [(32, 32), (40, 32)],
            {(32, 32): "search", (16, 16): "search", (40, 32): "0", (20, 16): "0"},
        ),
        (
            Policy(window=16),
            [(32, 40), (16, 9), (9, 40)],
            {(16, 16): "search", (16, 12): "0", (12, 16): "0"},
        ),
        (Policy(window=16), [(8, 8), (16, 40)], {(8, 8): "search", (16, 16): "search"}),
        (Policy((0.5, 1.0), window=16), [(20, 16), (16, 40)], {(16, 16): "search", (8, 8): "search"}),
    ],
)
@pytest.mark.parametrize("of_the_user", [None, "0", "2"])
def test_cudnn_searches_for_sizes_that_come_again(monkeypatch, policy, sizes, said, of_the_user):
    """Windows', and the first image's; each new one would take seconds. The user's word counts."""
    monkeypatch.delenv(infer.SEARCH, raising=False)
    if of_the_user:
        monkeypatch.setenv(infer.SEARCH, of_the_user)
    looks = [Predictor.mask, Predictor.probabilities, lambda p, x: p.each([x, x])]
    looks += [Predictor.scores] if policy == Policy() else []
    for look in looks:
        network = Asked()
        made = Predictor(network, mx.cpu(), policy, stride=4)
        made.searches = True
        for size in sizes:
            look(made, image(*size))
        assert network.said == {sides: of_the_user or word for sides, word in said.items()}
        assert os.environ.get(infer.SEARCH) == of_the_user


def test_a_network_of_one_size_is_always_searched_for(monkeypatch):
    monkeypatch.delenv(infer.SEARCH, raising=False)
    network = Asked()
    made = Predictor(network, mx.cpu(), side=16)
    made.searches = True
    for size in ((5, 7), (16, 16), (40, 9)):
        made.mask(image(*size))
    assert network.said == {(16, 16): "search"}


def test_mask_is_the_argmax_of_the_scores():
    made = predictor()
    assert (made.mask(image(30, 41)) == made.scores(image(30, 41)).argmax(axis=0)).all()


def test_the_palette_is_pascal_vocs():
    assert palette()[[0, 1, 2, 3, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]


def test_a_bundle_uses_no_more_threads_than_a_container_may(monkeypatch, tmp_path):
    """As many as segtrain: equal threads, equal bits."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "quota", lambda: 2.5)
    with pytest.raises(SystemExit):  # no bundle lies beside the package's infer.py
        infer.main(["none.png", "--out", str(tmp_path)])
    assert os.environ["OMP_NUM_THREADS"] == str(threads.threads()) == "2"


def test_inputs_are_files_folders_and_globs(tmp_path):
    for name in ("a.png", "b.JPG", "sub/c.bmp", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(infer.find([str(tmp_path / "in")])) == ["a", "b", "sub/c"]
    assert list(infer.find([str(tmp_path / "in" / "*")])) == ["a", "b"]
    assert list(infer.find([str(tmp_path / "in/a.png")] * 2)) == ["a"]
    for wrong in ("none", "in/*.gif"):
        with pytest.raises(infer.InputError, match="no image there"):
            infer.find([str(tmp_path / wrong)])
    (tmp_path / "a.jpg").touch()
    with pytest.raises(infer.InputError, match="both be written"):
        infer.find([str(tmp_path / "in/a.png"), str(tmp_path / "a.jpg")])
