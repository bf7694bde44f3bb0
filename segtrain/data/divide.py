"""The splits of a dataset: as its folders say, else by a hash of the names, copies on one side."""

from __future__ import annotations

from hashlib import sha256
from typing import Callable, Dict, List, Tuple

from segtrain.data.found import Files
from segtrain.data.look import Print, copies_of
from segtrain.data.parallel import in_threads
from segtrain.errors import UserError

VAL_SHARE = 0.2
Splits = Dict[str, List[Files]]


def splits(found: Splits, look: Callable[[Files], Print]) -> Tuple[Splits, str]:
    """The training and validation samples, perhaps the test samples, and why these.

    found: by the names of the folders, under "" those in none of a split.
    """
    if "train" in found and "val" in found:
        return {split: found[split] for split in ("train", "val", "test") if split in found}, (
            "the splits that names of folders, or list files, tell"
        )
    if "train" in found and "test" in found:
        why = "there is no validation split: the test split serves as one"
        return {"train": found["train"], "val": found["test"]}, why
    return _divided([files for split in sorted(found) for files in found[split]], look)


def _divided(samples: List[Files], look: Callable[[Files], Print]) -> Tuple[Splits, str]:
    """A fifth for validation, by a hash of the names; copies of one sample stay together."""
    groups = _groups(samples, look)
    if len(groups) < 2:
        copies = f"{len(samples)} copies of one sample" if len(samples) > 1 else "one sample alone"
        raise UserError(f"{samples[0][0]}: {copies}, and two are needed: to train on, and to validate")
    ordered = sorted(groups, key=lambda group: sha256(group[0][0].name.encode()).hexdigest())
    val: List[Files] = []
    while len(ordered) > 1 and len(val) < VAL_SHARE * len(samples):
        val += ordered.pop(0)
    train = [files for group in ordered for files in group]
    why = (
        f"there are no splits: {len(val)} of {len(samples)} go to validation, by a hash of their "
        "names; copies stay together"
    )
    return {"train": sorted(train), "val": sorted(val)}, why


def _groups(samples: List[Files], look: Callable[[Files], Print]) -> List[List[Files]]:
    """The samples, those that are copies of one another in one group."""
    prints = list(in_threads(lambda index: look(samples[index]), range(len(samples))))
    group_of = list(range(len(samples)))
    for first, later, _ in copies_of(prints):
        group_of[later] = group_of[first]
    groups: Dict[int, List[Files]] = {}
    for files, group in zip(samples, group_of):
        groups.setdefault(group, []).append(files)
    return list(groups.values())
