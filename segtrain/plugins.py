"""Models, datasets and more by name: segtrain's modules, and functions of the user's own.

A file of one's own imports the decorators from here, and `--plugins FILE.py` runs it. A config names
what such a file brings, and never the file: to read a stranger's config runs no code of theirs.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterable, Mapping, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typing_extensions import get_type_hints

from segtrain.errors import UserError, nearest, one_line

VARIABLE = "SEGTRAIN_PLUGINS"  # files and modules, with os.pathsep or line ends between them
_own: dict[str, dict[str, Callable]] = {
    kind: {} for kind in ("models", "data", "measures", "losses", "augmentations")
}
Function = TypeVar("Function", bound=Callable)


# ---- of the user's own


def model(build: Function) -> Function:
    """Make ``build(classes, blocks, *, OPTIONS)`` the network of its name, for ``model.name``.

    It returns a block from (N, C, H, W), or (N, C, L), to class scores of that size. The type hint of
    an option is what a config may say, and the docstring may hold its help: ``widths: channels.``
    """
    return _register("models", build, "classes", "blocks")


def dataset(build: Function) -> Function:
    """Make ``build(split, *, OPTIONS)`` the dataset of its name, for ``data.name``.

    It returns a `segtrain.data.dataset.Dataset`.
    """
    return _register("data", build, "split")


def measure(build: Function) -> Function:
    """Make ``build(classes, ignore)`` the measure of its name: a `segtrain.measures.Measure`."""
    return _register("measures", build, "classes", "ignore")


def augmentation(function: Function) -> Function:
    """Make ``function(rng, image, ARGUMENTS)`` an augmentation, as those of segtrain/data/augment.py.

    What follows `rng` says what it changes: image, sample, others, crop, whole; a signal; or nothing
    where it returns a map. All that is random comes from `rng`.
    """
    return _register("augmentations", function, "rng")


def loss(function: Function) -> Function:
    """Make ``function(share, *, OPTIONS)`` a loss: the sum over a `segtrain.losses.functions.Share`.

    It is divided by the number of pixels that count, each by the weight of its class.
    """
    return _register("losses", function, "share")


def loss_per_image(function: Function) -> Function:
    """As `loss`, of a sum over images, which is divided by their number."""
    function.per_image = True  # type: ignore[attr-defined]
    return loss(function)


def use_known() -> None:
    """Use what the environment variable SEGTRAIN_PLUGINS names, as a process's children do."""
    for name in known():
        use(name)


def known() -> list[str]:
    """The files and modules in use, as SEGTRAIN_PLUGINS names them for processes begun from here."""
    value = os.environ.get(VARIABLE, "")
    return [name for name in value.split("\n" if "\n" in value else os.pathsep) if name]


def use(name: str) -> None:
    """Run a file, or import a module, that registers plug-ins; UserError where that fails."""
    is_file = name.endswith(".py")
    path = Path(name).absolute()
    if is_file and not path.is_file():
        raise UserError(f"--plugins {name}: there is no such file")
    if not is_file and not _is_module(name):
        raise UserError(f"--plugins {name}: no file FILE.py, and no module that is installed here")
    if is_file and str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # loader processes are told of it
    try:
        module = importlib.import_module(path.stem if is_file else name)
    except UserError:
        raise
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{line.filename}:{line.lineno}: " if not isinstance(error, SyntaxError) else ""
        text = one_line(error, 300)
        raise UserError(f"--plugins {name}: {place}{type(error).__name__}: {text}") from error
    found = Path(getattr(module, "__file__", None) or name)
    if is_file and found.resolve() != path.resolve():
        raise UserError(
            f"--plugins {name}: Python has another module of that name, {found}: rename the file"
        )
    names = dict.fromkeys([*known(), str(path) if is_file else name])
    between = "\n" if any(os.pathsep in each for each in names) else os.pathsep
    os.environ[VARIABLE] = between.join([*names, ""])


def _is_module(name: str) -> bool:
    """Whether there is a module of that name, sound or not."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a package above it isn't there; or no name at all
        return False
    except Exception:  # of a package above it: its import tells
        return True


def sources(*kinds: str) -> dict[str, str]:
    """The files that plug-ins (of these kinds) came from, each with its SHA-256."""
    functions = [function for kind in kinds or _own for function in _own[kind].values()]
    files = {Path(function.__code__.co_filename) for function in functions}
    return {str(f): sha256(f.read_bytes()).hexdigest() for f in sorted(files) if f.is_file()}


def with_own(kind: str, known: Mapping[str, Callable]) -> dict[str, Callable]:
    """What segtrain has of a kind, by name, and the user's own; UserError for a name in both."""
    own = _own.get(kind, {})
    for name in own.keys() & known.keys():
        raise UserError(f"{_place(own[name])}: {name} is one of segtrain's {kind}: call yours otherwise")
    return {**known, **own}


def missing(where: str, name: str, known: Iterable[str]) -> UserError:
    """The error of a name that nothing has."""
    hint = "one of your own comes with --plugins FILE.py"
    return UserError(f"{where}: no {name!r}; {nearest(name, known)} ({hint})")


def _register(kind: str, function: Function, *begins: str) -> Function:
    name, place = function.__name__, _place(function)
    if [*inspect.signature(function).parameters][: len(begins)] != list(begins):
        raise UserError(f"{place}: {name}'s parameters must begin with {', '.join(begins)}")
    other = _own[kind].get(name, function)
    if other.__code__.co_filename != function.__code__.co_filename:
        raise UserError(f"{place}: there is another {name} in {_place(other)}: call one otherwise")
    _own[kind][name] = function
    return function


def _place(function: Callable) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


# ---- by name


def names(kind: str) -> list[str]:
    """The names there are of a kind, like 'models': modules that have a ``build``, and the user's."""
    return sorted(with_own(kind, dict.fromkeys(_modules(kind), find)))


def _modules(kind: str) -> list[str]:
    folder = Path(__file__).parent / kind
    return [f.stem for f in folder.glob("*.py") if "\ndef build(" in f.read_text("utf-8")]


def find(kind: str, name: str) -> Any:
    """The module ``segtrain.{kind}.{name}``, or what stands for the user's own: it has a ``build``.

    UserError with the nearest names if there is none.
    """
    known = names(kind)
    if name not in known:
        raise missing(kind, name, known)
    if name in _own.get(kind, {}):
        build = _own[kind][name]
        return SimpleNamespace(build=build, __doc__=build.__doc__)
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
    build: Callable, values: dict[str, Any], where: str, also: Iterable[str] = (), name: str = ""
) -> dict[str, Any]:
    """`values` checked and converted by the keyword-only parameters of `build`, defaults added.

    UserError names `where` (the config's section), the key, and what it should be; a key that
    is unknown might have been meant for one of `also`, the section's own, or for another `name`.
    """
    model = settings(build)
    known = model.model_fields
    for key in values:
        if key not in known:
            whose = f"{name} has " if name else ""
            raise UserError(f"{where}.{key}: {whose}no such option; {nearest(key, [*known, *also])}")
    try:
        checked = model(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None
    return {name: getattr(checked, name) for name in known}


_WORDS = {  # of pydantic, which speaks of Python's types
    "model_type": "a section is keys with values",
    "tuple_type": "a list is wanted, like [256, 256]",
    "list_type": "a list is wanted, like [a, b]",
    "dict_type": "keys with values are wanted, like {a: 1}",
    "int_parsing": "a whole number is wanted",
    "int_type": "a whole number is wanted",
    "float_parsing": "a number is wanted",
    "float_type": "a number is wanted",
}
_BRANCH = re.compile(r"[a-z-]+\[.*\]|constrained-\w+|int|float|str|bool")  # of a union, in a key's place


def explain(error: ValidationError, where: str = "") -> str:
    """A pydantic error as one line: each wrong key and what it should be."""
    lines = []
    for e in error.errors():
        place = [str(part) for part in e["loc"]]
        if place and _BRANCH.fullmatch(place[-1]):
            place.pop()
        key = ".".join([where, *place]).strip(".")
        if e["type"] == "missing":
            on_the_command_line = "" if " " in key else f" or as {key}=..."
            lines.append(f"{key} is missing: set it in the config{on_the_command_line}")
        else:
            message = _WORDS.get(e["type"]) or e["msg"].replace("Value error, ", "")
            whole = e["type"] == "value_error" and isinstance(e["input"], dict)  # it names its keys
            value = f"{key}={e['input']!r}: " if e["loc"] and not whole else ""
            lines.append(f"{value}{message[0].lower()}{message[1:]}")
    return "; ".join(lines)
