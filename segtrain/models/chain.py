"""A network as data: blocks in a list, wired by their names and by what they read."""

from __future__ import annotations

import inspect
from typing import Any, Callable, List, Mapping, Optional

from mxnet.gluon import HybridBlock, nn
from pydantic import Field, NonNegativeInt, PositiveInt
from typing_extensions import Annotated

from segtrain import plugins
from segtrain.errors import UserError, nearest
from segtrain.layers import Blocks, Chain, Concat, From, Product, Sum
from segtrain.layers import residual_chain as residuals


def build(classes: int, blocks: Blocks, *, layers: List[Any]) -> Chain:
    """(N, C, H, W) to class scores (N, classes, H, W), where the layers keep the size.

    layers: mappings with `block`, one of the functions of this module, its options, and `name`
    where it is to be read. A block's input is what the one before it gave. UserError names the
    line of what is wrong.
    """
    return _chain(Kit(classes, blocks), layers, "model.layers")


class Kit:
    """What the functions below make blocks of."""

    def __init__(self, classes: int, blocks: Blocks):
        self.classes, self.blocks = classes, blocks


def conv(kit: Kit, *, width: PositiveInt, kernel: PositiveInt = 3, stride: PositiveInt = 1):
    """Convolution, norm, ReLU."""
    return kit.blocks.conv(width, kernel, stride)


def convs(kit: Kit, *, width: PositiveInt, units: PositiveInt = 2):
    """3x3 convolutions, each with norm and ReLU."""
    return kit.blocks.convs(width, units)


def plain_conv(
    kit: Kit,
    *,
    width: PositiveInt,
    kernel: PositiveInt = 3,
    stride: PositiveInt = 1,
    dilation: PositiveInt = 1,
    bias: bool = True,
):
    """A convolution alone."""
    return kit.blocks.plain_conv(width, kernel, stride, bias, dilation)


def residual(
    kit: Kit,
    *,
    width: PositiveInt,
    from_width: NonNegativeInt = 0,
    units: PositiveInt = 2,
    stride: PositiveInt = 1,
):
    """ReLU(F(x) + x); the input is projected unless `from_width` is `width` and `stride` 1."""
    return kit.blocks.residual(width, from_width, units, stride)


def residual_chain(
    kit: Kit,
    *,
    channels: PositiveInt,
    kernel: PositiveInt,
    initial_stride: PositiveInt = 1,
    chain_length: PositiveInt = 2,
    stride: PositiveInt = 1,
    padding: Optional[NonNegativeInt] = None,
    from_channels: NonNegativeInt = 0,
):
    """Units conv-BN-ReLU with the input added before the last ReLU."""
    lengths = channels, kernel, initial_stride, chain_length, stride, padding
    return residuals(*lengths, dim=kit.blocks.dim, from_channels=from_channels)


def pool(kit: Kit, *, factor: PositiveInt = 2):
    """The size divided by `factor`: max pooling."""
    return kit.blocks.pool(factor)


def up(kit: Kit, *, width: PositiveInt):
    """Twice the size, by what model.up says."""
    return kit.blocks.up(width)


def resize(kit: Kit, *, factor: PositiveInt = 2):
    """`factor` times the size by interpolation, the channels kept."""
    return kit.blocks.resize(factor)


def deconv(kit: Kit, *, width: PositiveInt, kernel: PositiveInt = 2, stride: PositiveInt = 2):
    """Transposed convolution to exactly `stride` times the size."""
    return kit.blocks.deconv(width, kernel, stride)


def relu(kit: Kit):
    """max(0, x)."""
    return kit.blocks.relu()


def sigmoid(kit: Kit):
    """1 / (1 + exp(-x))."""
    return kit.blocks.sigmoid()


def dropout(kit: Kit, *, rate: Annotated[float, Field(ge=0, lt=1)] = 0.5):
    """Values set to 0 in training with the chance `rate`, the others scaled up."""
    return nn.Dropout(rate)


def head(kit: Kit):
    """The class scores: a 1x1 convolution."""
    return kit.blocks.head(kit.classes)


def chain(kit: Kit, *, layers: List[Any]):
    """Layers in one, with names of their own; without any, the input as it is."""
    return _chain(kit, layers, "layers") if layers else Chain()


def concat(kit: Kit, *, reads: List[str], through: List[Any] = []):
    """The input and the blocks named in `reads`, along the channels; one of them through layers."""
    return Concat(*reads, through=_through(kit, through))


def sum(kit: Kit, *, reads: List[str], through: List[Any] = []):  # noqa: A001
    """The input plus the blocks named in `reads`; one of them through layers."""
    return Sum(*reads, through=_through(kit, through))


def product(kit: Kit, *, reads: List[str], through: List[Any] = []):
    """The input times the blocks named in `reads`; one of them through layers."""
    return Product(*reads, through=_through(kit, through))


def start(kit: Kit, *, reads: List[str], through: List[Any] = []):
    """The block named in `reads`, in place of the input: a path starts anew from there."""
    if len(reads) != 1:
        raise ValueError(f"start reads one block, and {len(reads)} are named")
    return From(reads[0], through=_through(kit, through))


def _kinds() -> Mapping[str, Callable[..., HybridBlock]]:
    """The functions above by name: those whose first parameter is the kit."""
    functions = {n: f for n, f in globals().items() if inspect.isfunction(f) and not n.startswith("_")}
    return {n: f for n, f in functions.items() if next(iter(inspect.signature(f).parameters)) == "kit"}


def _through(kit: Kit, layers: List[Any]) -> Optional[Chain]:
    return _chain(kit, layers, "through") if layers else None


def _chain(kit: Kit, layers: List[Any], where: str) -> Chain:
    if not layers:
        raise UserError(f"{where}: there are no layers")
    made, before = Chain(), ""
    for i, layer in enumerate(layers):
        place = getattr(layer, "place", f"{before or where} (layer {i + 1})")
        before = getattr(layer, "place", before)
        try:
            made.add(_block(kit, layer, place), name=layer.get("name"))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    return made


def _block(kit: Kit, layer: Any, place: str) -> HybridBlock:
    kinds = _kinds()
    if not isinstance(layer, Mapping) or "block" not in layer:
        raise ValueError(f"a layer is a mapping like {{block: conv, width: 32}}, not {layer!r}")
    kind, name = layer["block"], layer.get("name", "")
    if kind not in kinds:
        raise ValueError(f"no block {kind!r}; {nearest(str(kind), kinds)}")
    if not isinstance(name, str):
        raise ValueError(f"{name!r} can't name a block: use letters, digits and _")
    given = {key: value for key, value in layer.items() if key not in ("block", "name")}
    options = plugins.options(kinds[kind], given, f"{place}: {kind}", also=("block", "name"))
    return kinds[kind](kit, **options)
