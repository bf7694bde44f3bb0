"""Training: a run folder from a config, resumable to the same bits from any step."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import mxnet as mx
import numpy as np

import segtrain
from segtrain import config as configs
from segtrain import losses, plugins
from segtrain.bar import muted
from segtrain.config import Config
from segtrain.data.cache import cached
from segtrain.data.dataset import SPLITS, Dataset, open_split
from segtrain.data.loader import Loader, open_loader, pipelines
from segtrain.data.scan import scan
from segtrain.errors import Stopped, UserError, one_line
from segtrain.machines import heartbeat
from segtrain.machines.devices import contexts as find_devices
from segtrain.machines.ranks import ALONE, Ranks, join
from segtrain.prediction.threads import cpus
from segtrain.run import Run, is_taken, write
from segtrain.training import trial
from segtrain.training.learner import Learner, Step
from segtrain.training.session import Epoch, Session, Watchers
from segtrain.training.stopping import StopRequest


def train(
    config: Union[Config, Path, str],
    out: Union[Path, str, None] = None,
    devices: str = "auto",
    resume: bool = False,
    *,
    on_step: Sequence[Callable[[Step], Any]] = (),
    on_epoch: Sequence[Callable[[Epoch], Any]] = (),
    max_seconds: float = float("inf"),
    quiet: bool = False,
    report: bool = True,
) -> Run:
    """Train what `config` describes into the run folder `out`, and return the run.

    config: a Config, or the path of a YAML file; out: runs/NAME-OF-CONFIG where it is None;
    resume: go on from the run's last checkpoint; on_step, on_epoch: functions that are told of
    each step and each epoch; report: end with report.html. Raises UserError for what the user can
    mend, Stopped after a Ctrl-C, SIGTERM, a file STOP in the run folder, or `max_seconds`, with the
    run saved.
    """
    name = Path("run" if isinstance(config, Config) else config)
    config = config if isinstance(config, Config) else configs.load(Path(config))
    out = run_path(name, resume) if out is None else Path(out)
    contexts = find_devices(devices)
    ranks = join()
    run = _reopen(out, config) if resume and ranks.first else None
    if run is None and ranks.first:
        Run.check_free(out)
    watchers = Watchers(_listed(on_step), _listed(on_epoch))
    mute = muted(quiet or not ranks.first)
    with mute, StopRequest(max_seconds) as stop, prepare(config, contexts, run, ranks) as made:
        if run is None and ranks.first:
            Run.create(out)
        run = ranks.run(out)
        run.quiet, stop.agree = quiet, ranks.agree
        heartbeat.tell(run=str(out))
        with run.locked(), _ends_worded(run, made, devices):
            if ranks.first:
                _describe(run, made, contexts)
            stop.watch_for(run.path / "STOP")
            session = Session(run, made.config, made.learner, made.loader, made.val, stop, watchers)
            session.go()
            ranks.leave()
            if report and ranks.first:
                _report(run, session, devices)
    return run


@contextmanager
def _ends_worded(run: Run, made: Prepared, devices: str) -> Iterator[None]:
    """Stopped says how to go on, and the error of a full memory what to do."""
    try:
        yield
    except Stopped as stopped:
        made.learner.ranks.leave()
        raise Stopped(f"{stopped}; saved. To go on: {resume_command(run, devices)}") from None
    except mx.MXNetError as error:
        raise _of_memory(error, made.config) from error


def _report(run: Run, session: Session, devices: str) -> None:
    """Write report.html; the run is whole without it, so what goes wrong is a line in the log."""
    from segtrain.report import report

    heartbeat.tell(stage="reporting")
    epoch, scores = session.evaluated
    try:
        report(run.path, device=devices, scores=scores if epoch == run.best()["epoch"] else None)
    except Exception as error:
        told = one_line(error)
        run.log(f"no report.html ({told}); to try again: segtrain report {run.path}")


def _listed(functions: Any) -> List[Callable]:
    return [functions] if callable(functions) else list(functions)


def _of_memory(error: mx.MXNetError, config: Config) -> Exception:
    """The error itself, or what to do where the memory of a device is full."""
    if not trial.is_of_memory(str(error)):
        return error
    passes, batch = config.train.accumulate * 2, int(config.train.batch)
    return UserError(
        f"out of memory with train.batch={batch}: write train.accumulate={passes}, which needs about "
        f"half for the same result, or train.batch={max(1, batch // 2)}; train.batch=auto finds "
        "the largest that fits"
    )


class Prepared(NamedTuple):
    """All that a run needs, ready."""

    config: Config
    learner: Learner
    loader: Loader
    val: Dataset
    workers: int
    files: Dict[str, str]


@contextmanager
def prepare(
    config: Config, contexts: list, run: Optional[Run] = None, ranks: Ranks = ALONE
) -> Iterator[Prepared]:
    """What a config asks for, opened and checked against the `run` that it is to go on with.

    UserError for a dataset that can't be used, or that isn't the run's.
    """
    losses.terms(config.train.loss)  # a typo is told before the dataset is read
    sets = {"train": open_split(config.data, "train")}
    sets["val"] = open_split(config.data, "val", sets["train"].classes)
    census = {split: scan(dataset, split, config.data) for split, dataset in sets.items()}
    weights = losses.class_weights(
        config.train.class_weights, census["train"].pixels, sets["train"].classes
    )
    workers = workers_for(config, contexts)
    files = {split: _checksum(dataset.ids) for split, dataset in sets.items()}
    files.update(pipelines(config.data))
    if run:
        _check_files(run, files)
    _check_ranks(config, files, ranks)
    if config.train.batch == "auto":
        config = _with_batch(config, trial.largest_batch(config, sets["train"], weights, contexts))
    channels = config.model.in_channels
    kept = {k: cached(s, config.data, census[k].sizes, channels) for k, s in sets.items()}
    with _loader(config, kept["train"], workers) as loader:
        loader.share = ranks.share
        learner = Learner(config, sets["train"], weights, contexts, len(loader), ranks)
        yield Prepared(config, learner, loader, kept["val"], workers, files)


def _check_ranks(config: Config, files: Dict[str, str], ranks: Ranks) -> None:
    """UserError where this rank's dataset isn't the first one's, or its batch would be its own."""
    if ranks.size > 1 and config.train.batch == "auto":
        raise UserError(
            f"train.batch=auto is for one process, and here are {ranks.size}: write a number"
        )
    first = json.loads(ranks.from_first(json.dumps(files).encode()))
    for name, checksum in files.items():
        if first[name] != checksum:
            raise UserError(
                f"{_holding(name)} for rank {ranks.rank} than for rank 0: give all hosts the same files"
            )


def _with_batch(config: Config, batch: int) -> Config:
    """The config with the batch that was found."""
    train = config.train.model_copy(update={"batch": batch})
    found = config.model_copy(update={"train": train})
    found._origins.update(config._origins, **{"train.batch": "found by train.batch=auto"})
    return found


def resume_command(run: Run, device: str) -> str:
    """The command that goes on with a run that was stopped."""
    where = ["--devices", device] if device != "auto" else []
    where += [word for name in plugins.known() for word in ("--plugins", name)]
    started = shlex.split(os.environ.get("SEGTRAIN_LAUNCH", "segtrain"))
    command = [*started, "train", str(run.path / "config.yaml"), "--out", str(run.path)]
    return shlex.join([*command, *where, "--resume"])


def run_path(config_path: Path, resume: bool, home: Path = Path("runs")) -> Path:
    """Where a run goes when the user doesn't say: runs/NAME, else NAME-2, NAME-3, ...

    With `resume`, the newest of these that exists; UserError where there is none.
    """
    stem = config_path.stem
    number, path, newest = 1, home / stem, None
    while is_taken(path):
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
    if "averaged" in run.environment():
        raise UserError(f"{out} holds an average of checkpoints, which can't be trained on")
    kept, now = (_flat(c.model_dump(mode="json")) for c in (run.config(), config))
    free = {"data.root", "data.workers", "data.cache", "train.log_every"}
    free |= {key for key in now if key.startswith("checkpoint.")}
    if now["train.batch"] == "auto":
        free.add("train.batch")
    changed = [k for k in sorted({*kept, *now} - free) if kept.get(k) != now.get(k)]
    if changed:
        key = changed[0]
        raise UserError(
            f"{out} was trained with {key}={kept.get(key)}, and this config has {now.get(key)}: "
            f"resume with {out / 'config.yaml'}, or start a new run without --resume (from its weights: "
            f"model.weights={out})"
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


def _checksum(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _check_files(run: Run, files: dict[str, str]) -> None:
    """UserError where a split or a file of augmentations isn't what the run began with."""
    kept = run.environment().get("files_sha256", files)
    for name, checksum in files.items():
        if kept.get(name, checksum) != checksum:
            raise UserError(
                f"{_holding(name)} than when {run.path} began: "
                "put back what was there, or start a new run without --resume"
            )


def _holding(name: str) -> str:
    return f"the split {name!r} holds other files" if name in SPLITS else f"{name} holds something else"


def _tell_of_plugins(run: Run) -> None:
    """Say which plug-ins have changed since the run began; to mend them is no mistake."""
    kept, now = run.environment().get("plugins_sha256", {}), plugins.sources()
    for file in sorted(kept.keys() & now.keys()):
        if kept[file] != now[file]:
            run.log(f"{file} has changed since this run began: what follows is by the new one")


def _describe(run: Run, made: Prepared, contexts: list) -> None:
    """Write config.yaml and environment.json of a run that begins here."""
    if (run.path / "environment.json").exists():
        _tell_of_plugins(run)
        return
    environment = {
        "command": sys.argv,
        "folder": os.getcwd(),
        "segtrain": segtrain.__version__,
        "mxnet": mx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(c) for c in contexts],
        "ranks": made.learner.ranks.size,
        "threads": os.environ["OMP_NUM_THREADS"],
        "workers": made.workers,
        "files_sha256": made.files,
        **({"plugins_sha256": plugins.sources()} if plugins.known() else {}),
    }
    write(run.path / "config.yaml", configs.dump(made.config))
    write(run.path / "environment.json", json.dumps(environment, indent=1))


def _loader(config: Config, dataset: Dataset, workers: int) -> Loader:
    return open_loader(
        dataset, config.data, config.model.in_channels, int(config.train.batch), config.seed, workers
    )


def workers_for(config: Config, contexts: list) -> int:
    """Loader processes: as asked; 'auto' is one per CPU device, four per GPU, within the cores."""
    if config.data.workers != "auto":
        return int(config.data.workers)
    each = 1 if contexts[0].device_type == "cpu" else 4
    return max(1, min(each * len(contexts), cpus() - 1, 16))
