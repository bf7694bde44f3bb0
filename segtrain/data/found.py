"""What is found of a dataset: its format, its samples, and the split that a file's path names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

SPLIT_WORDS = {
    "train": {"train", "training", "tr"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
Files = Tuple[Path, ...]  # of a sample: an image and its mask, or a record of signals


class Found(NamedTuple):
    """A format with its options, and what a person should know."""

    name: str
    options: Dict[str, Any]
    notes: List[str]
    samples: Optional[Dict[str, List[Files]]] = None  # by split, "" where there is none


def words_of(path: Path) -> List[str]:
    """The words of a file's name, in small letters, without its ending."""
    return re.split(r"[ ._-]", path.stem.lower())


def split_of(path: Path) -> Optional[str]:
    """The split that a path names: in a folder's name, or in a JSON file's."""
    words = [part.lower() for part in path.parts[:-1]]
    words = [word[: -len("annot")] if word.endswith("annot") else word for word in words]
    words += words_of(path) if path.suffix == ".json" else []
    for split, known in SPLIT_WORDS.items():
        if any(re.sub(r"\d+$", "", word) in known for word in words):
            return split
    return None
