"""The config's JSON Schema: what an editor needs to complete and check a YAML file as it is typed."""

from __future__ import annotations

from typing import Any, Dict

from segtrain import plugins
from segtrain.config import Config
from segtrain.losses import known_losses

PLUGINS = {"model": "models", "data": "data"}  # section: the folder of what its `name` names


def schema() -> Dict[str, Any]:
    """The schema (draft 7, which editors know best) of a config file, with every setting's help.

    The options of a model, a dataset or a loss are those of the one that is named; where a file leaves
    the name to its base, any option will do. Nothing is required, since a base or the command
    line may have it.
    """
    whole = _plain(Config)
    for node in whole["properties"].values():
        if "properties" in node:
            node.pop("default", None)  # an editor would write it all out
    for section, kind in PLUGINS.items():
        _add_options(whole["properties"][section], kind)
    _add_losses(whole["properties"]["train"]["properties"]["loss"])
    base = {"type": "string", "description": "another config, relative to this one, to differ from"}
    whole["properties"] = {"base": base, **whole["properties"]}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "segtrain config", **whole}


def of_options(kind: str, name: str) -> Dict[str, Dict[str, Any]]:
    """The schema of each option of a model or a dataset."""
    return _plain(plugins.settings(plugins.find(kind, name).build))["properties"]


def of_config() -> Dict[str, Dict[str, Any]]:
    """The schema of each section, and of each key that is in none; without plugins' options."""
    return _plain(Config)["properties"]


def _add_options(section: Dict[str, Any], kind: str) -> None:
    names = plugins.names(kind)
    own = section["properties"]
    own["name"] = {
        **own["name"],
        "enum": names,
        "enumDescriptions": [_first_sentence(plugins.find(kind, name).__doc__) for name in names],
    }
    section["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "then": {
                "properties": {**dict.fromkeys(own, True), **of_options(kind, name)},
                "additionalProperties": False,
            },
        }
        for name in names
    ]


def _add_losses(node: Dict[str, Any]) -> None:
    weight = {"type": "number", "minimum": 0}
    node["properties"] = {
        name: {
            "description": _first_sentence(loss.__doc__),
            "anyOf": [
                weight,
                {
                    "type": "object",
                    "properties": {
                        "weight": {**weight, "default": 1, "description": "in the sum of the losses"},
                        **_plain(plugins.settings(loss)).get("properties", {}),
                    },
                    "additionalProperties": False,
                },
            ],
        }
        for name, loss in known_losses().items()
    }
    node["additionalProperties"] = False


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _plain(model: type) -> Dict[str, Any]:
    """Pydantic's schema of a model without references and titles, as draft 7 has it."""
    whole = model.model_json_schema()  # type: ignore[attr-defined]
    return _inlined(whole, whole.pop("$defs", {}))


def _inlined(node: Any, definitions: Dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if len(node.get("allOf", ())) == 1:  # how pydantic before 2.10 writes a reference with a default
        node = {**node.pop("allOf")[0], **node}
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    found: Dict[str, Any] = {}
    for key, value in node.items():
        if key == "default" or key == "enum":
            found[key] = value
        elif key == "properties":
            found[key] = {name: _inlined(each, definitions) for name, each in value.items()}
        elif key == "prefixItems":
            found["items"] = _inlined(value, definitions)
        elif key != "$ref" and not (key == "title" and isinstance(value, str)):
            found[key] = _inlined(value, definitions)
    return found
