"""A dataset's splits written into MXNet's RecordIO files, which `data/packed.py` reads."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Tuple

import cv2
import mxnet as mx
import numpy as np
from mxnet.recordio import IRHeader, MXIndexedRecordIO

from segtrain import config as configs
from segtrain.bar import Bar
from segtrain.config import Config, Data
from segtrain.data.dataset import SPLITS, Dataset, open_split
from segtrain.data.packed import ABOUT, FORMAT, record
from segtrain.data.parallel import in_threads
from segtrain.errors import UserError, one_line
from segtrain.prediction.infer import Kind
from segtrain.run import write

CONFIG = "config.yaml"


def pack(config: Config, out: Path) -> Dict[str, Any]:
    """Write the splits of a config's dataset to the new folder `out`, and a config that reads them.

    Images stay the files they are, and masks become class ids, so that nothing of what is trained
    on changes. Returns splits (samples and bytes of each), and missing: why there is no test split.
    UserError names the first file that can't be used; nothing is left then.
    """
    if out.exists():
        raise UserError(f"{out} exists: give another --out")
    sets, missing = _open(config.data)
    about = {
        "format": FORMAT,
        "classes": sets["train"].classes,
        "ignore": sets["train"].ignore,
        "channels": config.data.options.get("channels", Kind().channels),
        "depth": config.data.options.get("depth", Kind().depth),
        "splits": {split: len(dataset.ids) for split, dataset in sets.items()},
    }
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        sizes = {split: _write_split(dataset, aside, split) for split, dataset in sets.items()}
        write(aside / ABOUT, json.dumps(about, indent=1))
        write(aside / CONFIG, configs.dump(_reading(config, out, about)))
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    splits = {k: {"samples": len(s.ids), "bytes": sizes[k]} for k, s in sets.items()}
    return {"folder": str(out), "config": str(out / CONFIG), "splits": splits, "missing": missing}


def _open(data: Data) -> Tuple[Dict[str, Dataset], Dict[str, str]]:
    """The splits; the test split may be missing, and then it is told why."""
    sets: Dict[str, Dataset] = {}
    missing = {}
    for split in SPLITS:
        try:
            sets[split] = open_split(data, split, sets["train"].classes if sets else None)
        except UserError as error:
            if split != "test":
                raise
            missing[split] = str(error)
    if getattr(sets["train"], "dim", 2) == 1:
        raise UserError("pack is for images; data.cache=disk keeps decoded signals")
    return sets, missing


def _reading(config: Config, out: Path, about: Dict[str, Any]) -> Config:
    """The config with the packed dataset in place of the one it has."""
    values = config.model_dump(mode="json")
    own = {key: value for key, value in values["data"].items() if key in Data.model_fields}
    put = {"name": "packed", "root": str(out), "channels": about["channels"], "depth": about["depth"]}
    values["data"] = {**own, **put}
    values["model"]["classes"] = len(about["classes"])
    packed = configs.parse(values)
    packed._origins.update(config._origins, **{f"data.{key}": "segtrain pack" for key in put})
    return packed


def _write_split(dataset: Dataset, home: Path, split: str) -> int:
    """Write the record file, its index and the names; the bytes of the first."""
    if any("\n" in name for name in dataset.ids):
        raise UserError(f"{split}: a file's name has two lines: rename it")
    path = home / f"{split}.rec"

    def payload(index: int) -> Tuple[bytes, int]:
        sample = dataset.read(index)
        return record(_image_file(dataset, index, sample.image), sample.mask)

    found = in_threads(payload, range(len(dataset.ids)))
    writer = MXIndexedRecordIO(str(home / f"{split}.idx"), str(path), "w")
    try:
        for index, (content, end) in enumerate(
            Bar(found, total=len(dataset.ids), desc=split, unit="sample", leave=False)
        ):
            writer.write_idx(index, mx.recordio.pack(IRHeader(0, 0.0, index, end), content))
        size = writer.tell()
    except mx.MXNetError as error:
        raise OSError(errno.EIO, one_line(error), str(path)) from None
    finally:
        writer.close()
    if path.stat().st_size != size:  # MXNet closes a file without a look at what that gave
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write(home / f"{split}.txt", b"".join(os.fsencode(name) + b"\n" for name in dataset.ids))
    return size


def _image_file(dataset: Dataset, index: int, image: np.ndarray) -> bytes:
    """The sample's image file as it is; of a dataset without files, the image (H, W, C) as one."""
    files = dataset.files(index)
    if files:
        return files[0].read_bytes()
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    content = io.BytesIO()
    np.save(content, image)
    return content.getvalue()
