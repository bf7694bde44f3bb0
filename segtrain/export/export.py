"""Export: a run as a bundle of symbol, parameters and everything else that inference needs.

The bundle is proved before it appears: its own ``infer.py`` runs in a fresh process, and what it
makes of real images must be what the run makes of them, within the bar of each format.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

import segtrain
from segtrain import plugins
from segtrain.errors import SegtrainError, UserError
from segtrain.export import bundle, card, fold, network, parity, receptive, speed
from segtrain.export.network import Network, Source
from segtrain.export.parity import Own, Samples
from segtrain.prediction import infer, runtimes
from segtrain.prediction.records import Form
from segtrain.trained import Trained, open_trained

LARGEST_WINDOW = 1024  # that is advised; larger ones need much memory and gain nothing measurable
EXACT = 1e-5  # of the largest score, by which folded batch norms may change any


def export(run: Path, out: Path, formats: Sequence[str] = (), folded: bool = True) -> Dict[str, Any]:
    """Write the bundle of a run's best checkpoint to the new folder `out`; returns its parity.

    formats: names of segtrain/formats; mxnet is always among them. folded: fold batch norms into
    convolutions, where that is exact. UserError where `out` is taken, or a format isn't possible;
    SegtrainError, and no bundle, where one disagrees with the run.
    """
    modules = {name: plugins.find("formats", name) for name in ("mxnet", *formats)}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: give another --out")
    trained = open_trained(run, "cpu")
    if trained.config is None:
        raise UserError(f"{run} is a bundle already; export takes the run folder that it came from")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on = parity.samples(trained, home)
        of_run = parity.own(trained, on)
        exported, note = _network(trained, on, of_run, folded)
        source = Source(exported, trained, _shape(trained), _dtype(trained))
        about = _about(trained, note)
        about["formats"] = {name: module.build(source, aside) for name, module in modules.items()}
        proof = _proved(trained, aside, about, on, of_run)
        aside.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.rename(aside, out)
    return proof


def _network(trained: Trained, on: Samples, of_run: Own, folded: bool) -> Tuple[Network, Dict[str, Any]]:
    """The network to export, with batch norms folded where that is exact, and model.json's note."""
    plain = network.of(trained)
    count = plain.symbol.tojson().count('"op": "BatchNorm"')
    if not folded or not count:
        why = "asked not to" if count else "there are none"
        return plain, {"batch_norms": 0, "left": count, "why": why}
    symbol, arrays, done = fold.batch_norms(plain.symbol, plain.arrays)
    changed = Network(symbol, arrays)
    why_not = _inexact(trained._replace(net=changed.block()), on, of_run)
    if why_not:
        return plain, {"batch_norms": 0, "left": count, "why": why_not}
    why = "the others don't follow a convolution alone" if done < count else "all"
    return changed, {"batch_norms": done, "left": count - done, "why": why}


def _inexact(changed: Trained, on: Samples, of_run: Own) -> str:
    """How a rewritten network's scores or classes differ from the run's; empty where they don't."""
    predictor = changed.predictor()
    for name, image in on.compared.items():
        before, after = of_run.scores[name], predictor.scores(image)
        relative = np.abs(after - before).max() / np.abs(before).max()
        if relative > EXACT:
            return f"a score would differ by {relative:.1g} of the largest"
    images = {**on.compared, **{name: sample.image for name, sample in on.scored.items()}}
    differing = sum(int((predictor.mask(x) != of_run.masks[n]).sum()) for n, x in images.items())
    return f"{differing} pixels would get another class" if differing else ""


def _proved(
    trained: Trained, folder: Path, about: Dict[str, Any], on: Samples, of_run: Own
) -> Dict[str, Any]:
    """Write all else that a bundle holds, prove each format, and return parity.json's content."""
    code = bundle.SIGNALS_CODE if trained.form else bundle.CODE
    for name in code:
        shutil.copyfile(Path(infer.__file__).with_name(name), folder / name)
    infer.write(folder / "README.md", card.text(about).encode())
    files = [*code, "README.md", *(f for entry in about["formats"].values() for f in entry["files"])]
    _seal(folder, about, files)
    found = {name: _prove(trained, folder, name, on, of_run) for name in about["formats"]}
    for name, one in found.items():
        if not one["passed"]:
            raise SegtrainError(_failure(name, one))
    _measure(folder, about, found)
    proof = {**found["mxnet"], "formats": found}
    infer.write(folder / "parity.json", json.dumps(proof, indent=1).encode())
    _seal(folder, about, [*files, "parity.json"])
    return proof


def _prove(trained: Trained, folder: Path, name: str, on: Samples, of_run: Own) -> Dict[str, Any]:
    prove = getattr(plugins.find("formats", name), "prove", parity.prove)
    return prove(trained, folder, name, on, of_run)


def _measure(folder: Path, about: Dict[str, Any], found: Dict[str, Any]) -> None:
    """Add to each format's comparison its size, and its speed in the runtimes that are here.

    bytes, images_per_second by runtime (of batch 1, the median of three, on the CPU) and the shape of
    the input that this was measured on.
    """
    measured = speed.bundle(folder, "cpu", batches=(1,), rounds=3)
    for name, one in found.items():
        rows = [row for row in measured["rows"] if row["format"] == name]
        one["bytes"] = about["formats"][name]["bytes"]
        one["images_per_second"] = {row["runtime"]: row["images_per_second"] for row in rows}
        one["measured_on"] = measured["input"]["shape"]


def _failure(name: str, found: Dict[str, Any]) -> str:
    """Why no bundle was written, in one line."""
    score = (
        "" if found["miou"] is None else f", mIoU {found['miou']:.4f} against {found['miou_of_run']:.4f}"
    )
    return (
        f"the exported network disagrees with the run in the format {name}: "
        f"{found['differing_pixels']} of {found['pixels']} pixels differ{score}, and the bar is "
        f"{found['bar']}; no bundle was written"
    )


def _seal(folder: Path, about: Dict[str, Any], files: Sequence[str]) -> None:
    """Write model.json with the checksums of these files."""
    sums = {file: runtimes.checksum(folder / file) for file in files}
    infer.write(folder / "model.json", json.dumps({**about, "sha256": sums}, indent=1).encode())


# ---- model.json


def _about(trained: Trained, note: Dict[str, Any]) -> Dict[str, Any]:
    """model.json, but for the formats and the checksums."""
    field = _receptive_field(trained)
    window, overlap = _window(trained, field)
    return {
        "schema": runtimes.SCHEMA,
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        **(_of_signals(trained.form) if trained.form else _of_images(trained)),
        "stride": trained.stride,
        "side": trained.side,
        "receptive_field": field._asdict(),
        "window": window,
        "overlap": overlap,
        "classes": trained.classes,
        "ignore": trained.ignore,
        "palette": trained.palette.tolist(),
        "score": trained.score,
        "fold": note,
    }


def _of_images(trained: Trained) -> Dict[str, Any]:
    """What goes in and out, for model.json."""
    return {
        "input": {
            "name": "data",
            "layout": "NCHW",
            "dtype": "uint8 or float32",
            "values": "raw pixels, as the file holds them: the network normalises them itself",
            "channels": trained.kind.channels,
            "depth": trained.kind.depth,
            "order": {1: "grey", 3: "RGB"}.get(trained.kind.channels, "as in the files"),
            "sides": "any" if trained.side is None else f"{trained.side}; infer.py goes in windows",
        },
        "output": {"layout": "NCHW", "values": "class scores (logits), the input's size"},
    }


def _of_signals(form: Form) -> Dict[str, Any]:
    """What goes in and out, for model.json; `form` is how infer.py reads records."""
    return {
        "input": {
            "name": "data",
            "layout": "NCL",
            "dtype": "float32",
            "values": "mean 0, deviation 1 over the record" if form.standardise else "as in the file",
            "channels": form.signal,
            "sides": "any",
        },
        "output": {"layout": "NCL", "values": "class scores (logits), the input's length"},
        "form": form._asdict(),
    }


def _shape(trained: Trained) -> Tuple[int, ...]:
    """An input's shape that the network takes without padding."""
    channels = len(trained.form.signal) if trained.form else trained.kind.channels
    side = trained.side or 2 * trained.stride
    return (1, channels, side) if trained.form else (1, channels, side, side)


def _dtype(trained: Trained) -> str:
    return "uint8" if trained.form is None and trained.kind.depth == 8 else "float32"


def _receptive_field(trained: Trained) -> receptive.Field:
    heads = trained.net.heads(mx.sym.var("data"))[0]
    return receptive.receptive_field(heads, _shape(trained), trained.side or trained.stride)


def _window(trained: Trained, field: receptive.Field) -> Tuple[Optional[int], float]:
    """The window and the overlap to be advised for images too large for the memory.

    With an overlap of the receptive field each pixel is somewhere seen with all that it depends on;
    so the window is twice that, at least the training crop, and at most `LARGEST_WINDOW`.
    """
    if trained.form:
        return None, 0.0
    if trained.side:
        return trained.side, 0.5
    assert trained.config is not None
    crop = max(trained.config.data.crop)
    reach = max(field.extent) if isinstance(field.extent, list) else crop
    side = max(crop, min(2 * reach, LARGEST_WINDOW))
    side = -(-side // trained.stride) * trained.stride
    return side, min(0.5, float(np.ceil(100 * reach / side) / 100))


__all__: List[str] = ["export"]
