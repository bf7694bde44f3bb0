"""The gradient of a batch is the same on any number of devices, and so is a resumed run."""

import mxnet as mx
import numpy as np
import pytest

from segtrain import models
from segtrain.config import parse
from segtrain.data import shapes
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.training.learner import Learner, NotANumber
from segtrain.training.optimizers import OPTIMIZERS
from segtrain.training.scaling import LossScaler, all_finite

DATA = shapes.build("train", size=(32, 32), train=7)


def batch(count=7):
    samples = [DATA.read(i) for i in range(count)]
    masks = np.stack([s.mask for s in samples])
    masks[0, :10] = 255
    return Batch(np.stack([s.image.transpose(2, 0, 1) for s in samples]), masks, list(range(count)))


def learner(devices, first=0, **train):
    return learner_on([mx.cpu(first + i) for i in range(devices)], **train)


def learner_on(contexts, **train):
    config = parse(
        {
            "model": {"name": "unet", "widths": [8, 16], "norm": train.pop("norm", "none")},
            "train": {"loss": {"ce": 1, "dice": 0.5, "focal": 0.5}, **train},
        }
    )
    return Learner(config, DATA, np.array([1.0, 2, 3, 4]), contexts, 10)


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
    assert many.losses()[0].losses == pytest.approx(one.losses()[0].losses, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replicas_stay_equal(optimizer):
    learning = learner(3, optimizer=optimizer, lr=0.01, norm="batch")
    for number, count in enumerate((7, 2, 5, 1)):
        learning.step(batch(count), number)
    for name, parameter in learning._parameters.items():
        if parameter.grad_req != "null":
            first, *others = [d.asnumpy() for d in parameter.list_data()]
            assert all((first == other).all() for other in others), name


@pytest.mark.parametrize(
    ("optimizer", "devices", "first"),
    [
        *[(name, 1, 0) for name in OPTIMIZERS],
        *[(name, *where) for name in ("sgd", "adamw") for where in ((2, 0), (3, 0), (1, 1), (2, 1))],
    ],
)
def test_restore_goes_on_to_the_same_bits(optimizer, devices, first, **more):
    def trained(learning, numbers):
        for number in numbers:
            learning.step(batch(5), number)
        return learning

    options = {"optimizer": optimizer, "lr": 0.01, "norm": "batch", "first": first, **more}
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


def test_restore_goes_on_to_the_same_bits_with_all_that_can_be_asked():
    more = {"ema": 0.9, "clip": 0.5, "accumulate": 2}
    test_restore_goes_on_to_the_same_bits("sgd", 2, 0, **more)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_restore_from_before_the_first_step(optimizer):
    fresh, again, whole = (learner(1, optimizer=optimizer) for _ in range(3))
    again.restore(fresh.model_arrays(), fresh.optimizer_arrays(), fresh.counts())
    for learning in (again, whole):
        learning.step(batch(), 0)
    for name, array in whole.model_arrays().items():
        assert (array == again.model_arrays()[name]).min().asscalar() == 1


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("count", [7, 3])
def test_synchronised_norm_is_that_of_the_whole_batch(devices, count):
    one, many = learner(1, norm="batch"), learner(devices, norm="sync")
    for learning in (one, many):
        learning.step(batch(count), 0)
        learning.wait()
    expected = gradients(one)
    for name, copies in gradients(many).items():
        for copy in copies:
            scale = max(np.abs(expected[name][0]).max(), 1e-3)
            assert np.abs(copy - expected[name][0]).max() <= 3e-5 * scale, name
    for name, array in one.model_arrays().items():
        assert many.model_arrays()[name].asnumpy() == pytest.approx(array.asnumpy(), abs=1e-5), name


def test_twenty_steps_end_alike_on_any_number_of_devices():
    ends = []
    for devices, norm in ((1, "none"), (2, "none"), (3, "none"), (1, "batch"), (2, "sync")):
        learning = learner(devices, norm=norm, lr=0.01)
        for number in range(20):
            learning.step(batch(1 + 3 * number % 7), number)
        ends.append({n: a.asnumpy() for n, a in learning.model_arrays().items()})
    for one, others in ((ends[0], ends[1:3]), (ends[3], ends[4:])):
        for other in others:
            for name, array in one.items():
                scale = max(np.abs(array).max(), 1e-3)
                assert np.abs(other[name] - array).max() <= 1e-4 * scale, name


@pytest.mark.parametrize(("devices", "passes"), [(1, 2), (1, 3), (2, 3), (1, 9)])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_batch_in_passes_is_the_whole_batch(devices, passes, steps):
    whole, parts = learner(1), learner(devices, accumulate=passes)
    for number in range(steps):
        for learning in (whole, parts):
            learning.step(batch(7), number)
    expected = gradients(whole)
    for name, copies in gradients(parts).items():
        scale = np.abs(expected[name][0]).max()
        assert all(np.abs(c - expected[name][0]).max() <= 1e-4 * scale for c in copies), name
    for got, wanted in zip(parts.losses(), whole.losses()):
        assert got.losses == pytest.approx(wanted.losses, rel=1e-4)


@pytest.mark.parametrize("devices", [1, 2])
def test_clipping_bounds_the_norm_of_the_whole_gradient(devices):
    free, clipped, loose = (learner(devices, clip=clip) for clip in (0, 0.01, 1e6))
    for learning in (free, clipped, loose):
        learning.step(batch(4), 0)

    def norm(learning, device):
        found = [copies[device] for copies in gradients(learning).values()]
        return np.sqrt(sum((g.astype(float) ** 2).sum() for g in found))

    for device in range(devices):
        assert norm(clipped, device) == pytest.approx(0.01, rel=1e-4)
        assert norm(loose, device) == pytest.approx(norm(free, device), rel=1e-6)
    assert clipped.losses()[0].norm == pytest.approx(norm(free, 0), rel=1e-4)
    assert free.losses()[0].norm is None


def test_averaged_weights_are_judged_and_the_trained_ones_come_back():
    learning = learner(1, norm="batch", ema=0.5, lr=0.1)
    expected = None
    for number in range(5):
        learning.step(batch(4), number)
        weights = {n: a.asnumpy() for n, a in learning.model_arrays().items()}
        if expected is None:
            first = learner(1, norm="batch").model_arrays()
            expected = {n: a.asnumpy() for n, a in first.items()}
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {n: decay * e + (1 - decay) * weights[n] for n, e in expected.items()}
    with learning.judged():
        averaged = {n: a.asnumpy() for n, a in learning.model_arrays().items()}
    for name, array in averaged.items():
        wanted = weights[name] if "running" in name else expected[name]
        assert array == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
    for name, array in learning.model_arrays().items():
        assert (array.asnumpy() == weights[name]).all(), name


def test_a_loss_that_is_no_number_names_its_step_and_batch():
    learning = learner(1, lr=1e30)
    for number in range(5):
        learning.step(batch(3), number)
    with pytest.raises(NotANumber) as caught:
        learning.losses()
    assert caught.value.step.indices == [0, 1, 2] and 0 < caught.value.step.number < 5
    assert not learning.finite() and learner(1).finite()
    assert "nan" in learning.statistics()[0]


def test_frozen_batch_norms_keep_what_they_began_with():
    learning = learner(1, norm="batch", freeze_batch_norm="all")
    norms = [n for n in learning._parameters if n.endswith(("gamma", "beta", "mean", "var"))]
    before = {n: a.asnumpy() for n, a in learning.model_arrays().items()}
    learning.step(batch(4), 0)
    after = {n: a.asnumpy() for n, a in learning.model_arrays().items()}
    assert norms and all((before[n] == after[n]).all() for n in norms)
    assert any((before[n] != after[n]).any() for n in after)
    with pytest.raises(UserError, match="no such batch norm"):
        learner(1, norm="group", freeze_batch_norm="all")
    with pytest.raises(UserError, match="no such batch norm"):
        learner(1, norm="batch", freeze_batch_norm="encoder")


def test_float16_is_refused_on_the_cpu():
    with pytest.raises(UserError, match="for GPUs"):
        learner(1, precision="float16")


def test_a_network_in_float16_computes_in_it_but_for_its_norms_and_pixels():
    net = models.network(parse({"model": {"widths": [8, 16]}}).model, 4)
    net.cast("float16")
    scores = net(mx.sym.var("data"))
    arguments, outputs, _ = scores.infer_type(data="uint8")
    kinds = dict(zip(scores.list_arguments(), arguments))
    assert outputs == [np.float16]
    for name, kind in kinds.items():
        single = name.endswith(("gamma", "beta", "mean", "scale"))
        assert name == "data" or kind == (np.float32 if single else np.float16), name


def test_the_loss_scale_falls_at_an_overflow_and_rises_after_patience():
    scaler = LossScaler(scale=8, patience=3)
    fine, over = mx.nd.ones(3, dtype="float16"), mx.nd.array([1, np.inf], dtype="float16")
    assert not scaler.passes([fine, over]) and scaler.scale == 4
    assert all(scaler.passes([fine]) for _ in range(2)) and scaler.scale == 4
    again = LossScaler(patience=3)
    again.restore(scaler.state())
    for each in (scaler, again):
        assert each.passes([fine]) and each.scale == 8


def test_any_number_of_arrays_is_looked_through():
    """MXNet's own operator overflows a table of its at more than 200."""
    for bad in (None, 0, 199, 200, 1234):
        arrays = [mx.nd.ones(3) for _ in range(1235)]
        if bad is not None:
            arrays[bad][1] = np.nan
        assert all_finite(arrays) == (bad is None)


@pytest.mark.gpu
@pytest.mark.parametrize("kvstore", ["device", "nccl"])
@pytest.mark.parametrize("count", [7, 1])
def test_gradients_of_gpus_are_those_of_a_cpu(gpus, kvstore, count):
    """On one card and on all; but for what tensor cores round."""
    if kvstore == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
        pytest.skip("an MXNet without NCCL")
    one = learner(1)
    one.step(batch(count), 0)
    expected, losses = gradients(one), one.losses()[0].losses
    for contexts in (gpus[:1], gpus):
        learning = learner_on(contexts, kvstore=kvstore)
        learning.step(batch(count), 0)
        for name, copies in gradients(learning).items():
            scale = np.abs(expected[name][0]).max()
            assert all(np.abs(copy - expected[name][0]).max() <= 0.02 * scale for copy in copies), name
            assert all((copy == copies[0]).all() for copy in copies)
        assert learning.losses()[0].losses == pytest.approx(losses, rel=0.01)


def losses_over_one_memory(contexts):
    """Of steps whose batches all lie in the same memory, one after the other, as the loader's do."""
    learning, whole = learner_on(contexts, norm="batch"), batch()
    images, masks = whole.images.copy(), whole.masks.copy()
    for number in range(8):
        images[:], masks[:] = np.roll(whole.images, number, 0), np.roll(whole.masks, number, 0)
        learning.step(Batch(images, masks, whole.indices), number)
    images[:] = masks[:] = 0
    return [step.loss for step in learning.losses()]


@pytest.mark.gpu
def test_batches_reach_gpus_before_their_memory_is_written_to_again(gpus):
    for contexts in (gpus[:1], gpus):
        cpus = [mx.cpu(i) for i in range(len(contexts))]
        found = losses_over_one_memory(contexts)
        assert found == pytest.approx(losses_over_one_memory(cpus), rel=0.02)


def test_batches_are_used_before_their_memory_is_written_to_again(monkeypatch):
    """Out of memory that is kept, as for GPUs, to the bits of memory that is not."""
    expected = losses_over_one_memory([mx.cpu(1), mx.cpu(2)])
    monkeypatch.setattr("segtrain.training.learner.host", lambda contexts: mx.cpu_pinned(0))
    assert losses_over_one_memory([mx.cpu(1), mx.cpu(2)]) == expected


@pytest.mark.gpu
def test_float16_trains_to_nearly_the_same_losses(gpus):
    half, single = (
        Learner(
            parse({"model": {"widths": [8, 16]}, "train": {"precision": precision}}),
            DATA,
            np.ones(4),
            gpus,
            10,
        )
        for precision in ("float16", "float32")
    )
    for learning in (half, single):
        for number in range(10):
            learning.step(batch(7), number)
    assert half.losses()[-1].loss == pytest.approx(single.losses()[-1].loss, rel=0.05)


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


def test_biases_and_norms_are_not_decayed():
    learning = learner(1, norm="batch")
    trained = {n: p for n, p in learning._parameters.items() if p.grad_req != "null"}
    decayed = {n.rsplit(".", 1)[-1] for n, p in trained.items() if p.wd_mult}
    assert decayed == {"weight"}
