"""int8 by MXNet's own quantisation, calibrated on training images; for CPUs with oneDNN."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

from segtrain.errors import UserError
from segtrain.export import bundle

if TYPE_CHECKING:  # the check of a bundle loads no framework
    import numpy as np

    from segtrain.export.network import Source
    from segtrain.trained import Trained

BAR = "an mIoU at most 0.01 below the run's"
RUNTIMES = ("mxnet",)
IMAGES = 32  # of the training split, at most, that the ranges of values are found on


def passed(found: Dict[str, Any]) -> bool:
    """Whether a comparison with the run is good enough; there must be a score."""
    return found["miou"] is not None and found["miou"] >= found["miou_of_run"] - 0.01


def build(source: Source, folder: Path) -> Dict[str, Any]:
    """int8-symbol.json and int8-0000.params.

    Convolutions, pooling and concatenation are quantised, their ranges the least and greatest
    values over the calibration images; parameters are stored as float32, and quantised when they
    are loaded. UserError where the training images can't be read.
    """
    from segtrain.export.network import Network

    trained = source.trained
    if trained.form is not None:
        raise UserError("--format int8 is for images: MXNet quantises no 1-D convolutions")
    images, said = _calibration(trained)
    symbol, arrays = _quantised(source, images)
    return Network(symbol, arrays).save(folder, "int8", dtype=source.dtype, calibrated_on=said)


def check(folder: Path, files: Sequence[str]) -> None:
    """SegtrainError where the files aren't a network's."""
    bundle.check_network(folder, files)


def _calibration(trained: Trained) -> Tuple[List[np.ndarray], str]:
    """Images (1, C, h, w) of the training split, evenly spread, cropped to one size; and a word."""
    import cv2
    import numpy as np

    from segtrain.data.dataset import open_split

    assert trained.config is not None
    try:
        dataset = open_split(trained.config.data, "train", trained.classes)
    except UserError as error:
        raise UserError(f"--format int8 is calibrated on the training images: {error}") from None
    count = len(dataset.ids)
    chosen = np.unique(np.linspace(0, count - 1, min(IMAGES, count)).round().astype(int))
    height, width = trained.config.data.crop
    found = []
    for index in chosen:
        image = dataset.read(int(index)).image
        scale = max(height / image.shape[0], width / image.shape[1])
        if scale > 1:
            image = cv2.resize(image, None, fx=scale, fy=scale).reshape(-1, *image.shape[1:])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        crop = image[max(0, top) :, max(0, left) :][:height, :width]
        found.append(np.ascontiguousarray(np.moveaxis(crop, -1, 0)[None], np.float32))
    return found, f"{len(found)} of {count} training images"


def _quantised(source: Source, images: List[np.ndarray]) -> Tuple[Any, Dict[str, np.ndarray]]:
    import mxnet as mx
    import numpy as np
    from mxnet.contrib import quantization

    from segtrain.export import fold
    from segtrain.export.network import Network
    from segtrain.export.portable import loaded

    network = Network(*fold.upsampling(source.network.symbol, source.network.arrays)[:2])
    auxiliary = set(network.symbol.list_auxiliary_states())
    arrays = loaded(network.arrays)
    arguments = {name: array for name, array in arrays.items() if name not in auxiliary}
    statistics = {name: array for name, array in arrays.items() if name in auxiliary}
    batches = mx.io.NDArrayIter(np.concatenate(images), batch_size=1, label_name=None)
    with _quiet():
        symbol, arguments, statistics = quantization.quantize_model_mkldnn(
            network.symbol,
            arguments,
            statistics,
            data_names=("data",),
            label_names=None,
            ctx=mx.cpu(),
            calib_mode="naive",
            calib_data=batches,
            quantized_dtype="auto",
            logger=None,
        )
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}
    both = {**arguments, **statistics}
    return symbol, {name: both[name].asnumpy() for name in used}


@contextmanager
def _quiet() -> Iterator[None]:
    """MXNet's passes write to the standard error's file itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        logging.disable(before)
