"""Masks for images and signals: files, folders and globs in, palette PNGs or CSVs out."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from tqdm import tqdm

from segtrain import infer, records
from segtrain.data.files import decode
from segtrain.errors import UserError
from segtrain.infer import Policy
from segtrain.records import Form
from segtrain.trained import Trained


def predict(
    trained: Trained, inputs: Sequence[str], out: Path, policy: Policy = Policy(), overlay: bool = False
) -> list[Path]:
    """Write a mask for each image into `out`, and return their paths.

    overlay: write the masks over the images too, into ``out/overlays``. UserError names an input
    that is missing or damaged. For a network of signals each is a CSV, and an overlay a plot.
    """
    if trained.form:
        return _label(trained, trained.form, inputs, out, policy, overlay)
    predictor, written = trained.predictor(policy), []
    try:
        files = infer.find(inputs)
        infer.refuse_overwriting(files, out)
        for name, path in tqdm(files.items(), desc="predict", unit="image", disable=None):
            image = decode(path, trained.kind)
            mask = predictor.mask(image)
            written.append(out / f"{name}.png")
            infer.write(written[-1], infer.encode(mask, trained.palette))
            if overlay:
                picture = infer.overlay(image, mask, trained.palette)
                infer.write(out / "overlays" / f"{name}.png", picture)
    except infer.InputError as error:
        raise UserError(str(error)) from None
    return written


def _label(
    trained: Trained, form: Form, inputs: Sequence[str], out: Path, policy: Policy, overlay: bool
) -> list[Path]:
    """`predict` for signals."""
    predictor, written = trained.predictor(policy), []
    try:
        files = infer.find(inputs, records.ENDINGS)
        infer.refuse_overwriting(files, out, ".csv")
        for name, path in tqdm(files.items(), desc="predict", unit="record", disable=None):
            signal = records.read_signal(path, form)
            ids = predictor.mask(signal)
            written.append(out / f"{name}.csv")
            infer.write(written[-1], records.table(ids, trained.classes, form.rate))
            if overlay:
                plot = records.plot(signal, ids, trained.classes, trained.palette, form.rate)
                infer.write(out / "overlays" / f"{name}.png", plot)
    except (infer.InputError, records.RecordError) as error:
        raise UserError(str(error)) from None
    return written
