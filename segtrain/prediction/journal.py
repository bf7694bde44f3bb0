"""What a folder of predictions was made of, a line per input, so that a half-done one goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from segtrain.errors import UserError
from segtrain.prediction.pictures import write

NAME = "predict.jsonl"


def fingerprint(
    models: Iterable[Path], form: Optional[str] = None, runtime: Optional[str] = None
) -> str:
    """The identity of runs and bundles: a hash over the checksums of their parameters.

    form, runtime: which of a bundle's formats, and what runs it, where that was asked for.
    """
    files = ("checkpoints/best/state.json", "checkpoints/best.previous/state.json", "model.json")
    digest = hashlib.sha256()
    for model in models:
        digest.update(next(m.read_bytes() for m in (model / file for file in files) if m.is_file()))
    return " ".join([digest.hexdigest(), *filter(None, (form, runtime))])


class Journal:
    """``predict.jsonl`` in the output folder: what made the files there, then a line per input done.

    head: what the files depend on beside the inputs. resume: go on with the one that is there;
    UserError where its head is another.
    Without it a new one is begun, at the first input that is done.
    """

    def __init__(self, out: Path, head: Dict[str, Any], resume: bool):
        self.path = out / NAME
        self._head = json.loads(json.dumps(head))  # as it reads back
        self._lines: Dict[str, Dict[str, Any]] = {}
        if resume and self.path.is_file():
            self._read()
        self._begun = False

    def _read(self) -> None:
        lines = self.path.read_text().splitlines()
        head, *rest = [entry for entry in map(_parsed, lines) if entry is not None] or [{}]
        if head != self._head:
            raise UserError(
                f"{self.path}: another model, or another way through it, made these masks: give another "
                "--out, or leave out --resume to make them anew"
            )
        self._lines = {line["name"]: line for line in rest}

    def done(self, name: str, source: Path, targets: Iterable[Path]) -> Optional[Dict[str, Any]]:
        """What is known of an input whose files are all there, and made of `source` as it is now."""
        line = self._lines.get(name) if source.is_file() else None  # a camera is never done
        same = line is not None and _state(source) == {key: line[key] for key in _state(source)}
        return line if same and all(target.is_file() for target in targets) else None

    def add(self, name: str, source: Path, results: Dict[str, Any]) -> Dict[str, Any]:
        """Note that all the files of an input are there; what is noted."""
        line = {"name": name, **_state(source), **results}
        self._lines[name] = line
        if not self._begun:  # whole, because the last line of one that was killed may be torn
            self._begun = True
            content: List[Dict[str, Any]] = [self._head, *self._lines.values()]
            write(self.path, "".join(f"{json.dumps(entry)}\n" for entry in content).encode())
        else:
            with self.path.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
        return line


def _state(source: Path) -> Dict[str, Any]:
    if not source.is_file():
        return {"source": str(source)}
    stat = source.stat()
    return {"source": str(source.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _parsed(line: str) -> Optional[Dict[str, Any]]:
    try:
        return json.loads(line)
    except ValueError:
        return None
