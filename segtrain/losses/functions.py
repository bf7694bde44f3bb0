"""The losses, each a function of a device's share of a batch and of its own options.

Those of PER_IMAGE are a number per image, summed over the share; the others a sum over pixels.
OF_HOST: what the host works out for a loss from the masks, and a `Share` has by that name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional, Tuple

from pydantic import Field, NonNegativeInt
from typing_extensions import Annotated

from segtrain.losses.masks import border_weights, present_classes

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, le=1)]


@dataclass
class Share:
    """What a loss sees: a device's share of a batch's scores and masks."""

    F: Any
    log_p: Any  # log-probabilities (N, H, W, classes)
    ids: Any  # (N, H, W)
    weights: Any  # of each pixel's class (N, H, W), 0 where ignored
    classes: int
    ignore: int
    border: Any = None  # where a loss asks for it: what `border_weights` says, (N, H, W)
    present: Any = None  # where a loss asks for it: what `present_classes` says, (N, K)

    @cached_property
    def picked(self) -> Any:
        """The log-probability of each pixel's true class, (N, H, W); of ignored ones, any."""
        return self.F.pick(self.log_p, self.ids, axis=-1)

    @cached_property
    def valid(self) -> Any:
        """1 where a pixel counts, 0 where it is ignored, (N, 1, H * W)."""
        return self.F.reshape(self.ids != self.ignore, (0, 1, -1))

    @cached_property
    def p(self) -> Any:
        """The probabilities, (N, H * W, classes)."""
        return self.F.reshape(self.F.exp(self.log_p), (0, -1, self.classes))

    @cached_property
    def hot(self) -> Any:
        """The truth as 0 and 1, (N, H * W, classes); all 0 where ignored."""
        outside = self.ids + self.classes * (self.ids == self.ignore)
        return self.F.BlockGrad(
            self.F.reshape(self.F.one_hot(outside, self.classes), (0, -1, self.classes))
        )

    @cached_property
    def sums(self) -> Tuple[Any, Any, Any]:
        """Of each image and class, (N, 1, classes): overlap, predicted and true pixels.

        As matrix products: a third of the time of products and sums of maps.
        """
        F = self.F
        right = F.exp(F.reshape(self.picked, (0, 1, -1))) * self.valid
        of_truth = F.batch_dot(F.concat(right, self.valid, dim=1), self.hot)
        overlap = F.slice_axis(of_truth, axis=1, begin=0, end=1)
        # In this order: the gradient of a slice that leads to BlockGrad alone crashes MXNet.
        true = F.slice_axis(F.BlockGrad(of_truth), axis=1, begin=1, end=2)
        return overlap, F.batch_dot(self.valid, self.p), true

    def over_images(self, losses: Any) -> Any:
        """The sum over images of the mean over the classes in their truth of (N, 1, classes)."""
        F = self.F
        present = self.sums[2] > 0
        of_images = F.sum(present * losses, axis=2) / F.maximum(F.sum(present, axis=2), 1)
        return F.sum(of_images, axis=0)


def ce(share: Share, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> Any:
    """Cross-entropy: the mean over the valid pixels, each with the weight of its class.

    smoothing: the part of each pixel's truth that all classes share (Szegedy et al. 2016,
    section 7).
    """
    F = share.F
    likelihood = F.sum(share.picked * share.weights)
    if smoothing:
        log_p = F.reshape(share.log_p, (0, -1, share.classes))
        of_all = F.sum(F.batch_dot(F.reshape(share.weights, (0, 1, -1)), log_p)) / share.classes
        likelihood = (1 - smoothing) * likelihood + smoothing * of_all
    return -likelihood


def focal(share: Share, *, gamma: NonNegative = 2.0) -> Any:
    """Focal loss (Lin et al. 2017, section 3.2): (1 - p)^gamma times each pixel's cross-entropy.

    gamma: how much less a pixel counts that is right already.
    """
    wrong = share.F.maximum(-share.F.expm1(share.picked), 1e-6)  # a root of 0 has no gradient
    return -share.F.sum(share.picked * share.weights * wrong**gamma)


def border(
    share: Share,
    *,
    w0: NonNegative = 10.0,
    sigma: Positive = 5.0,
    background: Optional[NonNegativeInt] = 0,
) -> Any:
    """Cross-entropy with U-Net's border weights (Ronneberger et al. 2015, equation 2).

    The mean over the valid pixels, each with the weight of its class plus that of
    `border_weights`, which the host works out with these options.
    w0: the weight where two objects touch; sigma: pixels over which it falls off; background: the
    class that is no object, null if all are.
    """
    return -share.F.sum(share.picked * (share.weights + share.border))


def ohem(share: Share, *, thresh: Part = 0.7, min_kept: Part = 0.0625) -> Any:
    """Cross-entropy of the hard pixels alone (Shrivastava et al. 2016; Wu et al. 2016).

    thresh: a pixel is kept where its true class has at most this probability; min_kept: the share of
    an image's valid pixels, the hardest, that is kept in any case. The mean over an image's kept
    pixels, each with the weight of its class, then over the batch's images. MMSegmentation and
    HRNet, with these names, choose among all the pixels of a device's images, and `min_kept` is a
    count; by image and as a share, neither the devices nor the crop's size change the choice.
    0.7 is theirs, 1/16 the share that BiSeNet is trained with.
    """
    F = share.F
    log_p = F.BlockGrad(F.reshape(share.picked, (0, -1)))
    valid = F.reshape(share.valid, (0, -1))
    ranked = F.sort(F.where(valid, log_p, valid + 1), axis=1)  # the hardest first, ignored ones last
    last = F.maximum(F.round(min_kept * F.sum(valid, axis=1)) - 1, 0)
    hardest = F.pick(ranked, last, axis=1, keepdims=True)
    limit = F.maximum(hardest, math.log(thresh) if thresh else -1e38)
    weights = F.reshape(share.weights, (0, -1)) * F.broadcast_lesser_equal(log_p, limit)
    losses = F.sum(F.reshape(share.picked, (0, -1)) * weights, axis=1)
    return -F.sum(losses / F.maximum(F.sum(weights, axis=1), 1e-12))


def dice(share: Share) -> Any:
    """1 - soft Dice, per image and class present in its truth (Milletari et al. 2016, section 3).

    Mean over the image's classes, then over the batch's images; class weights don't count.
    """
    overlap, predicted, true = share.sums
    return share.over_images(1 - 2 * overlap / share.F.maximum(predicted + true, 1e-6))


def generalised_dice(share: Share) -> Any:
    """1 - Dice of all classes together, each weighing 1 / its pixels^2 (Sudre et al. 2017).

    Over the classes present in the image's truth (of others the weight would be infinite), then
    the mean over the batch's images; the loss has weights of its own, so class weights don't count.
    """
    F = share.F
    overlap, predicted, true = share.sums
    weights = (true > 0) / F.square(F.maximum(true, 1))
    both = F.sum(weights * (predicted + true), axis=2)
    losses = 1 - 2 * F.sum(weights * overlap, axis=2) / F.maximum(both, 1e-12)
    return F.sum((F.max(true, axis=2) > 0) * losses)


def tversky(
    share: Share, *, alpha: NonNegative = 0.3, beta: NonNegative = 0.7, gamma: Positive = 1.0
) -> Any:
    """1 - Tversky index (Salehi et al. 2017).

    alpha: weight of false positives; beta: of false negatives; gamma: the exponent, 0.75 in the focal
    Tversky loss (Abraham & Khan 2019, whose gamma is 1 / ours). Per image and class present in its
    truth, then the mean over the image's classes and over the batch's images; class weights don't
    count. alpha = beta = 0.5 is dice.
    """
    F = share.F
    overlap, predicted, true = share.sums
    wrong = alpha * (predicted - overlap) + beta * (true - overlap)
    losses = wrong / F.maximum(overlap + wrong, 1e-6)
    if gamma != 1:
        losses = F.maximum(losses, 1e-6) ** gamma  # a root of 0 has no gradient
    return share.over_images(losses)


def lovasz(share: Share) -> Any:
    """Lovasz-softmax (Berman et al. 2018, equations 8, 9): a convex extension of 1 - IoU.

    Per image and class present in its truth, then the mean over the image's classes and over the
    batch's images, so that it doesn't depend on the devices; class weights don't count.
    """
    F = share.F
    there = share.present >= 0
    hot = F.broadcast_equal(F.expand_dims(share.present, 2), F.reshape(share.ids, (0, 1, -1)))
    p = F.batch_dot(F.one_hot(share.present, share.classes), share.p, transpose_b=True)
    # Spread first: the gradient of broadcast_mul sums up that of `valid` too, slowly.
    errors = F.abs(hot - p) * F.broadcast_like(share.valid, hot)
    true = F.sum(hot, axis=2, keepdims=True)
    errors, order = F.topk(errors, axis=2, k=0, ret_typ="both", dtype="int32")
    hot = _in_order(F, hot, order)
    found, missed = F.cumsum(hot, axis=2), F.cumsum(1 - hot, axis=2)
    overlap, union = F.broadcast_sub(true, found), F.broadcast_add(true, missed)
    # What each pixel adds to 1 - IoU when it goes wrong after those before it; as differences of
    # 1 - IoU (the paper's algorithm 1) these would lose most of their digits.
    steps = (hot + (1 - hot) * overlap / F.maximum(union - 1, 1)) / union
    losses = F.sum(errors * F.BlockGrad(steps), axis=2)
    return F.sum(F.sum(losses * there, axis=1) / F.maximum(F.sum(there, axis=1), 1))


def _in_order(F: Any, rows: Any, order: Any) -> Any:
    """Each row of (N, K, P), its values in the order of the indices of the same shape."""
    flat, order = F.reshape(rows, (-3, 0)), F.reshape(order, (-3, 0))
    of_row = F.broadcast_like(F.expand_dims(F.contrib.arange_like(flat, axis=0), 1), flat)
    places = F.stack(F.cast(of_row, "int32"), order)
    return F.reshape_like(F.gather_nd(flat, places), rows)


OF_REGIONS = (dice, generalised_dice, tversky, lovasz)  # class weights don't count
PER_IMAGE = (ohem, *OF_REGIONS)
OF_HOST = {border: ("border", border_weights), lovasz: ("present", present_classes)}
