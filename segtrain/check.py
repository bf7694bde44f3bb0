"""What would spoil a training: each check is a function here, and prescribes what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from segtrain.config import Config
from segtrain.data import augment, augment1d
from segtrain.data.dataset import SPLITS, open_split
from segtrain.data.look import copies_of
from segtrain.data.survey import Survey, survey
from segtrain.errors import UserError

MOST = 50_000  # images among which copies are looked for: each is compared with each


class Finding(NamedTuple):
    """Something wrong with the data: where, why it matters, and what mends it."""

    kind: str
    split: str
    files: List[str]
    why: str
    fix: str
    error: bool = True  # False: worth a look, but it spoils nothing by itself


class Data(NamedTuple):
    """What the checks look at."""

    config: Config
    splits: Dict[str, Survey]
    unopened: Dict[str, str]


def look(config: Config) -> Data:
    """Read every sample of the training and validation split, and of the test split if there is one.

    Nothing stops at the first fault.
    """
    surveys, unopened = {}, {}
    for split in SPLITS:
        try:
            dataset = open_split(config.data, split, strict=False)
            surveys[split] = survey(dataset, split, config.data)
        except UserError as error:
            if split != "test":
                unopened[split] = str(error)
    return Data(config, surveys, unopened)


def report(data: Data) -> Dict[str, Any]:
    """The result of `segtrain check` for JSON: passed, findings, splits."""
    findings = [finding for function in CHECKS for finding in function(data)]
    return {
        "passed": not any(finding.error for finding in findings),
        "findings": [finding._asdict() for finding in findings],
        "splits": {split: _summary(found) for split, found in data.splits.items()},
    }


def _summary(found: Survey) -> Dict[str, Any]:
    total = max(1, int(found.pixels.sum()))
    sizes = sorted({look.size for look in found.looks})
    return {
        "images": len(found.dataset.ids),
        "read": len(found.looks),
        "sizes": [list(size) for size in (sizes[:1] + sizes[-1:] if len(sizes) > 1 else sizes)],
        "classes": {
            name: float(count) / total for name, count in zip(found.dataset.classes, found.pixels)
        },
    }


# ---- the checks


def unopened(data: Data) -> Iterator[Finding]:
    """A split that isn't there, or can't be opened."""
    for split, text in data.unopened.items():
        yield Finding("split", split, [], text, "train and val are both needed to train")


def unpaired(data: Data) -> Iterator[Finding]:
    """Images without a mask, masks without an image, names without either."""
    for split, found in data.splits.items():
        for text in getattr(found.dataset, "problems", []):
            file, _, rest = text.partition(": ")
            yield Finding("pair", split, [file], rest, "add the other file, or take this one away")


def unreadable(data: Data) -> Iterator[Finding]:
    """Samples that can't be read; those with the same fault together."""
    for split, found in data.splits.items():
        groups: Dict[str, List[Tuple[str, str]]] = defaultdict(list)
        for name, text in found.problems:
            groups[re.sub(r"\S*[/\\]\S*|[\d.]+", "", text)].append((name, text))
        for same in groups.values():
            more = f" (and {len(same) - 1} more like it)" if len(same) > 1 else ""
            yield Finding(
                "sample",
                split,
                [name for name, _ in same],
                f"{same[0][1]}{more}",
                "mend or take away the file; training stops at it",
            )


def copies(data: Data) -> Iterator[Finding]:
    """Images that are there twice: between splits a leak, within one a waste."""
    looks = [(split, look) for split, found in data.splits.items() for look in found.looks]
    if len(looks) > MOST:
        why = f"copies were not looked for among {len(looks):,} images ({MOST:,} at most)"
        yield Finding("copies", "all", [], why, "check a part of the dataset", error=False)
        return
    for a, b, same in copies_of([look.print for _, look in looks]):
        (split_a, look_a), (split_b, look_b) = looks[a], looks[b]
        how = "is the same image as" if same else "is a copy, saved anew, of"
        leak = split_a != split_b
        yield Finding(
            "leak" if leak else "duplicate",
            split_b,
            [look_b.name, look_a.name],
            f"{look_b.name} {how} {look_a.name}"
            + (f" in {split_a}: the score would count what was learnt by heart" if leak else ""),
            "take one of the two away",
            error=leak,
        )


def blank(data: Data) -> Iterator[Finding]:
    """Masks with no more than one class."""
    for split, found in data.splits.items():
        of: Dict[str, List[str]] = defaultdict(list)
        for look in found.looks:
            held = np.flatnonzero(look.counts)
            if len(held) < 2:
                of[found.dataset.classes[held[0]] if len(held) else "ignored pixels"].append(look.name)
        for what, names in of.items():
            yield Finding(
                "empty mask",
                split,
                names,
                f"{len(names)} of {len(found.looks)} masks hold nothing but {what}",
                "right where the image shows nothing else; if not, annotate it or take it away",
                error=False,
            )


def absent(data: Data) -> Iterator[Finding]:
    """Classes that a split doesn't hold."""
    held = {split: found.pixels > 0 for split, found in data.splits.items() if found.looks}
    if "train" not in held:
        return
    classes = data.splits["train"].dataset.classes
    nowhere = [name for name, some in zip(classes, np.any(list(held.values()), axis=0)) if not some]
    if nowhere:
        yield Finding(
            "class",
            "all",
            [],
            f"no mask of any split holds {', '.join(nowhere)}: where that is predicted, it counts 0",
            "leave it out of data.classes, unless it is still to come",
            error=False,
        )
    for i, name in enumerate(classes):
        elsewhere = [split for split in held if split != "train" and held[split][i]]
        if elsewhere and not held["train"][i]:
            yield Finding(
                "class",
                "train",
                [],
                f"no training mask holds {name!r}, and there are some in {elsewhere[0]}: it can't be "
                "learnt",
                "move samples with it into train, or take it out of data.classes by data.label_map",
            )
        elif held["train"][i] and "val" in held and not held["val"][i]:
            yield Finding(
                "class",
                "val",
                [],
                f"no validation mask holds {name!r}: its score will be left out of the mIoU",
                "move a sample with it into val",
                error=False,
            )


def small(data: Data) -> Iterator[Finding]:
    """Images smaller than the crop."""
    crop = data.config.data.crop
    for split, found in data.splits.items():
        names = [k.name for k in found.looks if any(s < c for s, c in zip(k.size, crop))]
        if names and split == "train":
            least = [min(side) for side in zip(*(look.size for look in found.looks))]
            yield Finding(
                "size",
                split,
                names,
                f"{len(names)} of {len(found.looks)} images are smaller than data.crop={list(crop)}: "
                "what is beyond their border is mirrored and not trained on",
                f"no harm where they are few; else set data.crop to at most {least}",
                error=False,
            )


def depth(data: Data) -> Iterator[Finding]:
    """Masks stored in another way than the most."""
    modes: Dict[str, List[Tuple[str, str]]] = defaultdict(list)
    for split, found in data.splits.items():
        for look in found.looks:
            if look.mask_mode:
                modes[look.mask_mode].append((split, look.name))
    most = max(modes, key=lambda mode: len(modes[mode]), default="")
    for mode, samples in modes.items():
        if mode != most and len(samples) * 10 <= len(modes[most]):
            yield Finding(
                "mask kind",
                samples[0][0],
                [name for _, name in samples],
                f"{len(samples)} masks are of kind {mode}, the other {len(modes[most])} of {most}: "
                "were they made in another way?",
                "look whether their ids mean the same, and save them like the others",
                error=False,
            )


def network(data: Data) -> Iterator[Finding]:
    """A network that can't be built, or doesn't take the crop."""
    from segtrain import models
    from segtrain.training import learner

    if not data.splits:
        return
    dataset = next(iter(data.splits.values())).dataset
    classes = len(dataset.classes)
    try:
        net = models.network(data.config.model, classes, data.config.data.mean, data.config.data.std)
        learner.check_crop(net, data.config, getattr(dataset, "dim", 2))
    except UserError as error:
        yield Finding("network", "train", [], str(error), "see the message")


def augmentation(data: Data) -> Iterator[Finding]:
    """Augmentation that isn't known, or an Albumentations pipeline that can't be made."""
    try:
        (augment1d if len(data.config.data.crop) == 1 else augment).parse(data.config.data.augment)
    except UserError as error:
        yield Finding("augment", "train", [], str(error), "see the message")


def batch(data: Data) -> Iterator[Finding]:
    """More samples per step than there are."""
    found, size = data.splits.get("train"), data.config.train.batch
    if found and size != "auto" and len(found.dataset.ids) < size:
        yield Finding(
            "batch",
            "train",
            [],
            f"train.batch={size}, and there are {len(found.dataset.ids)} training images: each "
            "epoch is one short step",
            f"set train.batch={max(1, len(found.dataset.ids) // 4)}",
            error=False,
        )


CHECKS: List[Callable[[Data], Iterator[Finding]]] = [
    unopened,
    unpaired,
    unreadable,
    copies,
    blank,
    absent,
    small,
    depth,
    network,
    augmentation,
    batch,
]
