"""The training loop of one run: steps, evaluations, saves, and what happens when one goes wrong."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from segtrain import models
from segtrain.config import Config
from segtrain.data.dataset import Dataset
from segtrain.data.loader import Batch, Loader
from segtrain.errors import SegtrainError, Stopped
from segtrain.evaluation.evaluate import evaluate, policy_of
from segtrain.prediction.infer import Predictor
from segtrain.run import Run
from segtrain.training.board import Board, NoBoard, pictures
from segtrain.training.learner import Learner, NotANumber, Step
from segtrain.training.progress import Progress, table
from segtrain.training.stopping import StopRequest

ROLLBACKS = 10  # in a run; by then the learning rate is a thousandth


class Epoch(NamedTuple):
    """An epoch that is over."""

    row: Dict[str, Any]
    """Its row of history.csv."""
    result: Optional[Dict[str, Any]]
    """The evaluation, as `segtrain eval` has it, where there was one."""


class Watchers(NamedTuple):
    """Functions that are told of each step and each epoch, in order.

    Steps are told of `train.log_every` at a time, because reading a loss waits for the devices.
    """

    on_step: Sequence[Callable[[Step], Any]] = ()
    on_epoch: Sequence[Callable[[Epoch], Any]] = ()


class Session:
    """One run's epochs: where it stands is `state`, which each checkpoint keeps.

    evaluated: the last epoch that was judged, and the result.
    """

    def __init__(
        self,
        run: Run,
        config: Config,
        learner: Learner,
        loader: Loader,
        val: Dataset,
        stop: StopRequest,
        watchers: Watchers,
    ):
        self.run, self.config, self.learner = run, config, learner
        self.loader, self.val, self.stop, self.watchers = loader, val, stop, watchers
        net, context = learner.net, learner.contexts[0]
        way = policy_of(config)
        self.predictor = Predictor(net.inference(), context, way, net.side, net.stride)
        self._saved = time.monotonic()
        self._last: Optional[Step] = None
        self.evaluated: Tuple[int, Optional[Dict[str, Any]]] = (0, None)
        self.state: Dict[str, Any] = {
            "epoch": 0,
            "batch": 0,
            "seconds": 0.0,
            "losses": {},
            "best": None,
            "stale": 0,
            "waited": 0,
            "drops": 0,
            "rollbacks": 0,
            "history": [],
            "classes": val.classes,
            "ignore": val.ignore,
        }

    def go(self) -> None:
        """Train to the end of the last epoch, from the last checkpoint if there is one.

        Stopped, with the run saved, where a stop was asked for; SegtrainError where the loss is no
        number any more.
        """
        if self.run.has("last"):
            self._restore()
        else:
            if self.config.model.weights:
                self.run.log(models.load_weights(self.learner.net, self.config.model))
            if self.config.model.encoder_params:
                self.run.log(self.learner.load_encoder())
            if self.config.train.on_nan == "rollback":
                self._save()
        board = Board if self.learner.ranks.first else NoBoard
        self.board = board(self.run.path, self._step, self.run.log)
        try:
            self._epochs()
        finally:
            self.board.close()

    def _epochs(self) -> None:
        while not self._done():
            try:
                self.steps()
                self._close_epoch()
            except NotANumber as error:
                self._recover(error)
            if self.stop():
                raise Stopped(f"stopped after epoch {self.state['epoch']} ({self.stop.reason})")

    def _done(self) -> bool:
        patience = self.config.train.early_stop
        return self.state["epoch"] >= self.config.train.epochs or bool(
            patience and self.state["stale"] >= patience
        )

    @property
    def _step(self) -> int:
        """How many steps are done."""
        return self.state["epoch"] * len(self.loader) + self.state["batch"]

    # ---- an epoch's steps

    def steps(self) -> None:
        """The epoch's steps from where the state stands; all that a step costs is in here."""
        state, before, first_batch = self.state, self.state["seconds"], self.state["batch"]
        first = state["epoch"] * len(self.loader)
        title = f"epoch {state['epoch'] + 1}/{self.config.train.epochs}"
        self.learner.begin(state["epoch"])
        context, images = self.learner.contexts[0], 0
        with Progress(title, first_batch, len(self.loader), context, self.run.log) as progress:
            for batch in progress.waits(self._batches()):
                self.learner.step(batch, first + state["batch"])
                state["batch"] += 1
                images += len(batch.indices)
                if state["batch"] % self.config.train.log_every == 0 or self.stop():
                    self._read_losses()
                    self._show(progress, images)
                state["seconds"] = before + progress.seconds
                if self.stop():
                    break
                if self._save_is_due():
                    self._save()
            self._read_losses()
            state["seconds"] = before + progress.seconds
        if self.stop():
            self._save()
            raise Stopped(
                f"stopped in epoch {state['epoch'] + 1}, step {state['batch']} ({self.stop.reason})"
            )

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
            self._last = step
            for name, value in step.losses.items():
                self.state["losses"][name] = self.state["losses"].get(name, 0.0) + value
            terms = {f"loss/{name}": value for name, value in step.losses.items()}
            told = {"loss": step.loss, **terms, "lr": step.lr, "gradient norm": step.norm}
            self.board.scalars(step.number + 1, told)
            for watch in self.watchers.on_step:
                watch(step)

    def _show(self, progress: Progress, images: int) -> None:
        state = self.state
        left = (self.config.train.epochs - state["epoch"]) * len(self.loader) - state["batch"]
        means = {name: value / state["batch"] for name, value in state["losses"].items()}
        progress.show(state["batch"], means, self.learner.lr, images, left)

    # ---- the end of an epoch

    def _close_epoch(self) -> None:
        """Evaluate where it is due, add the row, save."""
        state, begun = self.state, time.perf_counter()
        steps = len(self.loader)
        row = {"epoch": state["epoch"] + 1, "step": (state["epoch"] + 1) * steps, "lr": self.learner.lr}
        row["loss"] = sum(state["losses"].values()) / steps
        row.update({f"loss_{k}": v / steps for k, v in state["losses"].items()})
        last = state["epoch"] + 1 == self.config.train.epochs
        result = self._evaluate(row) if last or row["epoch"] % self.config.eval.every == 0 else None
        row["images_per_second"] = round(len(self.loader.order(0)) / state["seconds"], 2)
        row["seconds"] = round(state["seconds"] + time.perf_counter() - begun, 1)
        self._show_scores(Epoch(row, result))  # before the save, which a kill might come after
        state.update(epoch=state["epoch"] + 1, batch=0, seconds=0.0, losses={})
        state["history"].append(row)
        self._keep_best(result)
        self._save()
        self._report(Epoch(row, result))

    def _evaluate(self, row: Dict[str, Any]) -> Dict[str, Any]:
        allowed, ranks = self.config.eval.tolerance_ms, self.learner.ranks
        try:
            with self.learner.judged():
                result = evaluate(self.predictor, self.val, self.stop, allowed, ranks=ranks)
                self._show_pictures(row["step"])
        except Stopped:
            self._save()
            why = f"stopped in the evaluation of epoch {row['epoch']} ({self.stop.reason})"
            raise Stopped(why) from None
        self.evaluated = row["epoch"], result
        row.update(miou=result["miou"], pixel_accuracy=result["pixel_accuracy"])
        if "events" in result:
            row["events_f1"] = result["events"]["mean_f1"]
        return result

    def _show_pictures(self, step: int) -> None:
        if self.learner.ranks.first:
            self.board.images(step, pictures(self.val, self.predictor))

    def _show_scores(self, epoch: Epoch) -> None:
        """The epoch's scores for TensorBoard."""
        scalars = {f"val/{k}": epoch.row.get(k) for k in ("miou", "pixel_accuracy", "events_f1")}
        if epoch.result:
            scalars.update({f"IoU/{c['name']}": c["iou"] for c in epoch.result["per_class"]})
        scalars["images/s"] = epoch.row["images_per_second"]
        self.board.scalars(epoch.row["step"], scalars)

    def _report(self, epoch: Epoch) -> None:
        row, best = epoch.row, self.state["best"]
        scored = row.get("miou") is not None
        score = f"mIoU {row['miou']:.4f} (best {best['miou']:.4f})" if scored else ""
        self.run.log(
            f"epoch {row['epoch']}/{self.config.train.epochs}  loss {row['loss']:.4f}  "
            f"lr {row['lr']:.2g}  {row['images_per_second']} img/s  {score}"
        )
        if epoch.result:
            self.run.log(table(epoch.result["per_class"]))
        if self._done() and row["epoch"] < self.config.train.epochs:
            self.run.log(f"early stop: no better mIoU in {self.state['stale']} evaluations")
        for watch in self.watchers.on_epoch:
            watch(epoch)

    # ---- checkpoints

    def _save_is_due(self) -> bool:
        steps, minutes = self.config.checkpoint.every_steps, self.config.checkpoint.every_minutes
        late = bool(minutes) and time.monotonic() - self._saved >= 60 * minutes
        return self.learner.ranks.agree_to_save(late) or bool(steps and self._step % steps == 0)

    def _save(self) -> None:
        """The checkpoint `last`, and history.csv."""
        self._read_losses()
        if self._last and not self.learner.finite():
            raise NotANumber(self._last)
        arrays = {"model": self.learner.model_arrays(), "optimizer": self.learner.optimizer_arrays()}
        self.run.save("last", arrays, {**self.state, "optimizer": self.learner.counts()})
        if self.state["history"]:
            self.run.write_history(self.state["history"])
        self._saved = time.monotonic()

    def _keep_best(self, result: Optional[Dict[str, Any]]) -> None:
        """The checkpoint `best` where the result is the best so far, and the epoch's if it is kept."""
        state, keep = self.state, self.config.checkpoint.keep
        with self.learner.judged():
            if result and (state["best"] is None or (result["miou"] or 0) > state["best"]["miou"]):
                best = {"miou": result["miou"] or 0.0, "epoch": state["epoch"]}
                state.update(best=best, stale=0, waited=0)
                self.run.save("best", {"model": self.learner.model_arrays()}, state)
            elif result:
                state.update(stale=state["stale"] + 1, waited=state["waited"] + 1)
                self._leave_plateau()
            if keep:
                name = f"epoch-{state['epoch']:04}"
                self.run.save(name, {"model": self.learner.model_arrays()}, state)
        self.run.prune("epoch-", keep)

    def _leave_plateau(self) -> None:
        """Lower the learning rate where `plateau` has waited long enough for a better score."""
        train, state = self.config.train, self.state
        lowest = train.factor ** state["drops"] <= train.final_lr
        if train.schedule != "plateau" or state["waited"] < train.patience or lowest:
            return
        state.update(waited=0, drops=state["drops"] + 1)
        self._scale_lr()
        self.run.log(
            f"no better mIoU in {train.patience} evaluations: lr {self.learner.lr:.2g} from here on"
        )

    def _scale_lr(self) -> None:
        train, state = self.config.train, self.state
        fallen = max(train.factor ** state["drops"], train.final_lr)
        self.learner.lr_scale = 0.5 ** state["rollbacks"] * fallen

    def _restore(self) -> None:
        arrays, state = self.run.load("last", ("model", "optimizer"))
        self.learner.restore(arrays["model"], arrays["optimizer"], state["optimizer"])
        self.state = {key: state.get(key, begun) for key, begun in self.state.items()}

    # ---- a loss that is no number

    def _recover(self, error: NotANumber) -> None:
        """Go back to the last checkpoint at half the learning rate, or say what happened and stop."""
        told = self._diagnosis(error.step)
        rollbacks = self.state["rollbacks"] + 1
        if self.config.train.on_nan == "stop" or rollbacks > ROLLBACKS or self.stop():
            raise SegtrainError(told) from None
        self.run.log(told)
        self._restore()
        self.board.rewind(self._step)
        self.state["rollbacks"] = rollbacks
        self._scale_lr()
        self._save()
        self.run.log(
            f"rollback {rollbacks}: from epoch {self.state['epoch'] + 1}, step {self.state['batch']} on "
            f"with {self.learner.lr_scale:g} of the learning rate"
        )

    def _diagnosis(self, step: Step) -> str:
        """What is known of the step whose loss was no number."""
        epoch, batch = divmod(step.number, len(self.loader))
        terms = ", ".join(f"{name} {value:.3g}" for name, value in step.losses.items())
        files = ", ".join(str(self.loader.dataset.name(i)) for i in step.indices)
        lines = [
            f"the loss is no longer a number in epoch {epoch + 1}, step {batch + 1}: {terms}, "
            f"lr {step.lr:.3g}",
            f"its batch: {files}",
            *self.learner.statistics(),
            "set train.lr lower, train.warmup higher, train.clip=1 or train.on_nan=rollback",
            *(["the last checkpoint is from before that"] if self.run.has("last") else []),
        ]
        return "\n  ".join(lines)
