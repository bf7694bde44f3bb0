"""The networks of a bundle in the runtimes that can run them: MXNet, ONNX Runtime, OpenVINO.

It lies beside the infer.py of every bundle, and needs mxnet and numpy alone for MXNet's formats.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, Callable, Iterable

import numpy as np

SCHEMA = 2
RUNTIMES = ("mxnet", "onnxruntime", "openvino", "openvino-bf16")


class BundleError(ValueError):
    """A bundle that can't be used, or not like that; its text says which and why."""


def load(
    bundle: Path, context: Any, name: str | None = None, runtime: str | None = None
) -> tuple[Callable, dict]:
    """A bundle's network, MXNet array to MXNet array, and its ``model.json``.

    name: of a format, "mxnet" by default; runtime: one of `RUNTIMES`, by default the format's
    first. BundleError where a file isn't the one that was exported, or they don't go together.
    """
    about = describe(bundle)
    name, runtime = chosen(bundle, about, name, runtime)
    entry = about["formats"][name]
    verify(bundle, about, entry["files"])
    if entry.get("device") == "gpu" and context.device_type == "cpu":
        raise BundleError(f"the format {name} runs on a GPU alone: MXNet has no CPU kernels for it")
    files = [bundle / file for file in entry["files"]]
    if runtime == "mxnet":
        return _mxnet(files[0], files[1], context), about
    run = (_onnxruntime if runtime == "onnxruntime" else _openvino)(files[0], runtime)
    return _between(run, entry["dtype"]), about


def describe(bundle: Path) -> dict:
    """A bundle's ``model.json``; BundleError where it is of another schema than this one's."""
    about = _document(bundle / "model.json")
    if about["schema"] != SCHEMA:
        raise BundleError(
            f"{bundle} has the schema {about['schema']}, and {SCHEMA} is wanted: export the run again"
        )
    return about


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise BundleError(f"{path} is damaged: it is nested too deeply") from None


def chosen(bundle: Path, about: dict, name: str | None, runtime: str | None) -> tuple[str, str]:
    """The format and the runtime that are meant; BundleError where the bundle hasn't these."""
    formats = about["formats"]
    if name is None:
        fitting = [n for n, entry in formats.items() if runtime in (None, *entry["runtimes"])]
        if not fitting:
            raise BundleError(f"{bundle} holds nothing for {runtime}: export it with --format onnx")
        name = fitting[0]
    if name not in formats:
        raise BundleError(f"{bundle} has no format {name}; it has {', '.join(formats)}")
    known = formats[name]["runtimes"]
    if runtime is not None and runtime not in known:
        raise BundleError(f"the format {name} runs in {', '.join(known)}, not in {runtime}")
    return name, runtime or known[0]


def verify(bundle: Path, about: dict, files: Iterable[str]) -> None:
    """BundleError where one of these files isn't the one that ``model.json`` has the checksum of.

    Or where it isn't in the bundle's own folder.
    """
    for file in files:
        if Path(file).name != file or (bundle / file).is_symlink():
            raise BundleError(
                f"{bundle}: model.json names {file}, which is not a file of the bundle's own"
            )
        if about["sha256"].get(file) != checksum(bundle / file):
            raise BundleError(f"{bundle / file} is damaged or was changed: its checksum is another one")


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            found.update(part)
    return found.hexdigest()


_FOREIGN = ("Custom", "Native", "NDArray", "CachedOp", "imread")
"""Parts of the names of MXNet's operators that run what isn't in the symbol, or read a file."""


def operators(graph: dict) -> set[str]:
    """The operators of a symbol's JSON, those inside others included."""
    nodes = graph["nodes"]
    inner = [operators(part) for node in nodes for part in node.get("subgraphs", [])]
    return {str(node["op"]) for node in nodes}.union(*inner)


def _mxnet(symbol: Path, parameters: Path, context: Any) -> Callable:
    import mxnet as mx

    for operator in sorted(operators(_document(symbol))):
        if any(part in operator for part in _FOREIGN):
            raise BundleError(f"{symbol}: the operator {operator!r} runs foreign code: don't use it")
    with warnings.catch_warnings():  # of types that MXNet infers at the first call anyway
        warnings.simplefilter("ignore", UserWarning)
        net = mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(parameters), ctx=context)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def _between(run: Callable[[np.ndarray], np.ndarray], dtype: str) -> Callable:
    """A function of numpy arrays as one of MXNet's."""
    import mxnet as mx

    return lambda x: mx.nd.array(run(x.asnumpy().astype(dtype, copy=False)), ctx=x.context)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or 0)


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _onnxruntime(file: Path, runtime: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        import onnxruntime
    except ImportError:
        raise BundleError("ONNX Runtime isn't installed: pip install 'segtrain[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise BundleError(f"ONNX Runtime can't run {file}: {_text(error)}") from None
    return lambda x: session.run(None, {"data": x})[0]


def _openvino(file: Path, runtime: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        import openvino
    except ImportError:
        raise BundleError("OpenVINO isn't installed: pip install 'segtrain[openvino]'") from None
    precision = "bf16" if runtime.endswith("bf16") else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if _threads():
        options["INFERENCE_NUM_THREADS"] = str(_threads())
    try:
        model = openvino.Core().compile_model(str(file), "CPU", options)
    except RuntimeError as error:
        raise BundleError(f"OpenVINO can't run {file}: {_text(error)}") from None
    request = model.create_infer_request()
    return lambda x: request.infer({0: x})[model.output(0)]
