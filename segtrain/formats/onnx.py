"""ONNX by MXNet's own exporter, of a symbol rewritten into the operators that it takes rightly."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Sequence

from segtrain.errors import SegtrainError, UserError, one_line

if TYPE_CHECKING:  # the check of a bundle loads no framework
    from segtrain.export.network import Source

BAR = "the same class at 99.99% of the pixels"
RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")
OPSET, IR = 13, 7  # of the newest converters that MXNet 1.9.1 has
_DOMAINS = ("", "ai.onnx")


def passed(found: Dict[str, Any]) -> bool:
    """Whether a comparison with the run is good enough."""
    return found["equal_argmax"] >= 0.9999


def build(source: Source, folder: Path) -> Dict[str, Any]:
    """model.onnx: `data` of any batch, height and width in, `scores` out.

    UserError names what MXNet's exporter can't take.
    """
    from segtrain.export import network, portable

    onnx = _onnx()
    given = portable.rewritten(source.network, source.shape)
    model = _converted(onnx, given, source)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    about = {"dtype": source.dtype, "opset": OPSET}
    return network.entry(folder, ["model.onnx"], RUNTIMES, **about)


def check(folder: Path, files: Sequence[str]) -> None:
    """SegtrainError for a file that isn't one plain model of ONNX's own operators."""
    onnx = _onnx()
    path = folder / files[0]
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError, and more
        text = one_line(error, 150)
        raise SegtrainError(f"{path} is damaged: it is no ONNX model ({text})") from None
    parts = list(_parts(model))
    nodes = [part for part in parts if isinstance(part, onnx.NodeProto)]
    opsets = [part for part in parts if isinstance(part, onnx.OperatorSetIdProto)]
    if len(files) != 1 or model.functions or any(part.domain not in _DOMAINS for part in nodes + opsets):
        raise SegtrainError(f"{path} has operators that aren't ONNX's own: don't use this bundle")
    tensors = [part for part in parts if isinstance(part, onnx.TensorProto)]
    if any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise SegtrainError(f"{path} reads other files: don't use this bundle")


def _parts(message: Any) -> Iterator[Any]:
    """All messages inside one of protobuf's, however deep: graphs in attributes of nodes, and theirs."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.label == field.LABEL_REPEATED else [value]:
                yield part
                yield from _parts(part)


def _onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401  # what the proof runs in
    except ImportError as error:
        raise UserError(f"ONNX files need {error.name}: pip install 'segtrain[onnx]'") from None
    return onnx


def _converted(onnx: Any, given: Any, source: Source) -> Any:
    """MXNet's conversion, stamped with what it is; UserError where it fails."""
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    from segtrain.export import portable

    missing = sorted(portable.operators(given.symbol) - _taken(MXNetGraph))
    if missing:
        raise UserError(f"--format onnx: MXNet's exporter doesn't take {', '.join(missing)}")
    kind = onnx.TensorProto.UINT8 if source.dtype == "uint8" else onnx.TensorProto.FLOAT
    free = ("N", source.shape[1], *("H", "W", "L")[len(source.shape) % 2 * 2 :][: len(source.shape) - 2])
    fixed = source.trained.side is not None
    shape = ("N", *source.shape[1:]) if fixed else free
    arrays = portable.loaded(given.arrays)
    with _opset(onnx), _quiet(), _as_bytes(onnx, MXNetGraph.registry_[12]):
        try:
            graph = MXNetGraph().create_onnx_graph_proto(
                given.symbol, arrays, [source.shape], [kind], opset_version=OPSET,
                dynamic=True, dynamic_input_shapes=[shape],
            )  # fmt: skip
        except Exception as error:  # whatever the converters raise: AttributeError, ValidationError, ...
            text = one_line(error)
            raise UserError(f"--format onnx: MXNet's exporter can't take this network: {text}") from None
    _align(graph, portable.unaligned(given.symbol))
    _finish(graph, given.symbol.infer_shape(data=source.shape)[1][0][1])
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="segtrain")


def _taken(converters: Any) -> set:
    """The operators that there are converters for."""
    versions = converters.registry_
    return {name for version in versions if version <= OPSET for name in versions[version]}


def _align(graph: Any, unaligned: set) -> None:
    """Resizes that don't align corners: the exporter writes all as if they did."""
    for node in graph.node:
        if node.op_type == "Resize" and node.name in unaligned:
            for attribute in node.attribute:
                if attribute.name == "coordinate_transformation_mode":
                    attribute.s = b"half_pixel"


def _finish(graph: Any, classes: int) -> None:
    """What the exporter leaves undone: parameters aren't inputs, and the output has a name and a shape.

    A slope per channel is to lie along the channels, and not along the last axis.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    slopes = {node.input[1] for node in graph.node if node.op_type == "PRelu"}
    axes = len(inputs[0].type.tensor_type.shape.dim) - 2
    for tensor in graph.initializer:
        if tensor.name in slopes and list(tensor.dims) != [1]:
            tensor.dims.extend([1] * axes)
    old = graph.output[0].name
    graph.output[0].name = "scores"
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = "scores" if name == old else name
    given, made = (value[0].type.tensor_type.shape for value in (graph.input, graph.output))
    made.CopyFrom(given)
    made.dim[1].dim_value = classes


@contextmanager
def _opset(onnx: Any) -> Iterator[None]:
    """MXNet checks its graph by the newest opset that onnx knows; it is to be by `OPSET`."""
    context = onnx.checker.DEFAULT_CONTEXT
    before = context.opset_imports
    context.opset_imports = {"": OPSET}
    try:
        yield
    finally:
        context.opset_imports = before


@contextmanager
def _as_bytes(onnx: Any, converters: Dict[str, Any]) -> Iterator[None]:
    """MXNet makes a Python number of each weight: a minute and gigabytes for a large network."""
    before = converters["null"]

    def parameter(node: Dict[str, Any], **about: Any) -> Any:
        if about["is_input"]:
            return before(node, **about)
        tensor = onnx.numpy_helper.from_array(about["weights"][node["name"]], node["name"])
        about["initializer"].append(tensor)
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        return [info], (about["weights"][node["name"]].dtype,)

    converters["null"] = parameter
    try:
        yield
    finally:
        converters["null"] = before


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
