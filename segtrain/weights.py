"""Weights from elsewhere: a .params file, or GluonCV's hub, set by name and never in part."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List, Mapping

import mxnet as mx
from mxnet.gluon import Parameter

from segtrain.errors import UserError


def pretrained(name: str) -> Path:
    """GluonCV's file of the classifier `name`, from its cache or its hub; UserError without both."""
    from gluoncv.model_zoo.model_store import get_model_file, pretrained_model_list

    if name not in pretrained_model_list():
        raise UserError(
            f"model.encoder_params=pretrained: GluonCV has no weights of {name}; "
            "give a .params file, or leave it out"
        )
    try:
        with open(os.devnull, "w") as sink, redirect_stdout(sink):
            return Path(get_model_file(name, tag=True))
    except Exception as error:  # requests', OSError, ValueError: all mean that it isn't here
        raise UserError(
            f"model.encoder_params=pretrained: {name} can't be downloaded "
            f"({type(error).__name__}); give a .params file that was downloaded elsewhere"
        ) from None


def load(parameters: Mapping[str, Parameter], file: Path) -> str:
    """Set parameters from a file by GluonCV's names or an export's; says what was loaded.

    UserError, and nothing set, where one is missing or has another shape.
    """
    arrays = _by_our_names(parameters, _read(file))
    missing = [name for name in parameters if name not in arrays]
    skipped = [name for name in arrays if name not in parameters]
    differing = [
        f"{name} is {arrays[name].shape} and should be {parameter.shape}"
        for name, parameter in parameters.items()
        if name in arrays and arrays[name].shape != parameter.shape
    ]
    loaded = len(parameters) - len(missing) - len(differing)
    told = f"{loaded} of {len(parameters)} loaded from {file}"
    told += f"; skipped {_some(skipped)}" if skipped else ""
    if missing or differing:
        told = told.replace("loaded", "would be loaded", 1)
        told += f"; missing {_some(missing)}" if missing else ""
        told += f"; {_some(differing)}" if differing else ""
        raise UserError(f"model.encoder_params: the file doesn't fit the encoder: {told}")
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name])
    return told


def load_fitting(parameters: Mapping[str, Parameter], file: Path) -> str:
    """Set those parameters that the file has, of the same shape; says which keep what they had.

    UserError, and nothing set, where that is less than half of them.
    """
    arrays = _read(file, "model.weights")
    fitting = [
        name for name, p in parameters.items() if name in arrays and arrays[name].shape == p.shape
    ]
    others = [name for name in parameters if name not in fitting]
    told = f"{len(fitting)} of {len(parameters)} parameters from {file}"
    if 2 * len(fitting) < len(parameters):
        raise UserError(
            f"model.weights: only {told} would fit: it is of another network (missing, or of another "
            f"shape: {_some(others)})"
        )
    for name in fitting:
        parameters[name].set_data(arrays[name])
    return told + (f"; new, for none there fits: {_some(others)}" if others else "")


def _read(file: Path, key: str = "model.encoder_params") -> Dict[str, mx.nd.NDArray]:
    try:
        arrays = mx.nd.load_frombuffer(file.read_bytes())
    except OSError as error:
        raise UserError(f"{key}: {file}: {error.strerror}") from None
    except mx.MXNetError:
        arrays = None
    if not isinstance(arrays, dict):
        raise UserError(f"{key}: {file} is no .params file with names, or damaged")
    return {name.replace("arg:", "").replace("aux:", ""): array for name, array in arrays.items()}


def _by_our_names(
    parameters: Mapping[str, Parameter], arrays: Dict[str, mx.nd.NDArray]
) -> Dict[str, mx.nd.NDArray]:
    """The arrays by our names, where the file has the other ones, with a prefix of its own."""
    if any(name in parameters for name in arrays):
        return arrays
    ours = {name: parameter.name for name, parameter in parameters.items()}
    own, theirs = (len(os.path.commonprefix(list(names))) for names in (ours.values(), arrays))
    by_rest = {name[theirs:]: name for name in arrays}
    found = {name: by_rest[full[own:]] for name, full in ours.items() if full[own:] in by_rest}
    rest = {name: name for name in arrays if name not in found.values()}
    return {name: arrays[key] for name, key in {**found, **rest}.items()}


def _some(names: List[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
