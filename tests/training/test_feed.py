"""Batches reach the devices as they were, though what they came from is written to again."""

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.training.feed import Feed, host

PINNED = mx.cpu_pinned(0)  # in a CPU build it is plain memory, of a context of its own


@pytest.mark.parametrize("place", [mx.cpu(), PINNED])
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6),
    st.integers(1, 3),
    st.sampled_from(["uint8", "float32"]),
)
def test_each_device_has_its_samples(place, counts, devices, dtype):
    """Also when the loader fills its memory again before any device has looked."""
    feed, memory, given_out = Feed(place), np.empty((7, 2, 5), dtype), []
    for number, count in enumerate(counts):
        batch = memory[:count]
        batch[:] = np.arange(count * 10).reshape(count, 2, 5) + number
        contexts = [mx.cpu(i) for i in range(min(devices, count))]
        given_out.append((batch.copy(), contexts, feed.split(batch, contexts)))
    memory[:] = 99
    for wanted, contexts, parts in given_out:
        assert [part.context for part in parts] == contexts
        assert (np.concatenate([part.asnumpy() for part in parts]) == wanted).all()
        assert {np.dtype(part.dtype) for part in parts} == {np.dtype(dtype)}


def test_two_page_locked_arrays_of_a_shape_are_made_and_used_in_turns(monkeypatch):
    made, empty = [], mx.nd.empty
    monkeypatch.setattr(mx.nd, "empty", lambda shape, **how: made.append(shape) or empty(shape, **how))
    feed = Feed(PINNED)
    for count in (4, 4, 4, 4, 3, 4, 3):
        feed.split(np.zeros((count, 2), "uint8"), [mx.cpu(0), mx.cpu(1)])
    assert made == [(4, 2), (4, 2), (3, 2), (3, 2)]


def test_a_cpu_is_fed_without_another_copy():
    feed = Feed(host([mx.cpu(0), mx.cpu(1)]))
    assert host([mx.cpu(1)]) == mx.cpu() and host([mx.gpu(2), mx.gpu(0)]) == mx.cpu_pinned(2)
    whole = np.zeros((2, 3), "uint8")
    assert feed.split(whole, [mx.cpu()])[0].context == mx.cpu() and not feed._kept
