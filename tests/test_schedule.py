import pytest

from segtrain.config import Train
from segtrain.schedule import scheduler


def lrs(**options):
    train = Train(**{"epochs": 10, "lr": 1.0, **options})
    schedule = scheduler(train, 20)
    return [schedule(step) for step in range(1, 201)]


def test_poly():
    values = lrs(schedule="poly", power=0.9)
    assert values[99] == pytest.approx(0.5**0.9) and values[-1] == 0


def test_cosine():
    values = lrs(schedule="cosine")
    assert values[99] == pytest.approx(0.5) and values[-1] == pytest.approx(0)


def test_step():
    values = lrs(schedule="step", milestones=[0.5, 0.75])
    assert (values[98], values[101], values[-1]) == pytest.approx((1, 0.1, 0.01))


@pytest.mark.parametrize("schedule", ["poly", "cosine", "step"])
def test_warm_up_is_linear_from_a_hundredth(schedule):
    values = lrs(schedule=schedule, warmup=2)
    assert values[19] == pytest.approx(0.01 + 0.99 * 20 / 40)
    assert max(values) == pytest.approx(1, rel=0.01) and values.index(max(values)) in (39, 40)


def test_warm_up_longer_than_the_run():
    assert len(lrs(warmup=100)) == 200
