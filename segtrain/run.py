"""The run folder: files that appear whole or not at all, checkpoints, and the lock on both."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Dict, Iterator, Mapping

import mxnet as mx
from tqdm import tqdm

from segtrain.config import Config, load
from segtrain.errors import SegtrainError, UserError, one_line

DRY_RUN = "dry-run.png"  # all that `segtrain train --dry-run` leaves
Arrays = Dict[str, mx.nd.NDArray]


def write(path: Path, content: bytes | str) -> None:
    """Write a file aside, flush it to the disk, rename it: it is whole, or as it was before.

    Into what is there and no file, like /dev/null or a pipe, it is written as it is.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # to rename a file onto it would remove it
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write to a full disk doesn't say where that is
        raise
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)


def pack(arrays: Arrays) -> bytes:
    """Arrays as the content of an MXNet ``.params`` file.

    Through memory, because MXNet doesn't notice that a disk is full when it closes a file.
    """
    fd = os.memfd_create("segtrain-params")
    try:
        mx.nd.save(f"/proc/self/fd/{fd}", arrays)
        with open(fd, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()
    finally:
        os.close(fd)


def is_taken(path: Path) -> bool:
    """Whether a run can't begin at `path`: there is more than hidden files and a dry run's picture."""
    if not path.is_dir():
        return path.exists()
    return any(not p.name.startswith(".") and p.name != DRY_RUN for p in path.iterdir())


class Run:
    """A run folder that exists; `open` finds one and `create` makes one.

    quiet: `log` writes to the file only; mine: whether it is this process that writes, among several
    that train together.
    """

    def __init__(self, path: Path):
        self.path, self.quiet, self.mine = path, False, True

    @classmethod
    def open(cls, path: Path) -> Run:
        """The run in the folder `path`; UserError where it isn't one."""
        if not (path / "config.yaml").is_file():
            what = "isn't a run folder: it has no config.yaml" if path.exists() else "doesn't exist"
            raise UserError(f"{path} {what}; give a folder that `segtrain train` made")
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """UserError where `path` can't become a new run folder: something is there already."""
        if is_taken(path):
            raise UserError(f"{path} exists: add --resume to go on with it, or give another --out")
        home = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not os.access(home, os.W_OK):
            raise UserError(f"{home}: can't be written; give another --out")

    @classmethod
    def create(cls, path: Path) -> Run:
        """A new run folder; UserError where there is something already."""
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def config(self) -> Config:
        """The effective config of the run."""
        return load(self.path / "config.yaml")

    def located(self) -> Config:
        """The config; a relative data.root that isn't here is taken from where the run was trained."""
        config, home = self.config(), self.environment().get("folder")
        root = config.data.options.get("root")
        if not isinstance(root, str) or home is None or Path(root).exists():
            return config
        there = Path(home) / root
        data = config.data.model_copy(update={"root": str(there)})
        return config.model_copy(update={"data": data}) if there.exists() else config

    def environment(self) -> dict[str, Any]:
        """What environment.json says; nothing where there is none yet."""
        about = self.path / "environment.json"
        return json.loads(about.read_text()) if about.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off this folder; UserError where another one does."""
        with open(self.path / ".lock", "a") as file:
            until = time.monotonic() + 0.2  # `segtrain runs` shares the lock for a moment
            while not _took(file):
                if time.monotonic() > until:
                    raise UserError(f"{self.path}: another process is training in this folder")
                time.sleep(0.01)
            yield

    def log(self, line: str) -> None:
        """Print a line to stderr and append it to log.txt, if that can be written."""
        if not self.quiet:
            tqdm.write(line, file=sys.stderr)
        with suppress(OSError), open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """history.csv: a row per epoch."""
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write(self.path / "history.csv", text.getvalue())

    def history(self) -> list[dict[str, Any]]:
        """The rows of history.csv so far, from the last checkpoint."""
        return self.load("last", ())[1]["history"]

    def best(self) -> dict[str, Any]:
        """The best score so far and its epoch."""
        return self.load("best", ())[1]["best"]

    # ---- checkpoints

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, or one before it."""
        home = self.path / "checkpoints"
        return (home / name).is_dir() or (home / f"{name}.previous").is_dir()

    def save(self, name: str, arrays: Mapping[str, Arrays], state: dict[str, Any]) -> None:
        """Write the checkpoint `name`: a ``.params`` file per entry of `arrays`, and state.json.

        The folder is written aside and takes the place of the old one by two renames; the old
        one stays as ``NAME.previous``, from which `load` goes on if it must.
        """
        home = self.path / "checkpoints"
        aside, target, previous = (home / n for n in (f".{name}.new", name, f"{name}.previous"))
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        sums = {}
        for file, content in arrays.items():
            data = pack(content)
            write(aside / f"{file}.params", data)
            sums[f"{file}.params"] = hashlib.sha256(data).hexdigest()
        write(aside / "state.json", json.dumps({**state, "sha256": sums}, indent=1))
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(target, previous)
        os.rename(aside, target)
        _sync(home)

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """The state of each checkpoint, by the name of its folder; UserError for a damaged one."""
        folders = sorted((self.path / "checkpoints").glob("[!.]*"))
        return {f.name: self.read(f.name, ())[1] for f in folders if f.is_dir()}

    def read(self, name: str, files: tuple[str, ...]) -> tuple[dict[str, Arrays], dict[str, Any]]:
        """As `load`, of that folder and no other; UserError where it is damaged."""
        folder = self.path / "checkpoints" / name
        try:
            return _read(folder, files)
        except (OSError, ValueError, KeyError, mx.MXNetError) as error:
            text = one_line(error)
            raise UserError(f"{folder} is damaged: {text}; move it away") from None

    def prune(self, prefix: str, keep: int) -> None:
        """Remove the checkpoints whose names begin so, but for the newest (the last by name).

        Those that were there before one of them was saved again go too.
        """
        found = sorted((self.path / "checkpoints").glob(f"{prefix}*"))
        saved_again = [folder for folder in found if folder.name.endswith(".previous")]
        names = [folder for folder in found if folder not in saved_again]
        for folder in [*saved_again, *names[: max(0, len(names) - keep)]]:
            shutil.rmtree(folder)

    def load(self, name: str, files: tuple[str, ...]) -> tuple[dict[str, Arrays], dict[str, Any]]:
        """The arrays and the state of the checkpoint `name`, checked against their checksums.

        Falls back to the one before it, with a line in the log, where it is damaged.
        """
        home = self.path / "checkpoints"
        problems = []
        for folder in (home / name, home / f"{name}.previous"):
            if not folder.is_dir():
                continue
            try:
                found = _read(folder, files)
            except (OSError, ValueError, KeyError, mx.MXNetError) as error:
                problems.append(f"{folder} is damaged: {' '.join(str(error).split())[:200]}")
                continue
            for problem in problems:
                self.log(f"{problem}; using {folder}")
            return found
        raise UserError(problems[0] if problems else f"{home / name}: there is no checkpoint")


def _read(folder: Path, files: tuple[str, ...]) -> tuple[dict[str, Arrays], dict[str, Any]]:
    state = json.loads((folder / "state.json").read_text())
    arrays = {}
    for file in files:
        data = (folder / f"{file}.params").read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"][f"{file}.params"]:
            raise ValueError(f"{file}.params doesn't match its checksum")
        arrays[file] = mx.nd.load_frombuffer(data)
    return arrays, state


def put(net: Any, arrays: Arrays) -> None:
    """Set a network's parameters from arrays by their structural names; all must be there."""
    parameters = net._collect_params_with_prefix()
    wrong = sorted(set(parameters) ^ set(arrays))
    if wrong:
        raise SegtrainError(f"the checkpoint is of another network: {wrong[0]} isn't in both")
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name])


def _took(file: IO) -> bool:
    """Whether the lock on a file could be taken at once."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
