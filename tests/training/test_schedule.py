"""Learning rates against closed forms, and asked for in any order."""

from math import cos, pi

import pytest

from segtrain.config import Train
from segtrain.training.schedule import scheduler

EVERY = {
    "poly": {},
    "cosine": {"final_lr": 0.1},
    "step": {"milestones": [0.5, 0.75]},
    "constant": {},
    "exponential": {"final_lr": 0.01},
    "onecycle": {},
    "plateau": {},
}


def lrs(**options):
    """The learning rates of the 200 updates of ten epochs of twenty steps."""
    schedule = scheduler(Train(**{"epochs": 10, "lr": 1.0, **options}), 20)
    return [schedule(step) for step in range(1, 201)]


def expect(shape, after=0, **options):
    values = lrs(**options)
    wanted = [shape((n - after) / (200 - after)) for n in range(1, 201)]
    assert values[after:] == pytest.approx(wanted[after:], abs=1e-12)


@pytest.mark.parametrize("after", [0, 40])
@pytest.mark.parametrize("low", [0, 0.1])
def test_poly_and_cosine(after, low):
    options = {"after": after, "warmup": after / 20, "final_lr": low}
    expect(lambda t: low + (1 - low) * (1 - t) ** 0.9, schedule="poly", power=0.9, **options)
    expect(lambda t: low + (1 - low) * (1 + cos(pi * t)) / 2, schedule="cosine", **options)


@pytest.mark.parametrize("after", [0, 40])
def test_exponential_and_constant(after):
    options = {"after": after, "warmup": after / 20}
    expect(lambda t: 0.01**t, schedule="exponential", final_lr=0.01, **options)
    expect(lambda t: 1, schedule="constant", **options)


@pytest.mark.parametrize("after", [0, 40])
def test_step(after):
    """Milestones are shares of the whole run, the warm-up included."""
    values = lrs(schedule="step", milestones=[0.5, 0.75], warmup=after / 20)
    wanted = [1] * (100 - after) + [0.1] * 50 + [0.01] * 50
    assert values[after:] == pytest.approx(wanted, rel=1e-12)


def test_onecycle():
    def shape(rise, low):
        def half(start, end, t):
            return start + (end - start) * (1 - cos(pi * t)) / 2

        return lambda t: half(0.04, 1, t / rise) if t < rise else half(1, low, (t - rise) / (1 - rise))

    expect(shape(0.3, 0), schedule="onecycle")
    expect(shape(0.1, 0.01), schedule="onecycle", warmup=1, final_lr=0.01)


@pytest.mark.parametrize("schedule", [name for name in EVERY if name != "onecycle"])
def test_warm_up_is_linear_from_a_hundredth(schedule):
    values = lrs(schedule=schedule, warmup=2, **EVERY[schedule])
    assert values[:39] == pytest.approx([0.01 + 0.99 * n / 40 for n in range(1, 40)])
    assert max(values) == pytest.approx(1, rel=0.01) and values.index(max(values)) in (39, 40)


@pytest.mark.parametrize("schedule", EVERY)
def test_a_schedule_begun_anew_or_asked_for_earlier_steps_gives_the_same(schedule):
    """As after a resume, and after a return to a checkpoint."""
    train = Train(epochs=10, lr=0.3, warmup=1, schedule=schedule, **EVERY[schedule])
    whole, again = scheduler(train, 20), scheduler(train, 20)
    values = [whole(step) for step in range(1, 201)]
    assert [again(step) for step in range(97, 201)] == values[96:]
    assert [whole(step) for step in range(1, 201)] == values


@pytest.mark.parametrize("schedule", EVERY)
def test_warm_up_longer_than_the_run(schedule):
    assert len(lrs(warmup=100, schedule=schedule, **EVERY[schedule])) == 200
