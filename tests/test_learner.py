"""The gradient of a batch is the same on any number of devices, and so is a resumed run."""

import mxnet as mx
import numpy as np
import pytest

from segtrain.config import parse
from segtrain.data import shapes
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.learner import Learner

DATA = shapes.build("train", size=(32, 32), train=7)


def batch(count=7):
    samples = [DATA.read(i) for i in range(count)]
    masks = np.stack([s.mask for s in samples])
    masks[0, :10] = 255
    return Batch(np.stack([s.image.transpose(2, 0, 1) for s in samples]), masks, list(range(count)))


def learner(devices, first=0, **train):
    config = parse(
        {
            "model": {"name": "unet", "widths": [8, 16], "norm": train.pop("norm", "none")},
            "train": {"loss": {"ce": 1, "dice": 0.5, "focal": 0.5}, **train},
        }
    )
    return Learner(
        config, DATA, np.array([1.0, 2, 3, 4]), [mx.cpu(first + i) for i in range(devices)], 10
    )


def gradients(learning):
    return {
        name: [g.asnumpy() for g in p.list_grad()]
        for name, p in learning._parameters.items()
        if p.grad_req != "null"
    }


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("count", [7, 4, 2, 1])
def test_gradients_are_those_of_one_device(devices, count):
    one, many = learner(1), learner(devices)
    for learning in (one, many):
        learning.step(batch(count), 0)
    expected = gradients(one)
    for name, copies in gradients(many).items():
        for copy in copies:  # after the step each device holds the sum
            scale = np.abs(expected[name][0]).max()
            assert np.abs(copy - expected[name][0]).max() <= 1e-5 * scale, name
    assert many.losses()[0] == pytest.approx(one.losses()[0], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_replicas_stay_equal(optimizer):
    learning = learner(3, optimizer=optimizer, lr=0.01, norm="batch")
    for number, count in enumerate((7, 2, 5, 1)):
        learning.step(batch(count), number)
    for name, parameter in learning._parameters.items():
        if parameter.grad_req != "null":
            first, *others = [d.asnumpy() for d in parameter.list_data()]
            assert all((first == other).all() for other in others), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(("devices", "first"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)])
def test_restore_goes_on_to_the_same_bits(optimizer, devices, first):
    def trained(learning, numbers):
        for number in numbers:
            learning.step(batch(5), number)
        return learning

    options = {"optimizer": optimizer, "lr": 0.01, "norm": "batch", "first": first}
    whole = trained(learner(devices, **options), range(6))
    half = trained(learner(devices, **options), range(3))
    again = learner(devices, **options)
    again.restore(half.model_arrays(), half.optimizer_arrays(), half.counts())
    trained(again, range(3, 6))
    for kind in ("model_arrays", "optimizer_arrays"):
        wanted, got = getattr(whole, kind)(), getattr(again, kind)()
        assert set(wanted) == set(got)
        for name in wanted:
            assert (wanted[name] == got[name]).min().asscalar() == 1, name
    assert again.lr == whole.lr


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_restore_from_before_the_first_step(optimizer):
    fresh, again, whole = (learner(1, optimizer=optimizer) for _ in range(3))
    again.restore(fresh.model_arrays(), fresh.optimizer_arrays(), fresh.counts())
    for learning in (again, whole):
        learning.step(batch(), 0)
    for name, array in whole.model_arrays().items():
        assert (array == again.model_arrays()[name]).min().asscalar() == 1


def test_synchronised_norm_is_refused_where_it_would_hang():
    with pytest.raises(UserError, match="hang"):
        learner(2, norm="sync")
    learner(1, norm="sync").step(batch(), 0)


def test_each_device_keeps_its_own_running_statistics_from_the_first_step():
    """As if each had trained alone on its share: MXNet would lose or overwrite the first update."""
    both, alone = learner(2, norm="batch"), learner(1, norm="batch")
    whole = batch(4)
    both.step(whole, 0)
    alone.step(Batch(whole.images[2:], whole.masks[2:], [2, 3]), 0)
    for learning in (both, alone):
        learning.wait()
    name = "heads.1.0.e0.0.1.running_mean"
    second = both._parameters[name].list_data()[1].asnumpy()
    assert np.abs(second).max() > 0
    assert (second == alone._parameters[name].data().asnumpy()).all()


def test_adamw_decays_the_weights_apart_from_the_gradient():
    weight, grad = mx.nd.ones(3), mx.nd.zeros(3)
    optimizer = mx.optimizer.create("adamw", learning_rate=0.1, wd=0.5)
    optimizer.update(0, weight, grad, optimizer.create_state(0, weight))
    assert weight.asnumpy() == pytest.approx(1 - 0.1 * 0.5)
    optimizer = mx.optimizer.create("adamw", learning_rate=0.1, wd=0.5)
    plain = mx.optimizer.create("adam", learning_rate=0.1)
    weights, grad = [mx.nd.ones(3) * 2, mx.nd.ones(3) * 2], mx.nd.ones(3)
    for each, w in zip((optimizer, plain), weights):
        each.update(0, w, grad, each.create_state(0, w))
    assert (weights[1] - weights[0]).asnumpy() == pytest.approx(0.1 * 0.5 * 2, rel=1e-5)


def test_biases_and_norms_are_not_decayed():
    learning = learner(1, norm="batch")
    trained = {n: p for n, p in learning._parameters.items() if p.grad_req != "null"}
    decayed = {n.rsplit(".", 1)[-1] for n, p in trained.items() if p.wd_mult}
    assert decayed == {"weight"}
