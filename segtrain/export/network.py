"""A network outside Gluon: a symbol and its arrays, to be rewritten, run and saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence, Tuple

import mxnet as mx
import numpy as np

from segtrain.prediction import infer
from segtrain.run import pack
from segtrain.trained import Trained

Arrays = Dict[str, np.ndarray]


class Network(NamedTuple):
    """A symbol of the input `data`, and its parameters and running statistics by name."""

    symbol: mx.sym.Symbol
    arrays: Arrays

    def block(self) -> mx.gluon.SymbolBlock:
        """The network as a Gluon block, on the CPU."""
        with warnings.catch_warnings():  # of types that MXNet infers at the first call anyway
            warnings.simplefilter("ignore", UserWarning)
            block = mx.gluon.SymbolBlock(self.symbol, mx.sym.var("data"))
        for name, parameter in block.collect_params().items():
            array = self.arrays[name]
            parameter.shape, parameter.dtype, parameter.grad_req = array.shape, array.dtype, "null"
            parameter.initialize(ctx=mx.cpu())
            parameter.set_data(mx.nd.array(array, dtype=array.dtype))
        block.hybridize(static_alloc=True, static_shape=True)
        return block

    def run(self, x: np.ndarray) -> np.ndarray:
        """The scores (N, classes, ...) of raw values (N, C, ...), on the CPU."""
        return self.block()(mx.nd.array(x, dtype=x.dtype)).asnumpy()

    def save(self, folder: Path, stem: str, **about: Any) -> Dict[str, Any]:
        """Write STEM-symbol.json and STEM-0000.params; what model.json says of them."""
        auxiliary = set(self.symbol.list_auxiliary_states())
        content = pack(
            {
                f"{'aux' if name in auxiliary else 'arg'}:{name}": mx.nd.array(array, dtype=array.dtype)
                for name, array in self.arrays.items()
            }
        )
        files = [f"{stem}-symbol.json", f"{stem}-0000.params"]
        infer.write(folder / files[0], self.symbol.tojson().encode())
        infer.write(folder / files[1], content)
        return entry(folder, files, ["mxnet"], **about)


class Source(NamedTuple):
    """What formats are made from.

    network: as it is exported; trained: as it was trained; shape: of an input that it takes,
    (1, C, H, W) or (1, C, L); dtype: that raw inputs have, beside float32.
    """

    network: Network
    trained: Trained
    shape: Tuple[int, ...]
    dtype: str


def of(trained: Trained) -> Network:
    """The network of a run."""
    arrays = {p.name: p.data().asnumpy() for p in trained.net.collect_params().values()}
    symbol = trained.net(mx.sym.var("data"))
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    return Network(symbol, {name: array for name, array in arrays.items() if name in used})


def entry(folder: Path, files: Sequence[str], runtimes: Sequence[str], **about: Any) -> Dict[str, Any]:
    """What model.json says of a format: its files, what runs it, and how large it is."""
    size = sum((folder / file).stat().st_size for file in files)
    return {"files": list(files), "runtimes": list(runtimes), "bytes": size, **about}
