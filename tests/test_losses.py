"""Each loss against an independent implementation in NumPy, and its gradient against differences."""

import csv
import inspect

import mxnet as mx
import numpy as np
import pytest
from conftest import run as command
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import jaccard_score, log_loss

from segtrain import losses
from segtrain.config import parse
from segtrain.data import shapes
from segtrain.data.loader import Batch
from segtrain.errors import UserError
from segtrain.training.learner import Learner

CLASSES, IGNORE = 4, 200
CPU = mx.cpu()
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0])
CASES = [
    {"ce": 1},
    {"ce": {"smoothing": 0.1}},
    {"focal": 1},
    {"focal": {"gamma": 0.5}},
    {"border": 1},
    {"border": {"w0": 4, "sigma": 1.5, "background": None}},
    {"ohem": 1},
    {"ohem": {"thresh": 0.05, "min_kept": 0.4}},
    {"dice": 1},
    {"generalised_dice": 1},
    {"tversky": 1},
    {"tversky": {"alpha": 0.2, "beta": 0.9, "gamma": 0.75}},
    {"lovasz": 1},
]
all_losses = pytest.mark.parametrize("loss", CASES, ids=str)


def truth(seed=0, shape=(4, 6, 5)):
    """Four masks: one with an ignored band, one without class 3, one whole, one all ignored."""
    masks = np.random.default_rng(seed).integers(0, CLASSES, shape).astype(np.uint8)
    masks[0, :2] = IGNORE
    masks[1][masks[1] == 3] = 0
    masks[3] = IGNORE
    return masks


def logits(seed=1, shape=(4, CLASSES, 6, 5)):
    return np.random.default_rng(seed).normal(0, 2, shape)


# ---- the papers' formulas, one image after the other


def by_hand(loss, scores, masks, weights):
    ((name, options),) = loss.items()
    options = {} if options == 1 else options
    log_p = scores - scores.max(axis=1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    if name in OF_PIXELS:
        totals = np.zeros(2)
        for q, mask in zip(np.moveaxis(log_p, 1, -1), masks):
            valid = mask != IGNORE
            values, factors = OF_PIXELS[name](q[valid], mask, valid, weights, **options)
            totals += (values * factors).sum(), factors.sum()
        return totals[0] / totals[1]
    total = 0.0
    for q, mask in zip(np.moveaxis(log_p, 1, -1), masks):
        valid = mask != IGNORE
        if valid.any():
            total += OF_IMAGES[name](q[valid], mask[valid], weights, **options)
    return total / len(masks)


def ce_by_hand(log_p, mask, valid, weights, smoothing=0.0):
    y = mask[valid]
    target = np.eye(CLASSES)[y] * (1 - smoothing) + smoothing / CLASSES
    return -(target * log_p).sum(axis=1), weights[y]


def focal_by_hand(log_p, mask, valid, weights, gamma=2):
    y = mask[valid]
    picked = log_p[np.arange(len(y)), y]
    return -((1 - np.exp(picked)) ** gamma) * picked, weights[y]


def border_by_hand(log_p, mask, valid, weights, **options):
    values, of_class = ce_by_hand(log_p, mask, valid, weights)
    return values, of_class + borders_by_hand(mask, **options)[valid]


def borders_by_hand(mask, w0=10, sigma=5, background=0):
    distances = [np.full(mask.shape, np.inf)] * 2
    for label in set(range(CLASSES)) - {background}:
        parts, count = ndimage.label(mask == label)
        distances += [ndimage.distance_transform_edt(parts != part + 1) for part in range(count)]
    one, two = np.sort(distances, axis=0)[:2]
    return w0 * np.exp(-((one + two) ** 2) / (2 * sigma**2))


def ohem_by_hand(log_p, y, weights, thresh=0.7, min_kept=0.0625):
    picked = log_p[np.arange(len(y)), y]
    hardest_first = np.argsort(picked)
    count = max(round(min_kept * len(y)), int((np.exp(picked) <= thresh).sum()), 1)
    kept = hardest_first[:count]
    return np.average(-picked[kept], weights=weights[y[kept]])


def overlaps(log_p, y):
    """Of each class in the truth: true positives, false positives, false negatives."""
    p = np.exp(log_p)
    for c in np.unique(y):
        yield p[y == c, c].sum(), p[y != c, c].sum(), (1 - p[y == c, c]).sum()


def dice_by_hand(log_p, y, weights):
    return np.mean([1 - 2 * tp / (2 * tp + fp + fn) for tp, fp, fn in overlaps(log_p, y)])


def tversky_by_hand(log_p, y, weights, alpha=0.3, beta=0.7, gamma=1):
    index = [tp / (tp + alpha * fp + beta * fn) for tp, fp, fn in overlaps(log_p, y)]
    return np.mean([(1 - i) ** gamma for i in index])


def generalised_dice_by_hand(log_p, y, weights):
    r, p = np.eye(CLASSES)[y], np.exp(log_p)
    there = np.unique(y)
    w = 1 / r.sum(axis=0)[there] ** 2
    above = (w * (r * p).sum(axis=0)[there]).sum()
    return 1 - 2 * above / (w * (r + p).sum(axis=0)[there]).sum()


def lovasz_by_hand(log_p, y, weights):
    """The Lovasz extension (definition 1) of Delta(M) = |M| / |M or y = c|, set by set."""
    of_classes = []
    for c in np.unique(y):
        p = np.exp(log_p[:, c])
        errors = np.where(y == c, 1 - p, p)
        wrong, before, value = np.zeros(len(y), bool), 0.0, 0.0
        for i in np.argsort(-errors):
            wrong[i] = True
            delta = wrong.sum() / (wrong | (y == c)).sum()
            value += errors[i] * (delta - before)
            before = delta
        of_classes.append(value)
    return np.mean(of_classes)


OF_PIXELS = {"ce": ce_by_hand, "focal": focal_by_hand, "border": border_by_hand}
OF_IMAGES = {
    "ohem": ohem_by_hand,
    "dice": dice_by_hand,
    "generalised_dice": generalised_dice_by_hand,
    "tversky": tversky_by_hand,
    "lovasz": lovasz_by_hand,
}


# ---- ours


def block_of(loss, weights=WEIGHTS, contexts=(CPU,), ignore=IGNORE, dim=2, hybrid=True):
    block = losses.Loss(loss, weights, ignore, dim)
    block.initialize(ctx=list(contexts))
    if hybrid:
        block.hybridize(static_alloc=True, static_shape=True)
    return block


def run(block, scores, masks, places=(CPU,)):
    """The loss's terms and its gradient, its images shared out over the places."""
    inputs, factors = block.prepare(masks)
    shares = np.array_split(np.arange(len(masks)), len(places))
    shares = [(place, share) for place, share in zip(places, shares) if len(share)]
    xs = [mx.nd.array(scores[share], ctx=place) for place, share in shares]
    for x in xs:
        x.attach_grad()
    with mx.autograd.record():
        terms = [
            block(x, *(mx.nd.array(i[share], dtype=i.dtype, ctx=place) for i in inputs))
            * mx.nd.array(factors, ctx=place)
            for x, (place, share) in zip(xs, shares)
        ]
    mx.autograd.backward(terms)
    return sum(t.asnumpy() for t in terms), np.concatenate([x.grad.asnumpy() for x in xs])


def value(loss, scores, masks, weights=WEIGHTS):
    return float(run(block_of(loss, weights), scores, masks)[0])


def test_every_loss_is_here():
    functions = vars(losses.functions).values()
    there = {
        f.__name__
        for f in functions
        if inspect.isfunction(f) and "share" in inspect.signature(f).parameters
    }
    assert there == {name for loss in CASES for name in loss} == {*OF_PIXELS, *OF_IMAGES}


@all_losses
@pytest.mark.parametrize("weights", [np.ones(CLASSES), WEIGHTS], ids=["alike", "weighted"])
def test_value(loss, weights):
    expected = by_hand(loss, logits(), truth(), weights)
    assert value(loss, logits(), truth(), weights) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_scikit_learns():
    masks, scores = truth(), logits()
    valid = masks != IGNORE
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = log_loss(
        masks[valid],
        np.moveaxis(p, 1, -1)[valid],
        labels=range(CLASSES),
        sample_weight=WEIGHTS[masks[valid]],
        normalize=True,
    )
    assert value({"ce": 1}, scores, masks) == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_a_certain_prediction_is_the_jaccard_loss():
    """An extension equals what it extends at the corners: 1 - IoU, as scikit-learn counts it."""
    masks, guess = truth(), truth(seed=5)
    guess[guess == IGNORE] = 1
    scores = 1e3 * np.moveaxis(np.eye(CLASSES)[guess], -1, 1)
    expected = []
    for mask, ids in zip(masks[:3], guess):
        y, there = mask[mask != IGNORE], np.unique(mask[mask != IGNORE])
        expected.append(1 - jaccard_score(y, ids[mask != IGNORE], labels=there, average="macro"))
    assert value({"lovasz": 1}, scores, masks) == pytest.approx(sum(expected) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"focal": {"gamma": 0}}, {"ce": 1}),
        ({"border": {"w0": 0}}, {"ce": 1}),
        ({"tversky": {"alpha": 0.5, "beta": 0.5}}, {"dice": 1}),
        ({"ohem": {"min_kept": 1}}, {"ohem": {"thresh": 1}}),
        ({"ce": {"weight": 2, "smoothing": 0}}, {"ce": 2}),
    ],
    ids=str,
)
def test_where_two_losses_are_one(one, other):
    results = [run(block_of(loss), logits(), truth()) for loss in (one, other)]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert np.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-8)


@all_losses
def test_gradient(loss):
    scores, masks = logits(), truth()
    gradient = run(block_of(loss), scores, masks)[1]
    ignored = np.broadcast_to((masks == IGNORE)[:, None], gradient.shape)
    assert not gradient[ignored].any(), "ignored pixels have no gradient"
    assert gradient.any()
    places = np.argwhere(~ignored)[:: ignored.size // 40]
    assert len(places) > 20
    for place in map(tuple, places):
        step = np.zeros_like(scores)
        step[place] = 1e-5
        up, down = (by_hand(loss, scores + s * step, masks, WEIGHTS) for s in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=2e-3, abs=1e-6)


@all_losses
@pytest.mark.parametrize(("devices", "count"), [(2, 5), (3, 5), (3, 4), (3, 1)])
def test_shares_add_up_to_the_batch(loss, devices, count):
    scores, masks = logits(shape=(5, CLASSES, 6, 5)), truth(shape=(5, 6, 5))
    places = [mx.cpu(i) for i in range(devices)]
    block = block_of(loss, contexts=places)
    one, many = (run(block, scores[-count:], masks[-count:], p) for p in (places[:1], places))
    assert many[0] == pytest.approx(one[0], rel=1e-5, abs=1e-12)
    assert np.allclose(one[1], many[1], rtol=1e-5, atol=1e-10)


@all_losses
def test_scores_of_a_float16_network(loss):
    """What is worked out from them is in float32; the gradient goes back in their own type."""
    scores = logits().astype("float16")
    expected = run(block_of(loss), scores.astype("float32"), truth())
    block, x = block_of(loss), mx.nd.array(scores, dtype="float16")
    x.attach_grad()
    inputs, factors = block.prepare(truth())
    with mx.autograd.record():
        value = block(x, *(mx.nd.array(i, dtype=i.dtype) for i in inputs)) * mx.nd.array(factors)
    value.backward()
    assert value.dtype == np.float32
    assert x.grad.dtype == np.float16
    assert value.asnumpy() == pytest.approx(expected[0], rel=1e-5)
    assert np.allclose(x.grad.asnumpy(), expected[1], rtol=2e-3, atol=1e-6)


@pytest.mark.gpu
@all_losses
def test_a_gpu_gives_what_a_cpu_does(gpus, loss):
    places = [CPU, gpus[0]]
    block = block_of(loss, contexts=places)
    cpu, gpu = (run(block, logits(), truth(), [place]) for place in places)
    assert gpu[0] == pytest.approx(cpu[0], rel=1e-4)
    assert np.allclose(cpu[1], gpu[1], rtol=1e-3, atol=1e-7)


@all_losses
def test_a_graph_gives_what_eager_execution_does(loss):
    graph, eager = (run(block_of(loss, hybrid=h), logits(), truth()) for h in (True, False))
    assert graph[0] == pytest.approx(eager[0], rel=1e-6)
    assert np.allclose(graph[1], eager[1], rtol=1e-5, atol=1e-9)


@all_losses
def test_a_batch_of_ignored_pixels_only(loss):
    masks = np.full((2, 6, 5), IGNORE, np.uint8)
    got, gradient = run(block_of(loss), logits(shape=(2, CLASSES, 6, 5)), masks)
    assert got == 0
    assert not gradient.any()


@all_losses
@pytest.mark.parametrize("scale", [1e4, -1e4, 0, 1e-4])
def test_scores_of_any_scale(loss, scale):
    scores, masks = scale * logits(), truth()
    got, gradient = run(block_of(loss), scores, masks)
    assert np.isfinite(gradient).all()
    assert got == pytest.approx(by_hand(loss, scores, masks, WEIGHTS), rel=1e-4, abs=1e-4)


@all_losses
def test_a_class_without_weight_or_pixels(loss):
    scores, masks = logits(), truth()
    got, gradient = run(block_of(loss, np.zeros(CLASSES)), scores, masks)
    assert np.isfinite([*got, *gradient.ravel()]).all()
    got, gradient = run(block_of(loss), scores, np.zeros_like(masks))
    assert np.isfinite([*got, *gradient.ravel()]).all()


@all_losses
def test_the_ignored_id_may_be_one_of_the_classes(loss):
    scores, masks = logits(), truth()
    masks[masks == IGNORE] = 3
    other = np.where(masks == 3, IGNORE, masks).astype(np.uint8)
    results = [
        run(block_of(loss, ignore=ignore), scores, m) for ignore, m in ((3, masks), (IGNORE, other))
    ]
    assert results[0][0] == pytest.approx(results[1][0])
    assert np.allclose(results[0][1], results[1][1])


@all_losses
def test_signals_have_one_axis_less(loss):
    scores, masks = logits(shape=(4, CLASSES, 30)), truth(shape=(4, 30, 1))[..., 0]
    one = run(block_of(loss, dim=1), scores, masks)
    two = run(block_of(loss), scores[:, :, None], masks[:, None])
    assert one[0] == pytest.approx(two[0], rel=1e-6)
    assert np.allclose(one[1], two[1][:, :, 0], rtol=1e-5, atol=1e-9)


def test_several_losses_are_terms_of_their_own():
    together = {"ce": {"weight": 2, "smoothing": 0.1}, "lovasz": 0.5, "border": 3, "dice": 0}
    block = block_of(together)
    assert [term.name for term in block.terms] == ["ce", "lovasz", "border"]
    apart = [{"ce": {"smoothing": 0.1}}, {"lovasz": 1}, {"border": 1}]
    expected = [w * value(loss, logits(), truth()) for w, loss in zip((2, 0.5, 3), apart)]
    assert run(block, logits(), truth())[0] == pytest.approx(expected, rel=1e-5)


@all_losses
def test_descent_finds_the_truth(loss):
    scores, masks, block = logits(), truth(), block_of(loss)
    for _ in range(25):
        scores = scores - np.sign(run(block, scores, masks)[1])
    assert (scores.argmax(axis=1) == masks)[masks != IGNORE].mean() > 0.99


def test_present_classes_are_filled_up_to_few_widths():
    masks = np.array([[[0, 5, 5], [IGNORE, 2, 7]], [[IGNORE] * 3] * 2, [[4] * 3] * 2], np.uint8)
    present = losses.masks.present_classes(masks, IGNORE)
    assert present.tolist() == [[0, 2, 5, 7], [-1] * 4, [4, -1, -1, -1]]
    lines = [np.arange(count, dtype=np.uint8)[None] for count in range(1, 200)]
    widths = [losses.masks.present_classes(line, IGNORE).shape[1] for line in lines]
    assert all(count <= width <= 1.5 * count for count, width in enumerate(widths, 1))
    assert len(set(widths)) == 16


# ---- border weights


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([0.05, 0.3, 0.9]),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([0.5, 2, 5]),
)
def test_border_weights_are_those_of_all_distances(seed, shape, density, background, sigma):
    random = np.random.default_rng(seed)
    masks = random.integers(1, CLASSES, (2, *shape)) * (random.random((2, *shape)) < density)
    masks[0, :1] = IGNORE
    got = losses.border_weights(masks.astype(np.uint8), IGNORE, 10, sigma, background)
    expected = np.stack([borders_by_hand(m, 10, sigma, background) for m in masks])
    assert np.allclose(got, expected * (masks != IGNORE), rtol=1e-4, atol=1e-6)


def test_border_weights_are_the_same_bits_each_time():
    """Or else a run that was killed and resumed ends elsewhere."""
    random = np.random.default_rng(0)
    masks = (random.random((2, 48, 48)) < 0.03).astype(np.uint8)
    first = losses.border_weights(masks, IGNORE)
    assert all((losses.border_weights(masks, IGNORE) == first).all() for _ in range(20))


def test_border_weights_keep_touching_cells_apart():
    """As in figure 3d of the paper: the heaviest pixels are those of the narrow gap."""
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 5:35, 5:19] = mask[0, 5:35, 20:35] = 1
    weights = losses.border_weights(mask, 255)
    gap = weights[0, 5:35, 19]
    assert gap == pytest.approx(10 * np.exp(-(2**2) / 50))
    assert weights.max() == gap[0]
    assert weights[0, 20, :3].max() < 0.1


# ---- class weights


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


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"dise": 1}, "no 'dise'; did you mean dice"),
        ({"generalized_dice": 1}, "did you mean generalised_dice"),
        ({"ce": {"smothing": 0.1}}, "train.loss.ce.smothing: .* did you mean smoothing"),
        ({"dice": {"wieght": 0.1}}, "train.loss.dice.wieght: .* did you mean weight"),
        ({"ce": {"smoothing": 1}}, "train.loss.ce.smoothing=1: input should be less than 1"),
        ({"ohem": {"min_kept": 100000}}, "min_kept=100000: input should be less than or equal to 1"),
        ({"border": {"background": 4}}, "background=4: the last class is 3; write null"),
        ({"ce": -1}, "train.loss.ce.weight=-1"),
        ({"ce": float("nan")}, "train.loss.ce.weight=nan"),
        ({"ce": 0, "dice": {"weight": 0}}, "no loss has a weight"),
        ({}, "no loss has a weight"),
    ],
    ids=str,
)
def test_errors(loss, message):
    with pytest.raises(UserError, match=message):
        losses.Loss(loss, WEIGHTS, IGNORE)


def test_errors_of_class_weights():
    with pytest.raises(UserError, match="2 numbers for 3 classes"):
        losses.class_weights([1, 2], np.ones((1, 3)), ["a", "b", "c"])


# ---- in a training step


@all_losses
@pytest.mark.parametrize(
    ("devices", "count", "accumulate"), [(2, 7, 1), (3, 7, 1), (3, 2, 1), (1, 7, 3)]
)
def test_the_gradient_of_a_step_is_that_of_one_pass(loss, devices, count, accumulate):
    data = shapes.build("train", size=(32, 32), train=7)
    samples = [data.read(i) for i in range(count)]
    masks = np.stack([s.mask for s in samples])
    masks[0, :5] = 255
    batch = Batch(np.stack([s.image.transpose(2, 0, 1) for s in samples]), masks, list(range(count)))
    model = {"name": "unet", "widths": [4, 8], "norm": "none"}
    gradients = []
    for contexts, passes in (([CPU], 1), ([mx.cpu(i) for i in range(devices)], accumulate)):
        config = parse({"model": model, "train": {"loss": loss, "accumulate": passes}})
        learner = Learner(config, data, WEIGHTS, contexts, 10)
        learner.step(batch, 0)
        gradients.append([p.grad(contexts[-1]).asnumpy() for p in learner._trainable])
    for one, many in zip(*gradients):
        assert np.abs(one).max() > 0
        assert np.abs(many - one).max() <= 1e-5 * np.abs(one).max()


def test_the_command_line_trains_and_resumes_with_options(tmp_path):
    config = """
model: {name: unet, widths: [4, 8], units: 1}
data: {name: shapes, size: [32, 32], train: 6, val: 2, crop: [32, 32], workers: 1}
train:
  epochs: 2
  batch: 4
  loss: {ce: {weight: 1, smoothing: 0.1}, focal: 0.5, border: 0.5, ohem: {thresh: 0.5}, dice: 0.5,
         generalised_dice: 0.5, tversky: {gamma: 0.75}, lovasz: 1}
"""
    (tmp_path / "c.yaml").write_text(config)
    code, text = command("train", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert code == 0, text
    rows = list(csv.DictReader((tmp_path / "run/history.csv").open()))
    terms = [float(rows[-1][f"loss_{name}"]) for name in {**OF_PIXELS, **OF_IMAGES}]
    assert min(terms) > 0
    assert sum(terms) == pytest.approx(float(rows[-1]["loss"]))
    kept = tmp_path / "run/config.yaml"
    code, text = command("train", kept, "--out", tmp_path / "run", "--resume")
    assert code == 0, text
    nowhere = "data={name: folder, root: /no/where, classes: [a, b]}"  # the loss is looked at first
    loss = "train.loss={ce: {smothing: 1}}"
    code, text = command("train", tmp_path / "c.yaml", nowhere, loss, "--out", tmp_path / "two")
    assert code == 2
    assert "train.loss.ce.smothing: no such option; did you mean smoothing?" in text
