"""The settings of a config, one by one: value, origin, default, type, range and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from segtrain import config as configs
from segtrain import schema
from segtrain.config import Config
from segtrain.errors import UserError, nearest


class Setting(NamedTuple):
    """One setting of a config; `value` and `default` as JSON has them."""

    key: str
    value: Any
    origin: str  # a file, an override, 'default', or 'not set'
    default: Any  # None, too, where `required`
    required: bool
    type: str
    range: str
    help: str


def load(path: Path, overrides: List[str] = []) -> Config:
    """The config of a YAML file or of a run folder, whose comments tell where it had it from."""
    if not path.is_dir():
        return configs.load(path, overrides)
    file = path / "config.yaml"
    if not file.is_file():
        raise UserError(f"{path} isn't a run folder: it has no config.yaml; give one, or a YAML file")
    config = configs.load(file, overrides)
    for key, said in _comments(file).items():
        if config.origin(key) == str(file):
            config._origins[key] = said if said == "default" else f"{file} ({said})"
    return config


def settings(config: Config) -> Dict[str, Setting]:
    """All settings that the config has or could have, with its model and its dataset, by dotted key."""
    values, usual = config.model_dump(mode="json"), _usual(config)
    found: Dict[str, Setting] = {}
    for section, whole in schema.of_config().items():
        value = values[section]
        if "properties" not in whole:
            found[section] = _setting(section, whole, value, config.origin(section), usual[section])
            continue
        nodes = whole["properties"]
        if section in schema.PLUGINS:
            nodes = {**nodes, **schema.of_options(schema.PLUGINS[section], value["name"])}
        for name, node in nodes.items():
            key = f"{section}.{name}"
            default = usual[section].get(name, node.get("default"))
            missing = name not in value and "default" not in node
            origin = "not set" if missing else config.origin(key)
            found[key] = _setting(key, node, value.get(name, default), origin, default)
    return found


def explain(config: Config, key: str) -> List[Setting]:
    """The setting of a dotted key, or all those of a section; UserError names the nearest keys."""
    known = settings(config)
    found = [s for k, s in known.items() if k == key or k.startswith(f"{key}.")]
    if found:
        return found
    owner = next((s for k, s in known.items() if key.startswith(f"{k}.")), None)
    if owner is None:
        sections = {k.partition(".")[0] for k in known}
        raise UserError(f"no key {key}; {nearest(key, known if '.' in key else [*known, *sections])}")
    value, default, kind = owner.value, owner.default, owner.type
    for part in key[len(owner.key) + 1 :].split("."):
        inner = {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}
        if part not in inner:
            raise UserError(f"{owner.key} has no {part}; {nearest(part, inner)}")
        value = inner[part]
        default = default.get(part) if isinstance(default, dict) else None
        kind = kind.partition("mapping to ")[2]
    return [owner._replace(key=key, value=value, default=default, type=kind)]


def difference(a: Config, b: Config) -> List[Dict[str, Any]]:
    """The settings in which two configs differ, written out or not: key, a, b and their origins.

    A setting that only one of them has, such as an option of its model, has no 'b' or no 'a'.
    """
    both = {"a": settings(a), "b": settings(b)}
    keys = list(dict.fromkeys([*both["a"], *both["b"]]))
    rows = []
    for key in keys:
        row: Dict[str, Any] = {"key": key}
        for side, known in both.items():
            if key in known:
                row[side], row[f"{side}_origin"] = known[key].value, known[key].origin
        if "a" not in row or "b" not in row or row["a"] != row["b"]:
            rows.append(row)
    return rows


def _usual(config: Config) -> Dict[str, Any]:
    """The values that the config would have if it named its model and dataset alone."""
    named = {"model": {"name": config.model.name, "dim": config.model.dim}}
    return configs.parse({**named, "data": {"name": config.data.name}}).model_dump(mode="json")


def _setting(key: str, node: Dict[str, Any], value: Any, origin: str, default: Any) -> Setting:
    words = _type(node), _range(node), node.get("description", "")
    return Setting(key, value, origin, default, "default" not in node, *words)


def _type(node: Dict[str, Any]) -> str:
    """A type in words: integer, list of numbers, one of a, b or null."""
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return " or ".join(_type(each) for each in choices)
    kind = node.get("type")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        items = node.get("items", {})
        if isinstance(items, list):
            return f"list of {len(items)}: {', '.join(_type(each) for each in items)}"
        return f"list of {_PLURALS.get(_type(items), _type(items))}" if items else "list"
    if kind == "object":
        inner = node.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    return {"string": "text", "boolean": "true or false", None: "anything"}.get(kind, str(kind))


_PLURALS = {"integer": "integers", "number": "numbers", "text": "texts"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _range(node: Dict[str, Any]) -> str:
    """The bounds of a number, or of each number in a list: >= 0, < 1."""
    inner = [node, *node.get("anyOf", ()), node.get("items"), node.get("additionalProperties")]
    dicts = [each for each in inner if isinstance(each, dict)]
    bounds = [f"{sign} {each[key]:g}" for each in dicts for key, sign in _BOUNDS.items() if key in each]
    return ", ".join(dict.fromkeys(bounds))


def _comments(file: Path) -> Dict[str, str]:
    """The comment of each key in a run's config.yaml, which has one key a line."""
    found: Dict[str, str] = {}
    section: Optional[str] = None
    for line in file.read_text(encoding="utf-8").splitlines():
        text, mark, comment = line.rpartition("  # ")
        key = (text if mark else line).partition(":")[0]
        section = section if key.startswith(" ") else key
        if mark:
            found[f"{section}.{key.strip()}" if key.startswith(" ") else key] = comment
    return found
