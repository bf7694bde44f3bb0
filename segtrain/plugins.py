"""Models and datasets by name: the module of that name, and the options its ``build`` takes."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
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


def settings(build: Callable) -> type[BaseModel]:
    """The keyword-only parameters of `build` as a section, with their defaults and their help.

    A parameter's help is what the docstring says after its name: ``widths: channels per stream;
    units: convolutions in each.`` Where that is ``as in `folder```, it is folder's.
    """
    hints = get_type_hints(build, include_extras=True)
    given = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    helps = _helps(build, [p.name for p in given])
    fields: dict[str, Any] = {
        p.name: (
            hints[p.name],
            Field(... if p.default is p.empty else p.default, description=helps.get(p.name)),
        )
        for p in given
    }
    return create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)


def _helps(build: Callable, names: list[str]) -> dict[str, str]:
    """What the docstring says of each name, up to the end of the sentence."""
    text = " ".join((build.__doc__ or "").split())
    name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    marks = list(re.finditer(rf"(?:^|(?<=[.;] ))((?:{name})(?:, (?:{name}))*): ", text)) if names else []
    helps = {}
    for mark, following in zip(marks, [*marks[1:], None]):
        said = text[mark.end() : following.start() if following else None]
        said = re.split(r"\. (?=[A-Z])", said)[0].strip(" ;.")
        for each in mark.group(1).split(", "):
            helps[each] = _of_another(build, each, said)
    return helps


def _of_another(build: Callable, name: str, said: str) -> str:
    reference = re.fullmatch(r"as in `(\w+)`", said)
    if not reference:
        return said
    other = importlib.import_module(f"{build.__module__.rpartition('.')[0]}.{reference.group(1)}")
    return settings(other.build).model_fields[name].description or ""


def options(
    build: Callable, values: dict[str, Any], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """`values` checked and converted by the keyword-only parameters of `build`, defaults added.

    UserError names `where` (the config's section), the key, and what it should be; a key that
    is unknown might have been meant for one of `also`, the section's own.
    """
    model = settings(build)
    known = model.model_fields
    for key in values:
        if key not in known:
            raise UserError(f"{where}.{key}: no such option; {nearest(key, [*known, *also])}")
    try:
        checked = model(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None
    return {name: getattr(checked, name) for name in known}


_WORDS = {"model_type": "a section is keys with values"}  # of pydantic, which speaks of its classes


def explain(error: ValidationError, where: str = "") -> str:
    """A pydantic error as one line: each wrong key and what it should be."""
    lines = []
    for e in error.errors():
        key = ".".join([where, *map(str, e["loc"])]).strip(".")
        if e["type"] == "missing":
            on_the_command_line = "" if " " in key else f" or as {key}=..."
            lines.append(f"{key} is missing: set it in the config{on_the_command_line}")
        else:
            message = _WORDS.get(e["type"]) or e["msg"].replace("Value error, ", "")
            whole = e["type"] == "value_error" and isinstance(e["input"], dict)  # it names its keys
            value = f"{key}={e['input']!r}: " if e["loc"] and not whole else ""
            lines.append(f"{value}{message[0].lower()}{message[1:]}")
    return "; ".join(lines)
