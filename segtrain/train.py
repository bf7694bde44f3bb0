"""Training: a run folder from a config, resumable to the same bits from any step."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import mxnet as mx
import numpy as np
from tqdm import tqdm

import segtrain
from segtrain import config as configs
from segtrain import devices, losses
from segtrain.config import Config
from segtrain.data.cache import cached
from segtrain.data.dataset import Dataset, open_split
from segtrain.data.loader import Batch, Loader, open_loader
from segtrain.data.scan import scan
from segtrain.errors import SegtrainError, Stopped, UserError
from segtrain.evaluate import evaluate
from segtrain.infer import Policy, Predictor
from segtrain.learner import Learner
from segtrain.run import Run, write
from segtrain.stopping import StopRequest


def train(config: Config, out: Path, device: str = "auto", resume: bool = False) -> Run:
    """Train what `config` describes into the run folder `out`, and return the run.

    resume: go on from the run's last checkpoint. Raises UserError for what the user can mend,
    Stopped after a Ctrl-C or SIGTERM, with the run saved.
    """
    contexts = devices.contexts(device)
    run = _reopen(out, config) if resume else None
    if run is None:
        Run.check_free(out)
    sets = {"train": open_split(config.data, "train")}
    sets["val"] = open_split(config.data, "val", sets["train"].classes)
    census = {split: scan(dataset, split) for split, dataset in sets.items()}
    weights = losses.class_weights(
        config.train.class_weights, census["train"].pixels, sets["train"].classes
    )
    workers = workers_for(config, contexts)
    files = {split: _checksum(dataset.ids) for split, dataset in sets.items()}
    if run:
        _check_files(run, files)
    channels = config.model.in_channels
    kept = {k: cached(s, config.data, census[k].sizes, channels) for k, s in sets.items()}
    with StopRequest() as stop, _loader(config, kept["train"], workers) as loader:
        learner = Learner(config, sets["train"], weights, contexts, len(loader))
        run = run or Run.create(out)
        lock = run.lock()
        try:
            if not (run.path / "environment.json").exists():
                _describe(run, config, contexts, workers, files)
            Session(run, config, learner, loader, kept["val"], stop).go()
        except Stopped as stopped:
            raise Stopped(f"{stopped}; saved. To go on: {resume_command(run, device)}") from None
        finally:
            os.close(lock)
    return run


def resume_command(run: Run, device: str) -> str:
    """The command that goes on with a run that was stopped."""
    where = ["--devices", device] if device != "auto" else []
    command = ["segtrain", "train", str(run.path / "config.yaml"), "--out", str(run.path)]
    return shlex.join([*command, *where, "--resume"])


class Session:
    """One run's epochs: where it stands is `state`, which each checkpoint keeps."""

    def __init__(
        self, run: Run, config: Config, learner: Learner, loader: Loader, val: Dataset, stop: StopRequest
    ):
        self.run, self.config, self.learner = run, config, learner
        self.loader, self.val, self.stop = loader, val, stop
        self.policy = policy_of(config)
        self.predictor = Predictor(learner.net, learner.contexts[0], self.policy, learner.net.side)
        self.state: dict[str, Any] = {
            "epoch": 0,
            "batch": 0,
            "seconds": 0.0,
            "losses": {},
            "best": None,
            "history": [],
            "classes": val.classes,
            "ignore": val.ignore,
        }

    def go(self) -> None:
        """Train to the end of the last epoch, from the last checkpoint if there is one."""
        if self.run.has("last"):
            self._restore()
        elif self.config.model.encoder_params:
            self.run.log(self.learner.load_encoder())
        while self.state["epoch"] < self.config.train.epochs:
            self._steps()
            self._close_epoch()
            if self.stop():
                raise Stopped(f"stopped after epoch {self.state['epoch']}")

    def _steps(self) -> None:
        """The epoch's steps from where the state stands."""
        state, every = self.state, self.config.train.log_every
        before, begun, images = state["seconds"], time.perf_counter(), 0
        first = state["epoch"] * len(self.loader)
        self.learner.begin(state["epoch"])
        bar = tqdm(
            total=len(self.loader),
            initial=state["batch"],
            desc=f"epoch {state['epoch'] + 1}/{self.config.train.epochs}",
            unit="step",
            disable=None,
            leave=False,
        )
        with bar:
            for batch in self._batches():
                self.learner.step(batch, first + state["batch"])
                state["batch"] += 1
                images += len(batch.indices)
                if state["batch"] % every == 0 or self.stop():
                    self._read_losses()
                    self._show(bar, images / (time.perf_counter() - begun))
                if self.stop():
                    break
        self._read_losses()
        state["seconds"] = before + time.perf_counter() - begun
        if self.stop():
            self._save()
            raise Stopped(f"stopped in epoch {state['epoch'] + 1}, step {state['batch']}")

    def _batches(self) -> Iterator[Batch]:
        """The epoch's batches from where the state stands.

        A signal to the whole process group ends the loader's processes too: then the batches end.
        """
        try:
            yield from self.loader.epoch(self.state["epoch"], self.state["batch"])
        except SegtrainError:
            if not self.stop():
                raise

    def _read_losses(self) -> None:
        for step in self.learner.losses():
            for name, value in step.items():
                self.state["losses"][name] = self.state["losses"].get(name, 0.0) + value

    def _show(self, bar: tqdm, speed: float) -> None:
        state = self.state
        loss = sum(state["losses"].values()) / state["batch"]
        steps_left = (self.config.train.epochs - state["epoch"]) * len(self.loader) - state["batch"]
        eta = steps_left * self.config.train.batch / max(speed, 1e-9)
        bar.set_postfix(
            loss=f"{loss:.4f}",
            lr=f"{self.learner.lr:.2g}",
            img_s=f"{speed:.1f}",
            eta=tqdm.format_interval(eta),
            refresh=False,
        )
        bar.update(state["batch"] - bar.n)

    def _close_epoch(self) -> None:
        """Evaluate where it is due, add the row, save."""
        state, train, begun = self.state, self.config.train, time.perf_counter()
        row = {"epoch": state["epoch"] + 1, "step": (state["epoch"] + 1) * len(self.loader)}
        row["lr"] = self.learner.lr
        row["loss"] = sum(state["losses"].values()) / len(self.loader)
        row.update({f"loss_{k}": v / len(self.loader) for k, v in state["losses"].items()})
        due = (state["epoch"] + 1) % self.config.eval.every == 0
        result = None
        if due or state["epoch"] + 1 == train.epochs:
            self.learner.wait()
            result = evaluate(self.predictor, self.val, self.stop, self.config.eval.tolerance_ms)
            if result is None:
                self._save()
                raise Stopped(f"stopped in the evaluation of epoch {state['epoch'] + 1}")
            row.update(miou=result["miou"], pixel_accuracy=result["pixel_accuracy"])
            if "events" in result:
                row["events_f1"] = result["events"]["mean_f1"]
        row["images_per_second"] = round(len(self.loader.order(0)) / state["seconds"], 2)
        row["seconds"] = round(state["seconds"] + time.perf_counter() - begun, 1)
        state.update(epoch=state["epoch"] + 1, batch=0, seconds=0.0, losses={})
        state["history"].append(row)
        self._save(result)
        self._report(row)

    def _save(self, result: dict[str, Any] | None = None) -> None:
        """The checkpoint `last`, and `best` where the result is the best so far."""
        state = self.state
        model = self.learner.model_arrays()
        best = state["best"]
        better = result and (best is None or (result["miou"] or 0) > best["miou"])
        if better and result:
            state["best"] = {"miou": result["miou"] or 0.0, "epoch": state["epoch"]}
            self.run.save("best", {"model": model}, state)
        arrays = {"model": model, "optimizer": self.learner.optimizer_arrays()}
        self.run.save("last", arrays, {**state, "optimizer": self.learner.counts()})
        if state["history"]:
            self.run.write_history(state["history"])

    def _restore(self) -> None:
        arrays, state = self.run.load("last", ("model", "optimizer"))
        self.learner.restore(arrays["model"], arrays["optimizer"], state["optimizer"])
        self.state = {key: state[key] for key in self.state}

    def _report(self, row: dict[str, Any]) -> None:
        best = self.state["best"]
        score = (
            f"mIoU {row['miou']:.4f} (best {best['miou']:.4f})" if row.get("miou") is not None else ""
        )
        line = (
            f"epoch {row['epoch']}/{self.config.train.epochs}  loss {row['loss']:.4f}  "
            f"lr {row['lr']:.2g}  {row['images_per_second']} img/s  {score}"
        )
        self.run.log(line)


def policy_of(config: Config) -> Policy:
    """The config's way of sending an image through the network."""
    e = config.eval
    return Policy(tuple(e.scales), e.flip, e.window, e.overlap)


def run_path(config_path: Path, resume: bool, home: Path = Path("runs")) -> Path:
    """Where a run goes when the user doesn't say: runs/NAME, else NAME-2, NAME-3, ...

    With `resume`, the newest of these that exists; UserError where there is none.
    """
    stem = config_path.stem
    number, path, newest = 1, home / stem, None
    while path.exists():
        newest = path
        number += 1
        path = home / f"{stem}-{number}"
    if not resume:
        return path
    if newest is None:
        raise UserError(f"nothing to resume: there is no {path}; name the run with --out")
    return newest


def _reopen(out: Path, config: Config) -> Run:
    """The run to go on with; UserError where there is none, or its config differs."""
    if not (out / "config.yaml").is_file():
        raise UserError(f"nothing to resume: {out} is no run folder; leave --resume out to start")
    run = Run.open(out)
    if not run.has("last") and "averaged" in run.environment():
        raise UserError(f"{out} holds an average of checkpoints, which can't be trained on")
    kept, now = (_flat(c.model_dump(mode="json")) for c in (run.config(), config))
    free = ("data.root", "data.workers", "data.cache", "train.log_every")
    changed = [k for k in sorted({*kept, *now}) if kept.get(k) != now.get(k) and k not in free]
    if changed:
        key = changed[0]
        raise UserError(
            f"{out} was trained with {key}={kept.get(key)}, and this config has {now.get(key)}: "
            f"resume with {out / 'config.yaml'}, or start a new run without --resume"
        )
    return run


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _checksum(ids: list[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _check_files(run: Run, files: dict[str, str]) -> None:
    """UserError where the dataset doesn't hold the files that the run began with."""
    kept = run.environment().get("files_sha256", files)
    for split, checksum in files.items():
        if kept[split] != checksum:
            raise UserError(
                f"the split {split!r} holds other files than when {run.path} began: "
                "bring them back, or start a new run without --resume"
            )


def _describe(run: Run, config: Config, contexts: list, workers: int, files: dict[str, str]) -> None:
    """Write config.yaml and environment.json."""
    environment = {
        "command": sys.argv,
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(c) for c in contexts],
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "workers": workers,
        "files_sha256": files,
    }
    write(run.path / "config.yaml", configs.dump(config))
    write(run.path / "environment.json", json.dumps(environment, indent=1))


def _loader(config: Config, dataset: Dataset, workers: int) -> Loader:
    return open_loader(
        dataset, config.data, config.model.in_channels, config.train.batch, config.seed, workers
    )


def workers_for(config: Config, contexts: list) -> int:
    """Loader processes: as asked; 'auto' is one per CPU device, four per GPU, within the cores."""
    if config.data.workers != "auto":
        return int(config.data.workers)
    each = 1 if contexts[0].device_type == "cpu" else 4
    return max(1, min(each * len(contexts), (os.cpu_count() or 1) - 1, 16))


__all__ = ["Session", "policy_of", "resume_command", "run_path", "train", "workers_for"]
