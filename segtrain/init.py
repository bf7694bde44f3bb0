"""A config for a dataset, chosen for it and for this machine, each value with its reason."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from segtrain import config, recipe
from segtrain.check import copies_of
from segtrain.config import Config
from segtrain.data.dataset import open_split
from segtrain.data.detect import Found, Pair, detect
from segtrain.data.files import read_image
from segtrain.data.legend import legend
from segtrain.data.look import fingerprint
from segtrain.data.survey import survey
from segtrain.errors import UserError
from segtrain.infer import write
from segtrain.recipe import Choice

VAL_SHARE = 0.2


class Proposal(NamedTuple):
    """The config's text, the list files that it names, and what a person should know."""

    text: str
    files: Dict[Path, str]
    notes: List[str]


def propose(root: Path, out: Path) -> Proposal:
    """A config for the dataset in the folder `root`, to be written to `out`; nothing is written.

    UserError where no pairs of images and masks, and no known format, are found in it.
    """
    found = detect(root)
    if found.name == "signals":
        raise UserError(f"{root} holds signals: start from configs/ludb-unet1d.yaml")
    choices = [Choice("data.name", found.name, "; ".join(found.notes))]
    choices += [Choice(f"data.{key}", value) for key, value in found.options.items()]
    lists: Dict[str, str] = {}
    if found.pairs is not None:
        meaning = legend([mask for pairs in found.pairs.values() for _, mask in pairs], root)
        choices += [
            Choice(f"data.{k}", v, meaning.reasons.get(k, "")) for k, v in meaning.options.items()
        ]
    if found.pairs is not None and found.name == "list":
        splits, why = _splits(found.pairs, root)
        lists = {split: _table(pairs, root) for split, pairs in splits.items()}
        files = {split: out.with_name(f"{out.stem}-{split}.csv") for split in lists}
        named = {split: os.path.relpath(path, root) for split, path in files.items()}
        choices.append(Choice("data.files", named, why))
    surveys = _surveys(choices, lists, root)
    choices += recipe.choose(surveys, _config(choices))
    written = {files[split]: text for split, text in lists.items()} if lists else {}
    return Proposal(_text(root, out, choices), written, [c.why for c in choices[:1]] + _told(found))


def _told(found: Found) -> List[str]:
    return [note for note in found.notes if note.startswith("LEFT OUT")]


def _config(choices: Sequence[Choice]) -> Config:
    values: Dict[str, Any] = {}
    for key, value, _ in choices:
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return config.parse(values)


def _surveys(choices: List[Choice], lists: Dict[str, str], root: Path) -> Dict[str, Any]:
    """Both splits read whole; the list files lie in a temporary folder meanwhile."""
    with tempfile.TemporaryDirectory() as home:
        paths = {split: Path(home) / f"{split}.csv" for split in lists}
        for split, path in paths.items():
            write(path, lists[split].encode())
        if lists:
            named = {split: str(path) for split, path in paths.items()}
            choices = [c._replace(value=named) if c.key == "data.files" else c for c in choices]
        data = _config(choices).data
        return {split: survey(open_split(data, split), split, data) for split in ("train", "val")}


# ---- splits


def _splits(found: Dict[str, List[Pair]], root: Path) -> Tuple[Dict[str, List[Pair]], str]:
    """The training and validation pairs, and why these."""
    splits = dict(found)
    if "train" in splits and "val" in splits:
        return {split: splits[split] for split in ("train", "val", "test") if split in splits}, (
            "the splits that the folders' names tell"
        )
    if "train" in splits and "test" in splits:
        why = "there is no validation split: the test split serves as one"
        return {"train": splits["train"], "val": splits["test"]}, why
    return _divided([pair for split in sorted(splits) for pair in splits[split]], root)


def _divided(pairs: List[Pair], root: Path) -> Tuple[Dict[str, List[Pair]], str]:
    """A fifth for validation, by a hash of the names; copies of one image stay together."""
    groups = _groups(pairs)
    if len(groups) < 2:
        raise UserError(f"{root}: there are not two different images to train and to judge on")
    ordered = sorted(groups, key=lambda group: sha256(group[0][0].name.encode()).hexdigest())
    val: List[Pair] = []
    while len(ordered) > 1 and len(val) < VAL_SHARE * len(pairs):
        val += ordered.pop(0)
    train = [pair for group in ordered for pair in group]
    why = (
        f"there are no splits: {len(val)} of {len(pairs)} go to validation, by a hash of their "
        "names; copies of one image stay together"
    )
    return {"train": sorted(train), "val": sorted(val)}, why


def _groups(pairs: List[Pair]) -> List[List[Pair]]:
    """The pairs, those whose images are copies of one another in one group."""
    prints = [fingerprint(read_image(image)) for image, _ in pairs]
    group_of = list(range(len(pairs)))
    for first, later, _ in copies_of(prints):
        group_of[later] = group_of[first]
    groups: Dict[int, List[Pair]] = {}
    for pair, group in zip(pairs, group_of):
        groups.setdefault(group, []).append(pair)
    return list(groups.values())


def _table(pairs: List[Pair], root: Path) -> str:
    """The pairs as a CSV file, paths from the root on."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "mask"])
    table.writerows([path.relative_to(root).as_posix() for path in pair] for pair in pairs)
    return text.getvalue()


# ---- the text


def _text(root: Path, out: Path, choices: Sequence[Choice]) -> str:
    lines = [
        f"# For the dataset in {root}, by segtrain init. Next:",
        f"#   segtrain check {out}",
        f"#   segtrain train {out}",
    ]
    for section in ("model", "data", "train", "eval"):
        lines.append(f"{section}:")
        for key, value, why in choices:
            if key.partition(".")[0] == section:
                comment = f"  # {' '.join(why.split())}" if why else ""
                lines.append(f"  {key.partition('.')[2]}: {config.inline(value)}{comment}")
    return "\n".join(lines) + "\n"
