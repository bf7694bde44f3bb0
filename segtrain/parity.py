"""Parity of a bundle of signals: its own infer.py in a fresh process against the trained network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from segtrain import infer, records
from segtrain.data.dataset import open_split
from segtrain.errors import UserError
from segtrain.records import Form
from segtrain.trained import Trained

ODD, SHORT = 333, 32  # samples


def compare(
    trained: Trained, bundle: Path, run: Callable[[Path, Path, Path], None]
) -> Tuple[List[Dict[str, Any]], str]:
    """A row for each of three records, and where they are from.

    run: calls a bundle's infer.py with a folder of inputs and one for its output. The records are
    of their own length, of an odd one and of a short one.
    """
    assert trained.form is not None
    given, source = _records(trained)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name, signal in given.items():
            infer.write(home / "records" / f"{name}.csv", _csv(signal, trained.form))
        run(bundle / "infer.py", home / "records", home / "labels")
        rows = [_row(trained, trained.form, home, name) for name in given]
    return rows, source


def _records(trained: Trained) -> Tuple[Dict[str, np.ndarray], str]:
    """Three signals (L, C); noise where the dataset is gone."""
    assert trained.config is not None and trained.form is not None
    try:
        dataset, source = open_split(trained.config.data, "val"), "the validation split"
        signals = [dataset.read(i % len(dataset.ids)).image for i in range(3)]
    except UserError as error:
        source = f"noise ({error})"
        size = (1000, len(trained.form.signal))
        signals = [np.random.default_rng(i).normal(size=size) for i in range(3)]
    lengths = [len(signals[0]), ODD, SHORT]
    return {f"{i}-{n}": s[:n] for i, (n, s) in enumerate(zip(lengths, signals))}, source


def _csv(signal: np.ndarray, form: Form) -> bytes:
    lines = [",".join(form.signal), *(",".join(map(repr, row)) for row in signal.tolist())]
    return "\n".join([*lines, ""]).encode()


def _row(trained: Trained, form: Form, home: Path, name: str) -> Dict[str, Any]:
    signal = records.read_signal(home / "records" / f"{name}.csv", form)
    labels = records.read_columns(home / "labels" / f"{name}.csv", ["class"])["class"]
    predictor = trained.predictor()
    difference = np.abs(np.load(home / "labels" / f"{name}.npy") - predictor.scores(signal))
    return {
        "length": len(signal),
        "pixels": len(labels),
        "differing_pixels": int((labels != predictor.mask(signal)).sum()),
        "max_abs_difference": float(difference.max()),
        "mean_abs_difference": float(difference.mean()),
    }
