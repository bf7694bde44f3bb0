"""With segments recomputed: the same gradients, draws and statistics, and less memory."""

import json
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import HybridBlock, nn

from segtrain import config, models
from segtrain.data import shapes
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.training.learner import Learner
from segtrain.training.recompute import Recomputed

NETWORKS = Path(__file__).parents[2] / "configs" / "networks"
DATA = shapes.build("train", size=(32, 32), train=5)


def passed(net, heads, images):
    """Scores, gradients and running statistics of one pass in training, from drawn gradients."""
    parameters = net.heads.collect_params()
    mx.random.seed(7)
    with autograd.record():
        scores = heads(images)
    rng = np.random.default_rng(1)
    from_loss = [mx.nd.array(rng.normal(size=s.shape), dtype=s.dtype) for s in scores]
    autograd.backward(scores, from_loss)
    if heads is not net.heads:
        heads.backward()
    gradients = {n: p.grad().asnumpy() for n, p in parameters.items() if p.grad_req != "null"}
    mx.nd.waitall()
    statistics = {n: p.data().asnumpy() for n, p in parameters.items() if "running" in n}
    return [s.asnumpy() for s in scores], gradients, statistics


def assert_the_same(model):
    """In float64, where another order of a sum shows in the last of 16 digits and no dropout's
    draw or batch norm's statistic could hide: and after two passes."""
    model = config.parse({"model": {**model, "classes": 5}}).model
    kept = []
    for recompute in (False, True):
        net = models.network(model, 5)
        models.initialize(net, model, [mx.cpu()], 0)
        net.cast("float64")
        side = max(net.stride, 4)
        shape = (2, model.in_channels, *[side if net.side else 2 * side] * model.dim)
        heads = Recomputed(net.heads, shape) if recompute else net.heads
        if recompute:
            assert len(heads.segments) > 2
        else:
            net.hybridize()
        rng = np.random.default_rng(0)
        images = mx.nd.array(rng.integers(0, 256, shape), dtype="uint8")
        kept.append([passed(net, heads, images) for _ in range(2)])
    for (scores, *named), (others, *named_others) in zip(*kept):
        for a, b in zip(scores, others):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9 * np.abs(a).max())
        for arrays, again in zip(named, named_others):
            most = max((np.abs(a).max() for a in arrays.values()), default=0)
            assert set(arrays) == set(again)
            for name, array in arrays.items():
                np.testing.assert_allclose(again[name], array, rtol=1e-9, atol=1e-9 * most, err_msg=name)


@pytest.mark.parametrize(
    "name",
    ["gridnet-camvid", "gridnet-niklaus", "multiresunet", "phasenet"],
)
def test_networks_of_the_shipped_configs(name):
    assert_the_same(config.load(NETWORKS / f"{name}.yaml").model.model_dump(exclude={"classes"}))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "attention_unet", "widths": [4, 6, 8]},
        {"name": "fcdensenet", "layers": [2, 2, 3, 2, 2], "growth": 4},
        {"name": "unetpp", "widths": [4, 6, 8], "deep_supervision": True},
        {"name": "unet", "widths": [4, 6, 8], "encoder": "resnet18_v1b"},
        {"name": "unet", "widths": [4, 8], "fold": 2, "norm": "group"},
        {"name": "gridunet", "widths": [4, 6, 8], "up": "bilinear"},
        {"name": "zoo", "network": "fcn_resnet50", "crop_size": 64},
    ],
    ids=lambda model: model["name"],
)
def test_dropouts_auxiliary_heads_encoders_and_networks_from_elsewhere(model):
    assert_the_same(model)


class Twice(HybridBlock):
    """A convolution that runs at the beginning and at the end."""

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2D(8, 3, padding=1), nn.HybridSequential()
        for _ in range(4):
            self.other.add(nn.Conv2D(8, 3, padding=1), nn.Activation("relu"))

    def hybrid_forward(self, F, x):
        return [self.conv(self.other(self.conv(x)))]


def test_a_parameter_that_is_used_twice_gets_its_whole_gradient():
    block = Twice()
    block.initialize(mx.init.Normal(0.3))
    x = mx.nd.random.normal(shape=(1, 8, 8, 8))
    with autograd.record():
        (expected,) = block(x)
    expected.backward()
    wanted = block.conv.weight.grad().asnumpy()
    heads = Recomputed(block, x.shape)
    with autograd.record():
        (scores,) = heads(x)
    scores.backward()
    heads.backward()
    np.testing.assert_allclose(block.conv.weight.grad().asnumpy(), wanted, rtol=1e-5)


def batch(count=5):
    samples = [DATA.read(i) for i in range(count)]
    images = np.stack([s.image.transpose(2, 0, 1) for s in samples])
    return Batch(images, np.stack([s.mask for s in samples]), list(range(count)))


def learner(contexts, recompute, norm="batch", **train):
    made = config.parse(
        {
            "model": {"name": "unet", "widths": [8, 16, 32], "norm": norm},
            "data": {"crop": [32, 32]},
            "train": {"lr": 0.01, "loss": {"ce": 1, "dice": 0.5}, "recompute": recompute, **train},
        }
    )
    return Learner(made, DATA, np.ones(4), contexts, 10)


def assert_equal_bits(one, other):
    for kind in ("model_arrays", "optimizer_arrays"):
        wanted, got = getattr(one, kind)(), getattr(other, kind)()
        assert set(wanted) == set(got)
        for name in wanted:
            assert (wanted[name].asnumpy() == got[name].asnumpy()).all(), name


@pytest.mark.parametrize("places", [[0], [1], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize(
    "train", [{}, {"accumulate": 2, "clip": 0.5, "ema": 0.9, "optimizer": "adam"}], ids=["plain", "all"]
)
def test_a_unet_trains_to_the_same_bits(places, train):
    contexts = [mx.cpu(place) for place in places]
    plain, recomputed = (learner(contexts, recompute, **train) for recompute in (False, True))
    for number, count in enumerate((5, 1, 4)):
        for learning in (plain, recomputed):
            learning.step(batch(count), number)
    assert recomputed.losses() == plain.losses()
    assert_equal_bits(plain, recomputed)


def test_restore_goes_on_to_the_same_bits():
    whole, half, again = (learner([mx.cpu(0), mx.cpu(1)], True) for _ in range(3))
    for number in range(4):
        whole.step(batch(), number)
    for number in range(2):
        half.step(batch(), number)
    again.restore(half.model_arrays(), half.optimizer_arrays(), half.counts())
    for number in range(2, 4):
        again.step(batch(), number)
    assert_equal_bits(whole, again)


def test_a_norm_over_devices_is_refused():
    learner([mx.cpu()], True, norm="sync")
    with pytest.raises(UserError, match="model.norm=batch or group"):
        learner([mx.cpu(0), mx.cpu(1)], True, norm="sync")


PEAK = """
import json, sys
from pathlib import Path
import mxnet as mx, numpy as np
from segtrain import config
from segtrain.data.loader import Batch
from segtrain.training.learner import Learner

class Truth:
    classes, ignore = list("abc"), 255

values = {"model": {"name": "unet", "widths": [24, 32]}, "train": {"recompute": json.loads(sys.argv[1])}}
learner = Learner(config.parse(values), Truth, np.ones(3), [mx.cpu()], 9)
status = lambda key: int(Path("/proc/self/status").read_text().partition(key)[2].split()[0])
before = status("VmRSS:")
batch = Batch(np.zeros((4, 3, 256, 256), np.uint8), np.zeros((4, 256, 256), np.uint8), [0, 1, 2, 3])
for number in range(2):
    learner.step(batch, number)
    mx.nd.waitall()
print(status("VmHWM:") - before)
"""


def test_a_step_needs_less_memory():
    def peak(recompute):
        command = [sys.executable, "-c", PEAK, json.dumps(recompute)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(True) < 0.75 * peak(False)
