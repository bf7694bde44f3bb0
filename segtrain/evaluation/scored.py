"""Results of evaluation on the disk: read from a file, or kept in a run's folder."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Callable, Sequence

import segtrain
from segtrain.data.cache import stamps
from segtrain.data.dataset import Dataset, open_split
from segtrain.errors import UserError, one_line
from segtrain.evaluation.evaluate import evaluate, policy_of
from segtrain.prediction.infer import Policy
from segtrain.run import Run, write
from segtrain.runs import finished
from segtrain.trained import open_trained


def read(path: Path) -> dict[str, Any]:
    """A result that was written by `segtrain eval --json`; UserError where it isn't one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None
    if not isinstance(result, dict) or not {"images", "per_class", "policy"} <= set(result):
        raise UserError(f"{path} is no result of `segtrain eval --json`")
    return result


def scored(
    path: Path,
    split: str = "val",
    device: str = "auto",
    policy: Callable[[Policy], Policy] = lambda own: own,
) -> dict[str, Any]:
    """The result of a run's best checkpoint, from RUN/evaluations where it was scored before.

    policy: makes the policy from the config's own. What is kept counts while the checkpoint, the
    dataset's options and files, the policy and segtrain's version are the same.
    """
    run = Run.open(path)
    config, state = run.located(), run.load("best", ())[1]
    dataset = open_split(config.data, split, state["classes"])
    asked = policy(policy_of(config))
    about = [segtrain.__version__, state["sha256"], split, asked, config.eval.tolerance_ms, _of(dataset)]
    text = json.dumps([*about, config.data.model_dump(mode="json")], default=str)
    kept = path / "evaluations" / f"{sha256(text.encode()).hexdigest()[:16]}.json"
    if kept.is_file():
        return {**read(kept), **origin([path], split)}
    predictor = open_trained(path, device).predictor(asked)
    result = evaluate(predictor, dataset, tolerance_ms=config.eval.tolerance_ms)
    kept.parent.mkdir(exist_ok=True)
    write(kept, json.dumps(result))
    return {**result, **origin([path], split)}


def origin(paths: Sequence[Path], split: str) -> dict[str, Any]:
    """What a result says of where it comes from: split, runs, and recipe, that of a single run."""
    recipe = recipe_of(paths[0]) if len(paths) == 1 else None
    return {"split": split, "runs": [str(path) for path in paths], "recipe": recipe}


def recipe_of(path: Path) -> dict[str, Any] | None:
    """What two runs share where only their seeds differ: config, a checksum; and the seed.

    None for a bundle, for a run that wasn't trained to its end, and for an average.
    """
    if not (path / "config.yaml").is_file():
        return None
    run = Run.open(path)
    if not run.has("last") or "averaged" in run.environment():
        return None
    config = run.config()
    if not finished(config, run.history()):
        return None
    values = config.model_dump(mode="json")
    seed = values.pop("seed")
    for section, keys in (("data", ("workers", "cache")), ("train", ("log_every",))):
        for key in keys:
            del values[section][key]
    rest = {key: values[key] for key in ("model", "data", "train")}
    return {"config": sha256(json.dumps(rest, default=str).encode()).hexdigest()[:16], "seed": seed}


def other_seeds(path: Path) -> list[Path]:
    """The run folders beside a run that are finished runs of its config with other seeds."""
    own, found = recipe_of(path), []
    for folder in sorted(path.parent.iterdir()) if own else []:
        try:
            other = recipe_of(folder)
        except (UserError, OSError, KeyError, ValueError):  # a broken run, or of another version
            continue
        if other and own and other["config"] == own["config"] and other["seed"] != own["seed"]:
            found.append(folder)
    return found


def _of(dataset: Dataset) -> list[Any]:
    """What changes with the dataset: its ids, and each file's place, size and time."""
    return [dataset.ids, stamps(dataset)]
