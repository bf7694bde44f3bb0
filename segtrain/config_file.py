"""A config's YAML file, on top of the one it names as its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Sequence, Tuple

import yaml

from segtrain.errors import UserError


def read(
    path: Path, sections: Sequence[str], origins: Dict[str, str], seen: Tuple[Path, ...] = ()
) -> Dict[str, Any]:
    """The values of a file on top of its base's.

    sections: the top keys that hold mappings, of which an empty one says nothing; origins: learns
    which file gave which key; seen: the files that lead here. UserError for a missing or
    unreadable file, and for a key that stands twice.
    """
    if path.resolve() in seen:
        raise UserError(f"{path}: 'base' leads back to this file")
    # A section whose keys are all commented out is None.
    values = {k: v for k, v in _parsed(path).items() if v is not None or k not in sections}
    base = values.pop("base", None)
    if base is not None:
        below = read(path.parent / str(base), sections, origins, (*seen, path.resolve()))
    for section, value in values.items():
        keys = [f"{section}.{key}" for key in value] if isinstance(value, dict) else [str(section)]
        origins.update(dict.fromkeys(keys, str(path)))
    return values if base is None else _merge(below, values)


class Placed(Dict[Any, Any]):
    """A mapping of a config that knows its place, FILE:LINE."""

    place = ""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, whose mappings are `Placed`."""

    def placed(self, node: yaml.MappingNode) -> Iterator[Placed]:
        mapping = Placed()
        mapping.place = f"{self.name}:{node.start_mark.line + 1}"
        self._check_keys(node)
        yield mapping
        mapping.update(self.construct_mapping(node))

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """UserError for a key that stands twice: YAML would drop the first value without a word."""
        lines: Dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise UserError(
                    f"{self.name}:{line}: {key.value} is in line {lines[key.value]} already: "
                    "put all of it into one place"
                )
            lines[str(key.value)] = line


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Loader.placed)


def _parsed(path: Path) -> Dict[str, Any]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.name = str(path)
        values = loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f"no config {path}: give the path of a YAML file") from None
    except IsADirectoryError:
        cure = f"segtrain init {path} --out {path.absolute().name}.yaml makes one for images in it"
        if (path / "config.yaml").is_file():
            cure = f"the run's is {path / 'config.yaml'}"
        raise UserError(f"{path} is a folder, and a config is wanted: {cure}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the config {path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config is a mapping with keys like model, data and train")
    return values


def _merge(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    both = {k: _merge(base[k], v) for k, v in over.items() if _are_dicts(base.get(k), v)}
    return {**base, **over, **both}


def _are_dicts(a: Any, b: Any) -> bool:
    return isinstance(a, dict) and isinstance(b, dict)
