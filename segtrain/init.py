"""A config for a dataset, chosen for it and for this machine, each value with its reason."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

import numpy as np

from segtrain import config, recipe
from segtrain.config import Config
from segtrain.data import divide
from segtrain.data.columns import label_counts, roles
from segtrain.data.dataset import open_split
from segtrain.data.detect import detect
from segtrain.data.files import decode, read_image
from segtrain.data.found import Files, Found
from segtrain.data.legend import legend, legend_of
from segtrain.data.look import THUMBNAIL, Print, fingerprint
from segtrain.data.survey import Survey, survey
from segtrain.errors import UserError
from segtrain.prediction.infer import InputError, Kind, write
from segtrain.prediction.pictures import KindError
from segtrain.prediction.records import Form, read_signal
from segtrain.recipe import Choice

SOME = 9  # images that tell what kind all are
TOLD = 5  # files whose problems are told


class Proposal(NamedTuple):
    """The config's text, the list files that it names, and what a person should know."""

    text: str
    files: Dict[Path, str]
    notes: List[str]


def propose(root: Path, out: Path) -> Proposal:
    """A config for the dataset in the folder `root`, to be written to `out`; nothing is written.

    UserError where no images with masks, no records, and no known format, are found in it.
    """
    found = detect(root)
    proposal, surveys = _attempt(found, root, out)
    problems = [problem for each in surveys.values() for problem in each.problems]
    whole = sum(len(each.looks) for each in surveys.values())
    if problems and len(problems) < whole and found.samples is not None and found.name != "signals":
        proposal, _ = _attempt(_without(found, {problem.name for problem in problems}), root, out)
        told = [problem.text for problem in problems]
        more = [f"... and {len(told) - TOLD} more"] if len(told) > TOLD else []
        lines = [f"  {line}" for line in [*told[:TOLD], *more]]
        return proposal._replace(notes=[*proposal.notes, *lines])
    return proposal


def _without(found: Found, names: Set[str]) -> Found:
    """The pairs but those images, which only lists can say."""
    kept = {
        split: [pair for pair in pairs if str(pair[0]) not in names]
        for split, pairs in (found.samples or {}).items()
    }
    notes = [*found.notes, f"LEFT OUT: {len(names)} pairs that can't be read"]
    return Found("list", {"root": found.options["root"]}, notes, kept)


def _attempt(found: Found, root: Path, out: Path) -> Tuple[Proposal, Dict[str, Survey]]:
    """The proposal for what was found, and what its samples turned out to be."""
    choices = [Choice("data.name", found.name, "; ".join(found.notes))]
    choices += [Choice(f"data.{key}", value) for key, value in found.options.items()]
    lists: Dict[Path, str] = {}
    if found.name == "signals":
        more, lists = _of_records(found, root, out)
        choices += more
    elif found.samples is not None:
        more, lists = _of_images(found, root, out)
        choices += more
    surveys = _surveys(choices, lists, root)
    choose = recipe.choose_signals if found.name == "signals" else recipe.choose
    choices += choose(surveys, _config(choices))
    notes = [*found.notes, *_unread(surveys), *_doubts(choices), *_empty(surveys)]
    return Proposal(_text(root, out, choices), lists, notes), surveys


def _doubts(choices: Sequence[Choice]) -> List[str]:
    """What a person knows better."""
    given = {choice.key: choice for choice in choices}
    ignore = given.get("data.ignore")
    return [f"data.ignore: {ignore.why}"] if ignore and ignore.value is not None else []


def _empty(surveys: Dict[str, Survey]) -> List[str]:
    """What to say where there is nothing to learn."""
    pixels = np.sum([look.counts for found in surveys.values() for look in found.looks], axis=0)
    return [] if np.any(pixels[1:]) else ["NOTHING BUT THE FIRST CLASS is in the masks: are they right?"]


def _of_images(found: Found, root: Path, out: Path) -> Tuple[List[Choice], Dict[Path, str]]:
    """What masks mean and images are, and the pairs of each split where folders alone don't say it."""
    samples = found.samples or {}
    pairs = [pair for split in samples.values() for pair in split]
    meaning = legend([mask for _, mask in pairs], root)
    choices = [Choice(f"data.{k}", v, meaning.reasons.get(k, "")) for k, v in meaning.options.items()]
    image, kind = _kind([image for image, _ in pairs])
    if kind != Kind():
        why = f"{image.name} is grey" if kind.channels == 1 else f"as {image.name} has"
        choices.append(Choice("data.channels", kind.channels, why))
        choices.append(Choice("data.depth", kind.depth, f"bits of a value in {image.name}"))
    if found.name != "list":
        return choices, {}
    splits, why = divide.splits(samples, lambda pair: _print(pair[0], kind))
    paths = {split: out.with_name(f"{out.stem}-{split}.csv") for split in splits}
    named = {split: os.path.relpath(path, root) for split, path in paths.items()}
    choices.append(Choice("data.files", named, why))
    return choices, {paths[split]: _table(chosen, root) for split, chosen in splits.items()}


def _of_records(found: Found, root: Path, out: Path) -> Tuple[List[Choice], Dict[Path, str]]:
    """The columns of records, what the labels mean, and the records of each split."""
    samples = found.samples or {}
    paths = [path for split in samples.values() for (path,) in split]
    told = roles(paths)
    meaning = legend_of(label_counts(paths, told.label), root)
    choices = [
        Choice("data.signal", told.signal, "the channels; " + told.left_out),
        Choice("data.label", told.label),
        Choice("data.rate", told.rate, told.source),
        *[Choice(f"data.{k}", v, meaning.reasons.get(k, "")) for k, v in meaning.options.items()],
        Choice("data.background", 0, "the class between events; null where each class is one"),
    ]
    form = Form(told.signal, True, None)
    splits, why = divide.splits(samples, lambda files: fingerprint(read_signal(files[0], form)))
    homes = _homes(splits, root)
    if homes:
        renamed = any(split != home for split, home in homes.items())
        return [*choices, *([Choice("data.splits", homes, why)] if renamed else [])], {}
    lists = {split: out.with_name(f"{out.stem}-{split}.txt") for split in splits}
    named = {split: os.path.relpath(path, root) for split, path in lists.items()}
    texts = {
        lists[split]: "".join(f"{path.relative_to(root).as_posix()}\n" for (path,) in chosen)
        for split, chosen in splits.items()
    }
    return [*choices, Choice("data.splits", named, why)], texts


def _homes(splits: divide.Splits, root: Path) -> Dict[str, str]:
    """The folder in `root` that each split has for itself; empty where they don't."""
    homes = {
        split: {path.relative_to(root).parts[0] for (path,) in chosen}
        for split, chosen in splits.items()
    }
    own = [next(iter(home)) for home in homes.values() if len(home) == 1]
    sound = len(set(own)) == len(splits) and all((root / home).is_dir() for home in own)
    return dict(zip(splits, own)) if sound else {}


def _kind(images: Sequence[Path]) -> Tuple[Path, Kind]:
    """What most of some images are, and one of these."""
    kinds: Dict[Kind, List[Path]] = {}
    problem = ""
    for image in images[:: -(-len(images) // SOME)]:
        try:
            kinds.setdefault(_kind_of(image), []).append(image)
        except InputError as error:
            problem = str(error)
    if not kinds:
        raise UserError(problem)
    kind = max(kinds, key=lambda kind: len(kinds[kind]))
    return kinds[kind][0], kind


def _kind_of(image: Path) -> Kind:
    """8-bit RGB where it can be read as that, as grey can; else what the file is, without alpha."""
    try:
        decode(image, Kind())
    except KindError as error:
        found = error.found
    else:
        return Kind()
    try:  # of any number of channels but 1 and 3 an image comes as it lies
        decode(image, Kind(2, found.depth))
    except KindError as error:
        return error.found if error.found.channels == 1 else found
    return found


def _print(image: Path, kind: Kind) -> Print:
    """What tells copies of an image; one that can't be read is a copy of none."""
    try:
        return fingerprint(read_image(image, kind))
    except UserError:
        return Print(os.fsencode(image), np.zeros(THUMBNAIL**2, np.float16))


def _config(choices: Sequence[Choice]) -> Config:
    values: Dict[str, Any] = {}
    for key, value, _ in choices:
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return config.parse(values)


def _surveys(choices: List[Choice], lists: Dict[Path, str], root: Path) -> Dict[str, Survey]:
    """Both splits read whole; the list files lie in a temporary folder meanwhile."""
    with tempfile.TemporaryDirectory() as home:
        moved = {}
        for path, text in lists.items():
            write(Path(home) / path.name, text.encode())
            moved[os.path.relpath(path, root)] = str(Path(home) / path.name)
        if moved:
            choices = [_renamed(choice, moved) for choice in choices]
        given = {choice.key: choice.value for choice in choices}
        if given.get("data.depth", 8) != 8:  # their statistics are what is to be found out
            plain = [[value] * given["data.channels"] for value in (0.0, 1.0)]
            choices = [*choices, *map(Choice, ("data.mean", "data.std"), plain)]
        data = _config(choices).data
        surveys = {split: survey(open_split(data, split), split, data) for split in ("train", "val")}
    for found in surveys.values():
        if not found.looks:
            raise UserError(found.problems[0].text)
    return surveys


def _renamed(choice: Choice, moved: Dict[str, str]) -> Choice:
    """The choice with the list files that it names where they are for now."""
    if choice.key not in ("data.files", "data.splits"):
        return choice
    return choice._replace(value={k: moved.get(name, name) for k, name in choice.value.items()})


def _unread(surveys: Dict[str, Survey]) -> List[str]:
    problems = [problem for found in surveys.values() for problem in found.problems]
    if not problems:
        return []
    return [f"CAN'T BE READ: {len(problems)} samples, as segtrain check will list; {problems[0].text}"]


def _table(pairs: List[Files], root: Path) -> str:
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
