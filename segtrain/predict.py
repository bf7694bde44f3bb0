"""Masks for images: files, folders and globs in, palette PNGs of the same size out."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from tqdm import tqdm

from segtrain import infer
from segtrain.data.files import decode
from segtrain.errors import UserError
from segtrain.infer import Policy
from segtrain.trained import Trained


def predict(
    trained: Trained, inputs: Sequence[str], out: Path, policy: Policy = Policy(), overlay: bool = False
) -> list[Path]:
    """Write a mask for each image into `out`, and return their paths.

    overlay: write the masks over the images too, into ``out/overlays``. UserError names an input
    that is missing or damaged.
    """
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
