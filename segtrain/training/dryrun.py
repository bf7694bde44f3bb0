"""A rehearsal of a run: a few steps, an evaluation and a save, each timed, before hours are spent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import numpy as np
from tqdm import tqdm

from segtrain.config import Config
from segtrain.data.dataset import palette
from segtrain.data.loader import Batch
from segtrain.graph import sheet
from segtrain.machines.devices import contexts as find_devices
from segtrain.prediction import records
from segtrain.run import DRY_RUN, Run, write
from segtrain.training import timing
from segtrain.training.progress import memory
from segtrain.training.train import Prepared, prepare

STEPS = 5  # timed, after one that sets things up


class Stage(NamedTuple):
    """A part of a run, how long it takes once, and how often it comes."""

    name: str
    seconds: float
    times: int


def rehearse(config: Config, out: Path, device: str = "auto") -> Dict[str, Any]:
    """Run each part of a training once or a few times, without keeping anything but a picture.

    The picture, OUT/dry-run.png, is the first augmented batch with its masks. Returns the parts'
    times in seconds, images_per_second, eta_seconds of the whole run, peak_bytes of memory and
    the bottleneck. UserError for all that would stop the run at its beginning.
    """
    Run.check_free(out)
    contexts = find_devices(device)
    with prepare(config, contexts) as made:
        stages = _times(made, out)
        peak = memory(contexts[0])
    step, data = (next(s for s in stages if s.name == name) for name in ("step", "data"))
    per_step = max(step.seconds, data.seconds)
    eta = sum(s.seconds * s.times for s in stages if s not in (step, data)) + per_step * step.times
    result = {
        "stages": {s.name: {"seconds": s.seconds, "times": s.times} for s in stages},
        "images_per_second": int(made.config.train.batch) / per_step,
        "peak_bytes": peak,
        "eta_seconds": eta,
        "bottleneck": bottleneck(stages, made.workers),
        "picture": str(out / DRY_RUN),
    }
    _tell(result)
    return result


def _times(made: Prepared, out: Path) -> List[Stage]:
    epochs = made.config.train.epochs
    steps, evaluations = len(made.loader) * epochs, -(-epochs // made.config.eval.every)
    batches = timing.keep(made, STEPS)
    out.mkdir(parents=True, exist_ok=True)
    write(out / DRY_RUN, _picture(made, batches[0]))
    data = timing.data(made, 1, 2 * STEPS)
    timing.warm_up(made, batches[0])
    step = timing.step(made, batches, STEPS)
    timing.image(made, 0)
    return [
        Stage("data", data, steps),
        Stage("step", step, steps),
        Stage("evaluation", timing.image(made, 1) * len(made.val.ids), evaluations),
        Stage("save", timing.save(made, out), epochs),
    ]


def _picture(made: Prepared, batch: Batch) -> bytes:
    """The batch with its masks; of signals the first one."""
    dataset = made.val
    if made.config.model.dim == 2:
        return sheet.batch(batch.images, batch.masks, dataset)
    ids = np.where(batch.masks[0] == dataset.ignore, 0, batch.masks[0])
    rate = getattr(dataset, "rate", None)
    return records.plot(batch.images[0].T, ids, dataset.classes, palette(), rate)


def bottleneck(stages: List[Stage], workers: int) -> str:
    """Which part takes most of the run, in a sentence."""
    by_name = {s.name: s for s in stages}
    data, step = by_name["data"].seconds, by_name["step"].seconds
    if data > step:
        cure = "a higher data.workers" if workers else "data.workers=1 or more"
        return (
            f"data: a batch takes {data / step:.1f} times as long as a step; try {cure}, or "
            "data.cache=ram"
        )
    whole = {s.name: s.seconds * s.times for s in stages if s.name != "data"}
    most = max(whole, key=lambda name: whole[name])
    return f"the {most}s: {whole[most] / sum(whole.values()):.0%} of the run"


def _tell(result: Dict[str, Any]) -> None:
    lines = [
        f"{name:<11}{stage['seconds']:9.3f} s  x {stage['times']}"
        for name, stage in result["stages"].items()
    ]
    lines += [
        f"{result['images_per_second']:.1f} images/s; the whole run about "
        f"{tqdm.format_interval(result['eta_seconds'])}; memory at most "
        f"{result['peak_bytes'] / 2**30:.1f} GiB",
        f"bottleneck: {result['bottleneck']}",
        f"the first batch, as it is trained on: {result['picture']}",
    ]
    for line in lines:
        print(line, file=sys.stderr)
