"""What a bundle holds, and whether one that came from elsewhere can be trusted to be that.

Nothing of a bundle is run or handed to a framework here: files are read as text and bytes.
"""

from __future__ import annotations

import json
import struct
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Sequence, Set, Tuple, Union

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from typing_extensions import Annotated

from segtrain import plugins
from segtrain.errors import SegtrainError
from segtrain.prediction import runtimes
from segtrain.version import __version__

CODE = ("infer.py", "pictures.py", "runtimes.py", "threads.py", "tiling.py", "video.py")
SIGNALS_CODE = (*CODE, "records.py")
_DOCUMENTS = ("README.md", "parity.json")
_LARGEST_DOCUMENT = 64 * 2**20  # bytes of a JSON file

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Byte = Annotated[int, Field(ge=0, le=255)]
Pixels = Annotated[int, Field(ge=1, le=2**16)]
Colour = Annotated[List[Byte], Field(min_length=3, max_length=3)]
Axes = Annotated[List[PositiveInt], Field(min_length=1, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Format(_Part):
    """One form of the network, and what runs it."""

    files: Annotated[List[Name], Field(min_length=1, max_length=2)]
    runtimes: Annotated[List[Literal[runtimes.RUNTIMES]], Field(min_length=1)]  # type: ignore[valid-type]
    dtype: Annotated[str, Field(description="of its input: what it takes beside float32, if anything")]
    bytes: PositiveInt
    opset: Optional[PositiveInt] = None
    device: Optional[Literal["gpu"]] = None
    calibrated_on: Optional[str] = None


class Input(_Part):
    """What the network takes."""

    name: Literal["data"]
    layout: Literal["NCHW", "NCL"]
    dtype: str
    values: str
    channels: Union[PositiveInt, List[str]]
    depth: Optional[Literal[8, 16, 32]] = None
    order: Optional[str] = None
    sides: str


class Result(_Part):
    """What the network gives."""

    layout: Literal["NCHW", "NCL"]
    values: str


class Receptive(_Part):
    """How much of an image can change a pixel's scores, per axis; an upper bound if not exact."""

    extent: Union[Axes, Literal["whole image", "unknown"]]
    exact: bool


class Fold(_Part):
    """How many batch norms were folded into convolutions, and why not more."""

    batch_norms: NonNegativeInt
    left: NonNegativeInt
    why: str


class About(_Part):
    """``model.json``."""

    schema_version: Annotated[Literal[runtimes.SCHEMA], Field(alias="schema")]  # type: ignore[valid-type]
    segtrain: str
    mxnet: str
    input: Input
    output: Result
    form: Optional[Dict[str, Any]] = None
    stride: Pixels
    side: Optional[Pixels]
    receptive_field: Receptive
    window: Optional[Pixels]
    overlap: Annotated[float, Field(ge=0, lt=1)]
    classes: Annotated[List[str], Field(min_length=1, max_length=255)]
    ignore: Optional[Byte]
    palette: Annotated[List[Colour], Field(min_length=256, max_length=256)]
    score: Optional[Dict[str, Any]]
    fold: Fold
    formats: Dict[Name, Format]
    sha256: Dict[Name, Sum]


def check(folder: Path) -> About:
    """A bundle's ``model.json``, if the bundle is whole and holds what a bundle holds.

    Schema, checksums, files that are there and that should be, paths, links, the operators and
    parameters of each network, and its own proof of parity. SegtrainError says what is wrong;
    nothing of the bundle is run.
    """
    if not folder.is_dir():
        raise SegtrainError(f"{folder} is no bundle: there is no such folder")
    present = _files(folder)
    about = read(folder)
    _check_names(folder, about, present)
    try:
        runtimes.verify(folder, {"sha256": about.sha256}, sorted(about.sha256))
    except runtimes.BundleError as error:
        raise SegtrainError(f"{error}: don't use this bundle") from None
    _check_code(folder, about)
    for name, entry in about.formats.items():
        form = plugins.find("formats", name)
        if not set(entry.runtimes) <= set(form.RUNTIMES):
            raise SegtrainError(
                f"{folder / 'model.json'}: the format {name} runs in {', '.join(form.RUNTIMES)}, "
                f"not in {', '.join(entry.runtimes)}"
            )
        form.check(folder, entry.files)
    _check_parity(folder, about)
    return about


def read(folder: Path) -> About:
    """``model.json``, checked against its schema; SegtrainError names the key that is wrong."""
    path = folder / "model.json"
    values = document(path)
    if isinstance(values, dict) and values.get("schema") != runtimes.SCHEMA:
        raise SegtrainError(
            f"{path}: schema {values.get('schema')!r}, and this segtrain knows {runtimes.SCHEMA}"
        )
    try:
        return About.model_validate(values)
    except ValidationError as error:
        raise SegtrainError(f"{path}: {plugins.explain(error)[:400]}") from None


def document(path: Path) -> Any:
    """A JSON file's content; SegtrainError where it is too large or none."""
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            raise SegtrainError(f"{path} is too large for what it should be")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SegtrainError(f"{path}: {error.strerror}: this is no bundle, or not a whole one") from None
    except (ValueError, RecursionError):
        raise SegtrainError(f"{path} is damaged: it is no JSON") from None


def _files(folder: Path) -> Set[str]:
    """The names in a bundle; SegtrainError for anything that isn't a plain file of its own."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise SegtrainError(f"{path}: a bundle holds plain files alone, no links and no folders")
    return {path.name for path in folder.iterdir()}


def _check_names(folder: Path, about: About, present: Set[str]) -> None:
    """Everything listed is there, and nothing else: python would import what lies beside infer.py."""
    code = SIGNALS_CODE if about.form is not None else CODE
    used = [file for entry in about.formats.values() for file in entry.files]
    wanted = {*code, *_DOCUMENTS, *used}
    if len(used) != len(set(used)) or set(used) & {*code, *_DOCUMENTS, "model.json"}:
        raise SegtrainError(f"{folder / 'model.json'}: formats.files: one file is named twice")
    for name in sorted({*wanted, "model.json"} - present):
        raise SegtrainError(f"{folder / name} is missing")
    for name in sorted(present - {*wanted, "model.json"}):
        raise SegtrainError(f"{folder / name} is no part of a bundle: remove it, or don't use this one")
    if set(about.sha256) != wanted:
        odd = ", ".join(sorted(set(about.sha256) ^ wanted))
        raise SegtrainError(f"{folder / 'model.json'}: sha256 must have each file, and differs in {odd}")
    if "mxnet" not in about.formats:
        raise SegtrainError(f"{folder / 'model.json'}: formats: there is no mxnet")


def has_our_code(about: About) -> bool:
    """Whether the bundle's code is of this version, and so could be compared; else nobody has."""
    return about.segtrain == __version__


def _check_code(folder: Path, about: About) -> None:
    """The code must be segtrain's own, where it is of this version."""
    for name in SIGNALS_CODE if about.form is not None else CODE:
        ours = Path(runtimes.__file__).with_name(name)
        if has_our_code(about) and ours.read_bytes() != (folder / name).read_bytes():
            raise SegtrainError(
                f"{folder / name} isn't segtrain {__version__}'s own: it was changed, or written by a "
                "development version; read it before you run it, or export the run again"
            )


def _check_parity(folder: Path, about: About) -> None:
    proof = document(folder / "parity.json")
    formats = proof.get("formats") if isinstance(proof, dict) else None
    if not isinstance(formats, dict) or set(formats) != set(about.formats):
        raise SegtrainError(f"{folder / 'parity.json'} doesn't prove the formats that the bundle has")
    for name, found in formats.items():
        if not isinstance(found, dict) or found.get("passed") is not True:
            raise SegtrainError(f"{folder / 'parity.json'}: the format {name} did not pass")


# ---- MXNet's files


_OPERATORS = """
Activation BatchNorm BlockGrad Cast Concat Convolution Deconvolution Dropout Flatten FullyConnected
GroupNorm InstanceNorm L2Normalization LayerNorm LeakyReLU Pad Pooling Reshape SliceChannel SwapAxis
SyncBatchNorm UpSampling _arange _contrib_AdaptiveAvgPooling2D _contrib_BilinearResize2D
_contrib_SyncBatchNorm _contrib_arange_like _contrib_dequantize _contrib_quantize
_contrib_quantize_v2 _contrib_quantized_act _contrib_quantized_batch_norm _contrib_quantized_concat
_contrib_quantized_conv _contrib_quantized_elemwise_add _contrib_quantized_elemwise_mul
_contrib_quantized_flatten _contrib_quantized_fully_connected _contrib_quantized_pooling
_contrib_requantize _copy _div_scalar _equal _equal_scalar _greater _greater_scalar _lesser_scalar
_maximum _maximum_scalar _minimum _minimum_scalar _minus_scalar _mul_scalar _ones _plus_scalar
_power_scalar _rdiv_scalar _rminus_scalar _sg_mkldnn_conv _sg_mkldnn_fully_connected _zeros abs
add_n amp_cast amp_multicast batch_dot broadcast_add broadcast_axis broadcast_div broadcast_equal
broadcast_greater broadcast_like broadcast_maximum broadcast_minimum broadcast_mod broadcast_mul
broadcast_sub broadcast_to clip depth_to_space dot elemwise_add elemwise_div elemwise_mul
elemwise_sub exp expand_dims hard_sigmoid identity log max mean min negative null ones_like relu
repeat reshape_like shape_array sigmoid slice slice_axis slice_like softmax softsign space_to_depth
split sqrt square squeeze stack sum swapaxes take tanh tile transpose where zeros_like
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Those that networks are made of: none runs code, reads a file or takes an address."""


def check_network(folder: Path, files: Sequence[str]) -> None:
    """SegtrainError where a symbol and its parameters aren't that, or don't belong together."""
    if len(files) != 2:
        raise SegtrainError(f"{folder / 'model.json'}: a network of MXNet's is two files")
    symbol, parameters = (folder / file for file in files)
    variables = _variables(document(symbol), symbol)
    if "data" not in variables:
        raise SegtrainError(f"{symbol}: the network has no input 'data'")
    _check_parameters(parameters, variables - {"data"})


def _variables(graph: Any, path: Path) -> Set[str]:
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not _is_graph(graph, nodes):
        raise SegtrainError(f"{path} is damaged: it is no symbol of MXNet's")
    for node in nodes:
        if node["op"] not in OPERATORS:
            raise SegtrainError(
                f"{path}: the operator {str(node['op'])[:40]!r} ({str(node['name'])[:40]}) isn't one "
                "that networks are made of: don't use this bundle"
            )
        for inner in node.get("subgraphs", []):
            _variables(inner, path)
    return {node["name"] for node in nodes if node["op"] == "null"}


def _is_graph(graph: Dict[str, Any], nodes: List[Any]) -> bool:
    """Whether all nodes take from nodes before them, and the heads are nodes."""

    def is_output(output: Any, end: int) -> bool:
        whole = isinstance(output, list) and len(output) >= 2 and all(type(n) is int for n in output)
        return whole and 0 <= output[0] < end and 0 <= output[1] < 64

    def fit(outputs: Any, end: int) -> bool:
        return isinstance(outputs, list) and all(is_output(output, end) for output in outputs)

    return (
        all(isinstance(n, dict) and isinstance(n.get("op"), str) for n in nodes)
        and all(isinstance(n.get("name"), str) and fit(n.get("inputs"), i) for i, n in enumerate(nodes))
        and all(isinstance(n.get("subgraphs", []), list) for n in nodes)
        and fit(graph.get("heads"), len(nodes))
    )


_LIST, _ARRAYS = 0x112, {0xF993FAC9, 0xF993FACA}  # NDArray::Save of MXNet 1.x
_ITEMS = dict(enumerate((4, 8, 2, 1, 4, 1, 8, 1)))  # bytes of a value, by type


def _check_parameters(path: Path, wanted: Set[str]) -> None:
    """SegtrainError where a .params file isn't made of the dense arrays of these names."""
    try:
        with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            names = _parameter_names(content)
    except (struct.error, OverflowError, ValueError):
        raise SegtrainError(f"{path} is damaged: it is no file of MXNet's parameters") from None
    found = {name.partition(":")[2] for name in names if name.startswith(("arg:", "aux:"))}
    if found != wanted or len(found) != len(names):
        odd = ", ".join(sorted(found ^ wanted)[:5]) or "a name that is there twice"
        raise SegtrainError(f"{path} doesn't hold the parameters of its symbol: {odd}")


def _parameter_names(content: mmap) -> Sequence[str]:
    place = 0

    def take(code: str) -> Tuple[int, ...]:
        nonlocal place
        values = struct.unpack_from("<" + code, content, place)
        place += struct.calcsize("<" + code)
        return values

    if take("QQ")[0] != _LIST:
        raise ValueError("no list of arrays")
    (count,) = take("Q")
    for _ in range(min(count, len(content))):
        magic, stype, axes = take("IiI")
        if magic not in _ARRAYS or stype != 0 or axes > 8:
            raise ValueError("no dense array")
        shape = take(f"{axes}q")
        _, _, kind = take("iii")
        size = _ITEMS.get(kind, -1)
        for length in shape:
            size *= length
        if size < 0 or place + size > len(content):
            raise ValueError("cut off")
        place += size
    (names,) = take("Q")
    if names != count:
        raise ValueError("not a name for each")
    found = []
    for _ in range(names):
        (length,) = take("Q")
        found.append(content[place : place + length].decode())
        place += length
    if place != len(content):
        raise ValueError("more than there should be")
    return found
