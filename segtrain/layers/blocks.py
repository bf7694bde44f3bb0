"""The parts that networks are made of, in one or two dimensions and with one choice of norm."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Sequence

from mxnet import init
from mxnet.gluon import HybridBlock, nn

from segtrain.layers.chain import Chain, Sum
from segtrain.layers.sizes import Margin, Resize
from segtrain.layers.sync import SyncBatchNorm

NORMS = ("batch", "sync", "group", "none")
UPSAMPLINGS = ("deconv", "bilinear", "nearest")


class Normalize(HybridBlock):
    """Pixels as they are stored (N, C, ...), of any type, to ``(x - mean) / std``.

    In float32, also where the network is cast to another type: only what it gives is cast then.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dim: int = 2):
        super().__init__()
        shape = (1, len(mean), *[1] * dim)
        self.mean = self.params.get_constant("mean", _column(mean, shape))
        self.scale = self.params.get_constant("scale", _column([1 / s for s in std], shape))
        self._dtype = "float32"

    def cast(self, dtype):
        self._dtype = dtype

    def hybrid_forward(self, F, x, mean, scale):
        x = F.broadcast_mul(F.broadcast_sub(F.cast(x, "float32"), mean), scale)
        return x if self._dtype == "float32" else F.cast(x, self._dtype)


def _column(values: Sequence[float], shape: tuple):
    from mxnet import nd

    return nd.array(values, dtype="float32").reshape(shape)


class Maxima(HybridBlock):
    """1 where x is the maximum of its pooling window, else 0: the indices of the pooling."""

    def __init__(self, pool: HybridBlock, resize: HybridBlock):
        super().__init__()
        self.pool, self.resize = pool, resize

    def hybrid_forward(self, F, x):
        return F.BlockGrad(x == self.resize(self.pool(x)))


class TotalDropout(HybridBlock):
    """In training, the whole input times 0 with the chance `rate`, else times 1; never rescaled.

    Fourure et al. 2017, section 3.2. Each device draws once for its share of the batch.
    """

    def __init__(self, rate: float, dim: int = 2):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout {rate} is no chance from 0 to below 1")
        self._rate = rate
        self.one = self.params.get_constant("one", _column([1.0], (1,) * (dim + 2)))

    def hybrid_forward(self, F, x, one):
        return F.broadcast_mul(x, F.Dropout(one, p=self._rate) > 0)


class BatchNorm1D(nn.BatchNorm):
    """Batch norm of (N, C, L), run as (N, C, 1, L).

    MXNet 1.9.1's oneDNN kernel dies on the 3-D form in training ("Check failed: !is_view").
    """

    def hybrid_forward(self, F, x, **params):
        y = super().hybrid_forward(F, F.expand_dims(x, axis=2), **params)
        return F.squeeze(y, axis=2)


class Deconv1D(nn.Conv1D):
    """(N, C, L) to (N, width, stride * L): a transposed convolution, as a convolution of the input
    with stride - 1 zeros after each sample.

    MXNet 1.9.1's own leaves its weights in the layout that oneDNN chose for the first length, and
    dies in inference when it chooses another one for the next.
    """

    def __init__(self, width: int, kernel: int, stride: int, pad: int, bias: bool):
        super().__init__(width, kernel, padding=kernel - 1 - pad, use_bias=bias)
        self._zeros = stride - 1
        self._surplus = kernel - 1 - 2 * pad

    def hybrid_forward(self, F, x, weight, bias=None):
        x = F.expand_dims(x, axis=3)
        x = F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 0, 0, self._zeros))
        y = super().hybrid_forward(F, F.reshape(x, (0, 0, -1)), weight, bias)
        return F.slice_axis(y, axis=2, begin=0, end=-self._surplus) if self._surplus else y


class GroupNorm(HybridBlock):
    """Group norm with a scale and shift per channel (Wu & He 2018, section 3).

    Gluon's own has one per group. Eight groups, or as many as divide `width`.
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self._groups = gcd(width, 8)
        self._shape = (1, -1, *[1] * dim)
        self.gamma = self.params.get("gamma", shape=(width,), init="ones")
        self.beta = self.params.get("beta", shape=(width,), init="zeros")
        self.unit = self.params.get_constant("unit", [1.0] * self._groups)
        self.zero = self.params.get_constant("zero", [0.0] * self._groups)

    def hybrid_forward(self, F, x, gamma, beta, unit, zero):
        x = F.GroupNorm(x, unit, zero, num_groups=self._groups)
        gamma, beta = (F.reshape(p, self._shape) for p in (gamma, beta))
        return F.broadcast_add(F.broadcast_mul(x, gamma), beta)


class PReLU(HybridBlock):
    """max(0, x) + alpha * min(0, x), one learned alpha per channel (He et al. 2015, section 2.1).

    Hybridized, Gluon's own overwrites its input and takes the gradient of alpha from what is left
    there: it is too small by the factor alpha (MXNet 1.9.1).
    """

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.alpha = self.params.get("alpha", shape=(1, width, *[1] * dim), init=init.Constant(0.25))

    def hybrid_forward(self, F, x, alpha):
        return F.relu(x) - F.broadcast_mul(F.relu(-x), alpha)


@dataclass(frozen=True)
class Blocks:
    """One network's choice of parts; each method makes a new block of (N, C, H, W) or (N, C, L).

    norm: 'batch', 'sync' (over `devices`), 'group' or 'none'; upsampling: 'deconv', 'bilinear'
    or 'nearest'; pre: norm and ReLU come before each convolution (He et al. 2016b) instead of
    after it; bias: by default only where no norm follows; scale: whether batch norms have one;
    valid: convolutions see no padding, and cut the size.
    """

    dim: int = 2
    in_channels: int = 3
    norm: str = "batch"
    upsampling: str = "deconv"
    pre: bool = False
    bias: bool | None = None
    scale: bool = True
    valid: bool = False
    devices: int = 1

    def __post_init__(self) -> None:
        for value, known in ((self.norm, NORMS), (self.upsampling, UPSAMPLINGS), (self.dim, (1, 2))):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(map(str, known))}")

    def conv(self, width: int, kernel: int = 3, stride: int = 1, from_width: int = 0) -> Chain:
        """Convolution, norm, ReLU, the size kept (or divided by `stride`, rounded up).

        `pre` makes it norm, ReLU, convolution; its norm needs to be told `from_width`.
        """
        if self.pre:
            plain = self.plain_conv(width, kernel, stride)
            return Chain(*self.norms(from_width or width), self.relu(), plain)
        return Chain(*self._unit(width, kernel, stride), self.relu())

    def convs(self, width: int, units: int = 2) -> Chain:
        """`units` 3x3 convolutions, each with norm and ReLU."""
        return Chain(*[self.conv(width) for _ in range(units)])

    def residual(self, width: int, from_width: int, units: int = 2, stride: int = 1) -> Chain:
        """`units` convolutions around which the input is added.

        ReLU(F(x) + x) (He et al. 2016a, section 3.2), or x + F(x) where `pre`. Where the shape
        changes (another width or a stride) the input is projected by a 1x1 convolution.
        """
        first = self.conv(width, stride=stride, from_width=from_width)
        if self.pre:
            path = [first, *[self.conv(width) for _ in range(units - 1)]]
            last = []
        else:
            path = [first, *[self.conv(width) for _ in range(units - 2)]]
            path = [*path, *self._unit(width)] if units > 1 else self._unit(width, stride=stride)
            last = [self.relu()]
        same = from_width == width and stride == 1
        return Chain(
            ("shortcut", Chain()),
            *path,
            Sum("shortcut", through=None if same else self._projection(width, stride)),
            *last,
        )

    def pool(self, factor: int = 2) -> HybridBlock:
        """The size divided by `factor`, rounded up: max pooling."""
        pool = nn.MaxPool1D if self.dim == 1 else nn.MaxPool2D
        return pool(factor, factor, ceil_mode=True)

    def up(self, width: int) -> HybridBlock:
        """Twice the size, `width` channels: 2x2 transposed convolution, or resize and 3x3 conv."""
        if self.upsampling != "deconv":
            return Chain(self.resize(), self.plain_conv(width, 3))
        return self.deconv(width, kernel=2)

    def resize(self, factor: int = 2) -> HybridBlock:
        """`factor` times the size by interpolation, the channels kept ('nearest' for 'deconv')."""
        return Resize("nearest" if self.upsampling == "deconv" else self.upsampling, self.dim, factor)

    def maxima(self) -> HybridBlock:
        """1 where `pool` takes its value from, else 0; the sides must be even."""
        return Maxima(self.pool(), Resize("nearest", self.dim))

    def sigmoid(self) -> HybridBlock:
        """1 / (1 + exp(-x))."""
        return nn.Activation("sigmoid")

    def deconv(self, width: int, kernel: int, stride: int = 2, bias: bool = True) -> HybridBlock:
        """Transposed convolution to exactly `stride` times the size."""
        pad = (kernel - stride + 1) // 2
        if self.dim == 1:
            return Deconv1D(width, kernel, stride, pad, bias)
        extra = 2 * pad - (kernel - stride)
        return nn.Conv2DTranspose(width, kernel, stride, pad, extra, use_bias=bias)

    def head(self, classes: int) -> HybridBlock:
        """The class scores: a 1x1 convolution with bias."""
        return self.plain_conv(classes, 1, bias=True)

    def plain_conv(
        self,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        bias: bool | None = None,
        dilation: int = 1,
    ) -> HybridBlock:
        """A convolution alone, the size kept (or divided by `stride`, rounded up)."""
        conv = nn.Conv1D if self.dim == 1 else nn.Conv2D
        default = self.norm == "none" or self.pre if self.bias is None else self.bias
        use_bias = default if bias is None else bias
        pad = 0 if self.valid else dilation * (kernel - 1) // 2
        made = conv(width, kernel, stride, pad, dilation, use_bias=use_bias)
        odd = 0 if self.valid else dilation * (kernel - 1) % 2
        return Chain(Margin(0, -odd, self.dim), made) if odd else made

    def elu(self) -> HybridBlock:
        """x where positive, else exp(x) - 1 (Clevert et al. 2016)."""
        return nn.ELU()

    def norms(self, width: int) -> list[HybridBlock]:
        """The norm of `width` channels, as a list: empty where there is none."""
        if self.norm == "none":
            return []
        if self.norm == "group":
            return [GroupNorm(width, self.dim)]
        if self.norm == "sync" and self.devices > 1:
            return [SyncBatchNorm(self.dim, scale=self.scale)]
        return [(BatchNorm1D if self.dim == 1 else nn.BatchNorm)(scale=self.scale)]

    def relu(self) -> HybridBlock:
        """max(0, x)."""
        return nn.Activation("relu")

    def prelu(self, width: int) -> HybridBlock:
        """max(0, x) + a * min(0, x), one learned `a` per channel, 0.25 at first."""
        return PReLU(width, self.dim)

    def _unit(self, width: int, kernel: int = 3, stride: int = 1) -> list[HybridBlock]:
        return [self.plain_conv(width, kernel, stride), *self.norms(width)]

    def _projection(self, width: int, stride: int) -> HybridBlock:
        return self.plain_conv(width, 1, stride) if self.pre else Chain(*self._unit(width, 1, stride))
