"""What the files of a run tell: its history, its config with origins, where and when it ran."""

from __future__ import annotations

import csv
import json
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from segtrain import config as configs
from segtrain.config import Config

Row = dict  # of history.csv: a number, or None where the cell is empty, by column


class Setting(NamedTuple):
    """One value of the config, as YAML, and where it came from ('' where the file doesn't say)."""

    key: str
    value: str
    origin: str


class Facts(NamedTuple):
    """A run, as its folder has it."""

    home: str  # the folder that the run's folder is in
    name: str
    path: str
    config: Config
    best: dict[str, Any]  # miou and epoch of the best checkpoint
    history: list[Row]
    settings: dict[str, list[Setting]]  # by section
    environment: list[tuple[str, str]]
    saved: str  # when the best checkpoint was written
    seconds: float  # of training


def gather(path: Path, config: Config, best: dict[str, Any]) -> Facts:
    """The facts of the run folder `path`; what a folder lacks is empty."""
    rows = history(path / "history.csv")
    return Facts(
        path.absolute().parent.name,
        path.absolute().name,
        str(path),
        config,
        best,
        rows,
        settings(path / "config.yaml", config),
        environment(path / "environment.json"),
        _written(path / "checkpoints" / "best" / "state.json"),
        sum(row.get("seconds") or 0 for row in rows),
    )


def history(path: Path) -> list[Row]:
    """The rows of history.csv."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def settings(path: Path, config: Config) -> dict[str, list[Setting]]:
    """The config's values by section, with the origins that config.yaml has as comments."""
    origins = _origins(path.read_text(encoding="utf-8"))
    found: dict[str, list[Setting]] = {}
    for name, value in config.model_dump(mode="json").items():
        section = name if isinstance(value, dict) else "run"
        values = value if isinstance(value, dict) else {name: value}
        for key, inner in values.items():
            dotted = f"{name}.{key}" if isinstance(value, dict) else name
            setting = Setting(dotted, configs.inline(inner), origins.get(dotted, ""))
            found.setdefault(section, []).append(setting)
    return found


def _origins(text: str) -> dict[str, str]:
    """The comment behind each value of a dumped config, by dotted key."""
    section, origins = "", {}
    for line in text.splitlines():
        if re.fullmatch(r"\w+:", line):
            section = line[:-1]
        parts = re.fullmatch(r"( *)([^\s:]+): .*  # (.*)", line)
        if parts:
            indent, key, origin = parts.groups()
            origins[f"{section}.{key}" if indent else key] = origin
    return origins


def environment(path: Path) -> list[tuple[str, str]]:
    """The entries of environment.json as text; of a checksum its beginning tells enough."""
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [(key.replace("_", " "), _text(key, value)) for key, value in entries.items()]


def _text(key: str, value: Any) -> str:
    if key == "command":
        return shlex.join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}: {str(v)[:16]}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _written(path: Path) -> str:
    if not path.exists():
        return ""
    moment = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
