"""Networks by name: the model's own ``build`` behind the normalisation of raw pixels."""

from __future__ import annotations

import re
import warnings
from contextlib import redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Sequence

import mxnet as mx
from mxnet.gluon import Constant, HybridBlock, Parameter, nn

from segtrain import plugins, weights
from segtrain.config import Model
from segtrain.errors import UserError
from segtrain.layers import Blocks, Chain, Fit, Fold, Normalize, Unfold

# Inference leaves out the auxiliary heads, and MXNet asks whether that is intended.
warnings.filterwarnings("ignore", "Parameter .* is not used by any computation")

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Network(Chain):
    """Raw pixels (N, C, H, W) of any size to class scores (N, classes, H, W).

    `heads` is what is trained: it takes sides in multiples of `stride` and gives a list of scores,
    the main head's first, then those of auxiliary heads. `side`: the only side that the network
    takes, where its layers are made for one, else None.
    """

    def __init__(self, heads: Chain, stride: int, side: int | None, dim: int):
        super().__init__()
        self.stride, self.side = stride, side
        self._axes = tuple(range(2, 2 + dim))
        self.fit = Fit(1 if side else stride, dim)
        self.heads = heads

    def hybrid_forward(self, F, x):
        scores = self.heads(self.fit(x))[0]
        return scores if self.side or self.stride == 1 else F.slice_like(scores, x, axes=self._axes)

    def inference(self) -> HybridBlock:
        """The main head alone, hybridized, for sides in multiples of `stride`.

        What calls it fits its input in and cuts the scores, on the host in a hundredth of the time
        that the graph takes for both.
        """
        return self._main

    @cached_property
    def _main(self) -> HybridBlock:
        """One for all that ask: each holds the memory of the graph it has planned."""
        return _Main(self.heads)

    def _clear_cached_op(self):
        """Forget what was planned, before another type or after a cut tap (cast, hybridize)."""
        self.__dict__.pop("_main", None)
        super()._clear_cached_op()

    def cast(self, dtype):
        super().cast(dtype)
        for parameter in self.collect_params().values():
            parameter._var = None  # made for the type from before, by the search for the stride


class _Main(HybridBlock):
    """The first of a network's heads, hybridized by itself: the heads stay as they are."""

    def __init__(self, heads: Chain):
        super().__init__()
        self.hybridize(static_alloc=True, static_shape=True)
        self.heads = heads

    def hybrid_forward(self, F, x):
        return self.heads(x)[0]


class _Listed(HybridBlock):
    """One array as a list of one; a list as it is."""

    def hybrid_forward(self, F, x):
        return x if isinstance(x, list) else [x]


def network(
    model: Model,
    classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    devices: int = 1,
) -> Network:
    """The network of a config, from raw pixels (N, C, H, W) to class scores (N, classes, H, W).

    `mean` and `std` are of the raw values, per channel: ImageNet's by default for three
    channels, 127.5 and 64 for other counts, 0 and 1 for signals. Parameter names depend on
    nothing else that was built in the process. UserError for a model or option that doesn't exist.
    """
    build = plugins.find("models", model.name).build
    options = plugins.options(
        build, model.options, "model", also=type(model).model_fields, name=model.name
    )
    mean, std = _statistics(model, mean, std)
    with mx.name.NameManager(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*New initializer")  # MXNet's, of constants by address
        try:
            channels = model.in_channels * model.fold**model.dim
            blocks = Blocks(model.dim, channels, model.norm, model.up, devices=devices)
            body = build(classes * model.fold**model.dim, blocks, **options)
            fold, unfold = Fold(model.fold, model.in_channels), Unfold(model.fold, classes)
            folds = ([fold], [unfold]) if model.fold > 1 else ([], [])
            heads = Chain(Normalize(mean, std, model.dim), *folds[0], body, *folds[1], _Listed())
            side = getattr(body, "side", None)
            stride = side or getattr(body, "stride", 0) * model.fold or _stride(heads, model)
            _check_scores(heads, model, stride, classes)
            return Network(heads, stride, side, model.dim)
        except ValueError as error:
            raise UserError(f"model: {error}") from None
        except mx.MXNetError as error:  # an option that its operators don't take
            raise UserError(f"model {model.name}: {_first_line(error)}") from None


def initialize(net: Network, model: Model, contexts: list, seed: int) -> None:
    """Weights after He et al. 2015, the same for a seed whatever the devices."""
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=contexts, force_reinit=True)
    shape = (1, model.in_channels, *[net.stride] * model.dim)
    for context in contexts:
        net.heads(mx.nd.zeros(shape, ctx=context, dtype="uint8"))
    if model.dim == 1:
        _lay_out(net)


def _lay_out(net: Network) -> None:
    """Bring parameters back to the common layout.

    oneDNN leaves a 1-D convolution's weights in one of its own, into which MXNet 1.9.1 can't copy
    ("Check failed: to.IsDefaultData()").
    """
    for parameter in net.collect_params().values():
        for array in parameter.list_data():
            values = array.asnumpy()
            array[:] = 0  # an operator's output is laid out anew; what is copied into isn't
            array[:] = values


def encoder(net: Network) -> tuple[str, dict[str, Parameter]]:
    """The name of the encoder that takes weights, and its parameters by GluonCV's names.

    Empty where there is none.
    """
    found: list[tuple[str, dict[str, Parameter]]] = [("", {})]

    def look(block: HybridBlock) -> None:
        if hasattr(block, "encoder_parameters"):
            found.append((block.encoder_name, block.encoder_parameters))

    net.apply(look)
    return found[-1]


def freeze_batch_norm(net: Network, which: str) -> None:
    """Let the batch norms of 'encoder' or 'all' use, and keep, the statistics and scales they have.

    UserError where there is no such norm to freeze.
    """
    if which == "none":
        return
    inside = {p.name for p in encoder(net)[1].values()}
    frozen: list[HybridBlock] = []

    def freeze(block: HybridBlock) -> None:
        chosen = isinstance(block, nn.BatchNorm) and (which == "all" or block.gamma.name in inside)
        if chosen:
            block._kwargs["use_global_stats"] = True
            block.gamma.grad_req = block.beta.grad_req = "null"
            frozen.append(block)

    net.apply(freeze)
    if not frozen:
        raise UserError(f"train.freeze_batch_norm={which}: this network has no such batch norm")


def load_weights(net: Network, model: Model) -> str:
    """Begin with the weights that `model.weights` names; says what was loaded.

    Those of another shape, like the head's for other classes, are left out, and the mean and std of
    raw values: they are the config's. UserError where less than half of them fit.
    """
    source = Path(str(model.weights))
    best = [source / "checkpoints" / name / "model.params" for name in ("best", "best.previous")]
    file = next((path for path in best if path.is_file()), source) if source.is_dir() else source
    if file.is_dir():
        raise UserError(f"model.weights={source}: a folder without checkpoints/best, so no run's")
    parameters = net._collect_params_with_prefix()
    trained = {name: p for name, p in parameters.items() if not isinstance(p, Constant)}
    return f"weights: {weights.load_fitting(trained, file)}"


def load_encoder(net: Network, model: Model) -> str:
    """Set the encoder's weights as `model.encoder_params` says, and say what was loaded.

    UserError where the network has no such encoder, the file can't be had, or it doesn't fit;
    then nothing is set.
    """
    (name, parameters), source = encoder(net), str(model.encoder_params)
    if not parameters:
        raise UserError(
            f"model.encoder_params={source}: model {model.name} has no encoder that takes weights; "
            "set model.encoder, like resnet34_v1b, on unet, unetpp or gridunet"
        )
    file = weights.pretrained(name) if source == "pretrained" else Path(source)
    return f"encoder {name}: {weights.load(parameters, file)}"


def _stride(heads: Chain, model: Model) -> int:
    """The number of which an input's sides must be multiples, found by shape inference."""
    scores = heads(mx.sym.var("data"))[0]
    sides = sorted(2**k * m for k in range(9) for m in (1, 3, 15))
    problem = "another size"
    for side in sides:
        shape = (1, model.in_channels, *[7 * side] * model.dim)
        try:
            with redirect_stdout(None):  # MXNet prints the shapes that don't fit
                _, outputs, _ = scores.infer_shape(data=shape)
        except mx.MXNetError as error:
            problem = _first_line(error)
            continue
        if outputs[0][2:] == shape[2:]:
            return side
    raise UserError(
        f"model {model.name}: no input side up to {sides[-1]} gives scores of its size ({problem})"
    )


def _first_line(error: mx.MXNetError) -> str:
    """What MXNet says of shapes that don't fit, without the place in its source."""
    text = " ".join(str(error).splitlines()[0].split())
    return re.sub(r"\[[\d:]+\] \S+ Check failed: .*?: ", "", text.replace("MXNetError: ", ""))


def _check_scores(heads: Chain, model: Model, stride: int, classes: int) -> None:
    """UserError where a head doesn't give a score for each class, at the input's size."""
    shape = (1, model.in_channels, *[stride] * model.dim)
    for scores in heads(mx.sym.var("data")):
        _, outputs, _ = scores.infer_shape(data=shape)
        if outputs[0] != (1, classes, *shape[2:]):
            raise UserError(
                f"model {model.name} gives scores {outputs[0]} for an input {shape} and "
                f"{classes} classes: it must end with a head, at the input's size"
            )


def _statistics(
    model: Model, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    channels = model.in_channels
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ([127.5] * channels, [64.0] * channels)
    usual = usual if model.dim == 2 else ([0.0] * channels, [1.0] * channels)
    mean, std = usual[0] if mean is None else mean, usual[1] if std is None else std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(f"data.{name} has {len(values)} values for {channels} channels")
    if min(std) <= 0:
        raise UserError("data.std: each value must be positive")
    return mean, std
