"""float16 for GPUs, by MXNet's own mixed precision: casts around what is safe in float16."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Sequence

from segtrain.export import bundle

if TYPE_CHECKING:  # the check of a bundle loads no framework
    from segtrain.export.network import Source
    from segtrain.export.parity import Own, Samples
    from segtrain.trained import Trained

BAR = "the same class at 99.9% of the pixels"
RUNTIMES = ("mxnet",)
EMULATED = (
    "in float32 on values rounded to float16 before each convolution, since MXNet has no float16 "
    "convolutions on CPUs; on a GPU, `segtrain bench BUNDLE --devices gpu` runs it as it is"
)


def passed(found: Dict[str, Any]) -> bool:
    """Whether a comparison with the run is good enough."""
    return found["equal_argmax"] >= 0.999


def build(source: Source, folder: Path) -> Dict[str, Any]:
    """float16-symbol.json and float16-0000.params, half the size: convolutions' weights in float16."""
    import mxnet as mx
    from mxnet.contrib import amp

    from segtrain.export.network import Network
    from segtrain.export.portable import loaded

    network = source.network
    auxiliary = set(network.symbol.list_auxiliary_states())
    arrays = loaded(network.arrays)
    symbol, arguments, statistics = amp.convert_model(
        network.symbol,
        {name: array for name, array in arrays.items() if name not in auxiliary},
        {name: array for name, array in arrays.items() if name in auxiliary},
        target_dtype="float16",
        cast_optional_params=True,
    )
    mx.nd.waitall()
    both = {name: array.asnumpy() for name, array in {**arguments, **statistics}.items()}
    return Network(symbol, both).save(folder, "float16", dtype=source.dtype, device="gpu")


def check(folder: Path, files: Sequence[str]) -> None:
    """SegtrainError where the files aren't a network's."""
    bundle.check_network(folder, files)


def prove(trained: Trained, folder: Path, name: str, on: Samples, of_run: Own) -> Dict[str, Any]:
    """The comparison, of a network that rounds as this one does where there is no GPU to run it."""
    import json

    from segtrain.export import parity
    from segtrain.prediction import infer, runtimes

    with tempfile.TemporaryDirectory() as home:
        stand_in = Path(home) / "bundle"
        shutil.copytree(folder, stand_in)
        about = json.loads((stand_in / "model.json").read_text())
        entry = about["formats"][name]
        _emulate(stand_in / entry["files"][0], stand_in / entry["files"][1])
        del entry["device"]
        about["sha256"].update({file: runtimes.checksum(stand_in / file) for file in entry["files"]})
        infer.write(stand_in / "model.json", json.dumps(about).encode())
        return {**parity.prove(trained, stand_in, name, on, of_run), "computed": EMULATED}


def _emulate(symbol_file: Path, parameters_file: Path) -> None:
    """Let each cast to float16 be followed by one back, and parameters be float32 again."""
    import mxnet as mx

    from segtrain.export import symbols
    from segtrain.run import pack

    heads = symbols.read(mx.sym.load(str(symbol_file)))
    for node in symbols.walk(heads):
        if node.op == "amp_cast" and node.attrs.get("dtype") == "float16":
            back = symbols.Node("amp_cast", f"{node.name}_back", {"dtype": "float32"}, [(node, 0)])
            heads = symbols.replace(heads, node, (back, 0))
        node.attrs = {
            k: v for k, v in node.attrs.items() if not (node.op == "null" and k == "__dtype__")
        }
    symbol_file.write_text(symbols.write(heads).tojson())
    arrays = mx.nd.load(str(parameters_file))
    parameters_file.write_bytes(pack({name: array.astype("float32") for name, array in arrays.items()}))
