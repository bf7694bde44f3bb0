"""The runs in a folder: what each reached, and whether it is running, finished, stopped or broken."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from segtrain.config import Config, load
from segtrain.errors import UserError

_SIGNS = (".lock", "checkpoints", "environment.json", "history.csv")  # that a folder is a run

# By what a list can be sorted, and whether the largest comes first.
ORDERS = {
    "name": False,
    "model": False,
    "miou": True,
    "epoch": True,
    "state": False,
    "images_per_second": True,
    "seconds": True,
    "date": True,
}


def runs(home: Path, sort: str = "date") -> List[Dict[str, Any]]:
    """Each run in `home`, however deep, by the order of that name in ORDERS; what it lacks is None.

    Keys: name (its path in `home`), path, model, miou (the best), epoch (how many are whole), epochs,
    state, images_per_second (over all epochs), seconds, date (of the last epoch, ISO 8601),
    problem (of a broken one). Runs without the figure come last.
    """
    if not home.is_dir():
        raise UserError(f"no folder {home}: give the one that your runs are in")
    if sort not in ORDERS:
        raise UserError(f"--sort {sort}: there are {', '.join(ORDERS)}")
    rows = sorted((_row(path, home) for path in _folders(home)), key=lambda row: row["name"])
    known = [row for row in rows if row[sort] is not None]
    known.sort(key=lambda row: row[sort], reverse=ORDERS[sort])
    return known + [row for row in rows if row[sort] is None]


def _folders(home: Path) -> Iterator[Path]:
    """The run folders in and below `home`, itself too if it is one; links aren't followed below it."""
    if any((home / sign).exists() for sign in _SIGNS):
        yield home
        return
    for path in sorted(home.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _folders(path)


def _row(path: Path, home: Path) -> Dict[str, Any]:
    name = str(path.relative_to(home)) if path != home else path.absolute().name
    row: Dict[str, Any] = {"name": name, "path": str(path), **dict.fromkeys(_FIGURES)}
    try:
        config = load(path / "config.yaml")
        history = _history(path / "history.csv")
        row.update({key: figure(config, history) for key, figure in _FIGURES.items()})
        row.update(_average(path) or {"state": _state(path, config, history)})
        row.update(date=_date(path), problem=None)
    except (UserError, OSError, KeyError, ValueError, csv.Error) as error:
        row.update(state="running", date=_date(path), problem=None)
        if not _running(path):  # else it is just beginning
            told = str(error) if str(path) in str(error) else f"{path / 'history.csv'}: {error}"
            row.update(state="broken", problem=told)
    return row


_FIGURES: Dict[str, Callable[[Config, List[Dict[str, float]]], Any]] = {
    "model": lambda config, history: config.model.name,
    "miou": lambda config, history: max((r["miou"] for r in history if "miou" in r), default=None),
    "epoch": lambda config, history: int(history[-1]["epoch"]) if history else 0,
    "epochs": lambda config, history: config.train.epochs,
    "images_per_second": lambda config, history: _speed(history),
    "seconds": lambda config, history: sum(row["seconds"] for row in history),
}


def _history(path: Path) -> List[Dict[str, float]]:
    """The rows of a history.csv, without its empty fields; none where it isn't written yet."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def _speed(history: List[Dict[str, float]]) -> Optional[float]:
    """Images per second of training over all epochs, each of which has as many images."""
    speeds = [row["images_per_second"] for row in history]
    return len(speeds) / sum(1 / s for s in speeds) if speeds and min(speeds) > 0 else None


def finished(config: Config, history: List[Dict[str, float]]) -> bool:
    """Whether a run whose rows of history.csv these are was trained to its end."""
    through = bool(history) and history[-1]["epoch"] >= config.train.epochs
    return through or _stopped_early(config, history)


def _stopped_early(config: Config, history: List[Dict[str, float]]) -> bool:
    """Whether the last evaluations were as many without a better score as train.early_stop says."""
    scores = [row.get("miou", 0.0) for row in history if "pixel_accuracy" in row]
    patience = config.train.early_stop
    return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


def _state(path: Path, config: Config, history: List[Dict[str, float]]) -> str:
    if _running(path):
        return "running"
    if history and not any((path / "checkpoints").glob("*/state.json")):
        raise UserError(f"{path}: the checkpoints of its {len(history)} epochs are gone")
    return "finished" if finished(config, history) else "stopped"


def _average(path: Path) -> Dict[str, Any]:
    """The figures of what `segtrain average` wrote, which has no history of its own; else none."""
    best = path / "checkpoints/best/state.json"
    state = json.loads(best.read_text(encoding="utf-8")) if best.exists() else {}
    if "averaged" not in state:
        return {}
    return {"state": "average", "miou": state["best"]["miou"], "epoch": state["epoch"]}


def _running(path: Path) -> bool:
    """Whether a process trains in the folder: then it holds the lock, and nobody can share it."""
    try:
        fd = os.open(path / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _date(path: Path) -> str:
    """When the run wrote its last epoch, or else when it began."""
    times = [(path / name).stat().st_mtime for name in _SIGNS if (path / name).exists()]
    return datetime.fromtimestamp(max(times)).isoformat(" ", "seconds")
