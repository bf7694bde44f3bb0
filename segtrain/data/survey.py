"""Every sample of a split looked at once: what it holds, and what keeps it from being read."""

from __future__ import annotations

from typing import List, NamedTuple

import numpy as np

from segtrain.config import Data
from segtrain.data.dataset import Dataset
from segtrain.data.ledger import open_ledger
from segtrain.data.look import Look


class Problem(NamedTuple):
    """A sample that can't be read."""

    name: str
    text: str


class Survey(NamedTuple):
    """A split: the samples that could be read, and the problems."""

    split: str
    dataset: Dataset
    looks: List[Look]
    problems: List[Problem]

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of each class, (classes,) int64."""
        classes = len(self.dataset.classes)
        return np.sum([look.counts for look in self.looks] or [np.zeros(classes)], axis=0)


def survey(dataset: Dataset, split: str, data: Data) -> Survey:
    """Look at every sample; nothing is raised for one that can't be read."""
    ledger = open_ledger(dataset, split, data)
    sound = (index for index in range(len(dataset.ids)) if index not in ledger.problems)
    return Survey(
        split,
        dataset,
        [ledger.look(dataset, index) for index in sound],
        [Problem(dataset.name(index), text) for index, text in sorted(ledger.problems.items())],
    )
