"""Models and datasets by name: the module of that name, and the options its ``build`` takes."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterable

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from typing_extensions import get_type_hints

from segtrain.errors import UserError, nearest


def names(kind: str) -> list[str]:
    """The names there are of a kind, 'models' or 'data': its modules that have a ``build``."""
    folder = Path(__file__).parent / kind
    return sorted(f.stem for f in folder.glob("*.py") if "\ndef build(" in f.read_text("utf-8"))


def find(kind: str, name: str) -> ModuleType:
    """The module ``segtrain.{kind}.{name}``; UserError with the nearest names if there is none."""
    known = names(kind)
    if name not in known:
        raise UserError(f"{kind}: no {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"segtrain.{kind}.{name}")


def options(
    build: Callable, values: dict[str, Any], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """`values` checked and converted by the keyword-only parameters of `build`, defaults added.

    UserError names `where` (the config's section), the key, and what it should be; a key that
    is unknown might have been meant for one of `also`, the section's own.
    """
    hints = get_type_hints(build, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(build).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }
    for key in values:
        if key not in fields:
            raise UserError(f"{where}.{key}: no such option; {nearest(key, [*fields, *also])}")
    model: type[BaseModel] = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        checked = model(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None
    return {name: getattr(checked, name) for name in fields}


def explain(error: ValidationError, where: str = "") -> str:
    """A pydantic error as one line: each wrong key and what it should be."""
    lines = []
    for e in error.errors():
        key = ".".join([where, *map(str, e["loc"])]).strip(".")
        if e["type"] == "missing":
            on_the_command_line = "" if " " in key else f" or as {key}=..."
            lines.append(f"{key} is missing: set it in the config{on_the_command_line}")
        else:
            message = e["msg"].replace("Value error, ", "")
            value = f"{key}={e['input']!r}: " if e["loc"] else ""
            lines.append(f"{value}{message[0].lower()}{message[1:]}")
    return "; ".join(lines)
