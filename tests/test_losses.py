"""Each loss against an independent implementation in NumPy, and its gradient against differences."""

import mxnet as mx
import numpy as np
import pytest
from sklearn.metrics import log_loss

from segtrain import losses
from segtrain.errors import UserError

CLASSES, IGNORE = 4, 200
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0])


def truth(seed=0, shape=(3, 6, 5)):
    masks = np.random.default_rng(seed).integers(0, CLASSES, shape).astype(np.uint8)
    masks[0, :2] = IGNORE
    masks[1][masks[1] == 3] = 0
    return masks


def logits(seed=1, shape=(3, CLASSES, 6, 5)):
    return np.random.default_rng(seed).normal(0, 2, shape)


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(name, scores, masks, weights):
    p, valid = softmax(scores), masks != IGNORE
    if name == "dice":
        per_image = []
        for q, mask, v in zip(p, masks, valid):
            present = [c for c in range(CLASSES) if ((mask == c) & v).any()]
            overlap = [2 * (q[c] * (mask == c) * v).sum() for c in present]
            size = [(q[c] * v).sum() + ((mask == c) & v).sum() for c in present]
            per_image.append(np.mean([1 - o / s for o, s in zip(overlap, size)]))
        return np.mean(per_image)
    ids = masks[valid]
    picked = np.moveaxis(p, 1, -1)[valid][np.arange(len(ids)), ids]
    factor = (1 - picked) ** 2 if name == "focal" else 1
    return (-np.log(picked) * factor * weights[ids]).sum() / weights[ids].sum()


def ours(name, scores, masks, weights, gradient=False):
    block = losses.Loss([name], weights, IGNORE)
    block.initialize()
    x, y = mx.nd.array(scores), mx.nd.array(masks, dtype="uint8")
    x.attach_grad()
    norm = losses.normalisers([name], masks, losses.pixel_weights(weights, IGNORE))[0]
    with mx.autograd.record():
        loss = block(x, y) / norm
    loss.backward()
    return x.grad.asnumpy() if gradient else float(loss.asscalar())


@pytest.mark.parametrize("name", ["ce", "dice", "focal"])
@pytest.mark.parametrize("weights", [np.ones(CLASSES), WEIGHTS])
def test_value(name, weights):
    got = ours(name, logits(), truth(), weights)
    assert got == pytest.approx(by_hand(name, logits(), truth(), weights), rel=1e-5)


def test_cross_entropy_is_scikit_learns():
    masks, scores = truth(), logits()
    valid = masks != IGNORE
    p = np.moveaxis(softmax(scores), 1, -1)[valid]
    expected = log_loss(
        masks[valid], p, labels=range(CLASSES), sample_weight=WEIGHTS[masks[valid]], normalize=True
    )
    assert ours("ce", scores, masks, WEIGHTS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["ce", "dice", "focal"])
def test_gradient(name):
    scores, masks = logits(), truth()
    gradient = ours(name, scores, masks, WEIGHTS, gradient=True)
    assert np.abs(gradient[0, :, :2]).max() == 0, "ignored pixels have no gradient"
    for place in [(0, 1, 4, 2), (1, 3, 2, 2), (2, 0, 5, 4)]:
        step = np.zeros_like(scores)
        step[place] = 1e-4
        up, down = (by_hand(name, scores + s * step, masks, WEIGHTS) for s in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("name", ["ce", "dice", "focal"])
def test_shares_add_up_to_the_batch(name):
    scores, masks = logits(), truth()
    table = losses.pixel_weights(WEIGHTS, IGNORE)
    norm = losses.normalisers([name], masks, table)[0]
    block = losses.Loss([name], WEIGHTS, IGNORE)
    block.initialize()
    parts = [
        float(block(mx.nd.array(scores[s]), mx.nd.array(masks[s], dtype="uint8")).asscalar())
        for s in (slice(0, 2), slice(2, 3))
    ]
    assert sum(parts) / norm == pytest.approx(ours(name, scores, masks, WEIGHTS), rel=1e-5)


@pytest.mark.parametrize("name", ["ce", "dice", "focal"])
def test_a_batch_of_ignored_pixels_only(name):
    masks = np.full((2, 6, 5), IGNORE, np.uint8)
    assert ours(name, logits(shape=(2, CLASSES, 6, 5)), masks, WEIGHTS) == 0
    assert not ours(name, logits(shape=(2, CLASSES, 6, 5)), masks, WEIGHTS, gradient=True).any()


def test_signals_have_one_axis_less():
    block = losses.Loss(["ce", "dice"], np.ones(CLASSES), IGNORE, dim=1)
    block.initialize()
    scores, masks = logits(shape=(2, CLASSES, 30)), truth(shape=(2, 30, 1))[..., 0]
    two = losses.Loss(["ce", "dice"], np.ones(CLASSES), IGNORE)
    two.initialize()
    y = mx.nd.array(masks, dtype="uint8")
    a = block(mx.nd.array(scores), y)
    b = two(mx.nd.array(scores).expand_dims(2), y.expand_dims(1))
    assert np.allclose(a.asnumpy(), b.asnumpy(), rtol=1e-6)


def test_median_frequency_weights_of_camvid_are_the_published():
    from conftest import real

    from segtrain.data import folder
    from segtrain.data.scan import scan

    names = [str(i) for i in range(11)]
    data = folder.build("train", root=real("camvid"), classes=names, ignore=11)
    weights = losses.class_weights("median", scan(data, "train").pixels, names)
    published = [0.2793, 0.2017, 4.7865, 0.1490, 1.0, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    assert weights == pytest.approx(published, rel=0.02)


def test_enet_weights_and_an_absent_class():
    pixels = np.array([[90, 10, 0], [100, 0, 0]])
    weights = losses.class_weights("enet", pixels, ["a", "b", "c"])
    assert weights == pytest.approx([1 / np.log(1.97), 1 / np.log(1.07), 0])
    assert losses.class_weights("median", pixels, ["a", "b", "c"])[2] == 0
    assert losses.class_weights([1, 2, 0], pixels, ["a", "b", "c"]).tolist() == [1, 2, 0]


def test_errors():
    with pytest.raises(UserError, match="did you mean dice"):
        losses.find("dise")
    with pytest.raises(UserError, match="2 numbers for 3 classes"):
        losses.class_weights([1, 2], np.ones((1, 3)), ["a", "b", "c"])
