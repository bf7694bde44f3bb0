"""The losses that a config asks for, and the block that works them out on a device."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple, Union

import numpy as np
from mxnet.gluon import HybridBlock

from segtrain import plugins
from segtrain.errors import UserError
from segtrain.losses import functions
from segtrain.losses.masks import pixel_weights


class Term(NamedTuple):
    """A part of the loss: a function of functions.py, its options, and its weight in the sum."""

    name: str
    function: Callable
    weight: float
    options: Dict[str, Any]


def terms(losses: Mapping[str, Union[float, Mapping[str, Any]]]) -> List[Term]:
    """The terms of ``train.loss``: of each loss its weight, or its weight and its options.

    A weight of 0 leaves a term out. UserError for an unknown loss or option, with the nearest
    known ones, for a value out of range, and where no term is left.
    """
    found = [_term(name, value) for name, value in losses.items()]
    found = [term for term in found if term.weight]
    if not found:
        raise UserError("train.loss: no loss has a weight; write train.loss={ce: 1}")
    return found


def known_losses() -> Dict[str, Callable]:
    """The losses of functions.py, and the user's own, by name."""
    ours = {
        name: function
        for name, function in vars(functions).items()
        if inspect.isfunction(function) and [*inspect.signature(function).parameters][:1] == ["share"]
    }
    return plugins.with_own("losses", ours)


def _term(name: str, value: Union[float, Mapping[str, Any]]) -> Term:
    known = known_losses()
    if name not in known:
        raise plugins.missing("train.loss", name, known)
    given = dict(value) if isinstance(value, Mapping) else {"weight": value}
    where = f"train.loss.{name}"
    weight = plugins.options(_weight, {k: given.pop(k) for k in ("weight",) if k in given}, where)
    options = plugins.options(known[name], given, where, also=["weight"])
    return Term(name, known[name], weight["weight"], options)


def _weight(*, weight: functions.NonNegative = 1.0) -> None:
    """The option that every loss has."""


class Loss(HybridBlock):
    """The sum of each term over a device's share of a batch, (terms,).

    Takes scores (N, classes, H, W), or (N, classes, L) where `dim` is 1, and what `prepare`
    makes of the masks; so its sums over the devices, times the factors of `prepare`, are the loss.
    """

    def __init__(self, losses: Mapping[str, Any], class_weights: np.ndarray, ignore: int, dim: int = 2):
        super().__init__()
        self.terms = terms(losses)
        self._channel_last = (0, 2, 3, 1) if dim == 2 else (0, 2, 1)
        self._classes, self._ignore = len(class_weights), ignore
        self._of_id = pixel_weights(class_weights, ignore)
        if any(term.function not in functions.OF_REGIONS for term in self.terms):
            self.table = self.params.get_constant("table", self._of_id)
        self._of_host = [
            (*functions.OF_HOST[t.function], t.options)
            for t in self.terms
            if t.function in functions.OF_HOST
        ]
        for term in self.terms:
            if (term.options.get("background") or 0) >= self._classes:
                raise UserError(
                    f"train.loss.{term.name}.background={term.options['background']}: the last class "
                    f"is {self._classes - 1}; write null where no class is the background"
                )

    def prepare(self, masks: np.ndarray) -> Tuple[List[np.ndarray], np.ndarray]:
        """What the host works out from a whole batch's masks, (N, H, W) or (N, L) of uint8.

        The block's inputs beside the scores, to be split over the devices like the images, and
        the factor of each term: its weight over the number of pixels, by weight, or of images.
        """
        maps = {name: work(masks, self._ignore, **options) for name, work, options in self._of_host}
        pixels = float(self._of_id @ np.bincount(masks.ravel(), minlength=256))
        own = [t.function for t in self.terms if getattr(t.function, "per_image", False)]
        counts = dict.fromkeys([*functions.PER_IMAGE, *own], float(len(masks)))
        if "border" in maps:
            counts[functions.border] = pixels + float(maps["border"].sum(dtype=np.float64))
        factors = [t.weight / max(counts.get(t.function, pixels), 1e-12) for t in self.terms]
        return [masks, *maps.values()], np.array(factors, np.float32)

    def forward(self, scores, *inputs):
        # Sums over pixels need float32, also where the network is of float16.
        return super().forward(scores.astype("float32", copy=False), *inputs)

    def hybrid_forward(self, F, scores, masks, *of_host, table=None):
        # Channel-last: MXNet's softmax over the last axis is five times as fast as over axis 1.
        log_p = F.log_softmax(F.transpose(scores, self._channel_last), axis=-1)
        ids = F.cast(masks, "float32")
        weights = None if table is None else F.take(table, ids)
        maps = {name: array for (name, *_), array in zip(self._of_host, of_host)}
        share = functions.Share(F, log_p, ids, weights, self._classes, self._ignore, **maps)
        return F.concat(*[t.function(share, **t.options) for t in self.terms], dim=0)
