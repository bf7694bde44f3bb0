"""Judging runs through the command line: scores, files, ensembles, averages, comparisons."""

import csv
import json
import shutil
import threading
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from conftest import CLASSES, run, write_pair
from PIL import Image
from sklearn import metrics as sk

from segtrain.config import load
from segtrain.data import shapes
from segtrain.data.dataset import open_split
from segtrain.data.loader import open_loader
from segtrain.evaluation import evaluate, metrics, swa
from segtrain.evaluation.evaluate import image_counts
from segtrain.prediction.infer import Policy
from segtrain.run import Run
from segtrain.runs import runs
from segtrain.trained import open_ensemble, open_trained


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two runs, a and b, of three epochs on shapes of three sizes, a part of each mask void."""
    home = tmp_path_factory.mktemp("judged")
    for split in ("train", "val"):
        for index, size in enumerate([(48, 64), (40, 48), (48, 64), (64, 48)]):
            image, mask = shapes.build(split, size=size).read(index)
            mask[:5] = 255
            write_pair(home / "data" / split, f"{index}", image, mask)
    text = f"""
model: {{name: unet, widths: [8, 16], units: 1}}
data: {{name: folder, root: {home}/data, classes: {CLASSES}, crop: [32, 32], workers: 0}}
train: {{epochs: 3, batch: 2, lr: 0.01}}
"""
    (home / "tiny.yaml").write_text(text)
    for seed, name in enumerate("ab"):
        code, said = run("train", home / "tiny.yaml", f"seed={seed}", "--out", home / name)
        assert code == 0, said
    return home


def scores(home, *arguments):
    code, text = run("eval", home / "a", *arguments, "--json", home / "scores.json")
    assert code == 0, text
    return json.loads((home / "scores.json").read_text()), text


def read(path):
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.mark.parametrize(("quota", "readers"), [(3.5, 2), (0.5, 1)])
def test_a_container_reads_in_no_more_threads_than_it_may_use(home, monkeypatch, quota, readers):
    trained = open_trained(home / "a", "cpu")
    val, seen = open_split(trained.config.data, "val"), set()
    look = val.read

    def read(index):
        seen.add(threading.get_ident())
        time.sleep(0.05)  # so that no thread is free for the next one
        return look(index)

    monkeypatch.setattr(val, "read", read)
    monkeypatch.setattr("segtrain.prediction.threads.quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(64))
    assert evaluate.evaluate(trained.predictor(), val) and len(seen) == readers


def test_predictions_read_back_give_the_same_scores(home):
    found, text = scores(home, "--save-predictions", home / "masks")
    truths = [read(p) for p in sorted((home / "data/val/masks").iterdir())]
    masks = [read(p) for p in sorted((home / "masks").iterdir())]
    assert [m.shape for m in masks] == [t.shape for t in truths] and len(masks) == 4
    valid = [t != 255 for t in truths]
    t, p = (np.concatenate([m[v] for m, v in zip(group, valid)]) for group in (truths, masks))
    assert found["confusion"] == sk.confusion_matrix(t, p, labels=range(4)).tolist()
    there = sorted({*t, *p})
    assert found["miou"] == pytest.approx(sk.jaccard_score(t, p, labels=there, average="macro"))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(t, p))
    for row, truth, mask, known in zip(found["images"], truths, masks, valid):
        own = sorted({*truth[known], *mask[known]})
        wanted = sk.jaccard_score(truth[known], mask[known], labels=own, average="macro")
        assert row["miou"] == pytest.approx(wanted)
    counts = image_counts(found["images"])
    assert metrics.miou(counts.sum()) == pytest.approx(found["miou"])
    assert "policy: IoU = " in text.replace("\n", " ") and "ignored id: 255" in text


def test_the_keys_that_others_rely_on(home):
    found, _ = scores(home)
    keys = "miou pixel_accuracy per_class miou_ci95 confusion policy images images_per_second split"
    assert set(keys.split()) <= set(found)
    assert {"name", "iou", "dice", "precision", "recall", "pixels"} == set(found["per_class"][0])
    assert {"id", "miou"} <= set(found["images"][0])
    assert {"scales", "flip", "window", "overlap", "ignore", "absent_classes"} <= set(found["policy"])
    numbers = (home / "scores.json").read_text().splitlines()
    assert len([line for line in numbers if line.strip().startswith('"hits": [')]) == 4


def test_more_metrics_where_asked_for_and_a_csv(home):
    found, text = scores(
        home, "--metrics", "boundary,calibration,segments", "--csv", home / "scores.csv"
    )
    assert "Boundary IoU" in text and "calibration error" in text and "Rand error" in text
    assert list(found["measures"]) == ["boundary", "calibration", "segments"]
    trained = open_trained(home / "a", "cpu")
    val = open_split(trained.config.data, "val")
    confidence, hits = [], []
    for i in range(len(val.ids)):
        image, mask = val.read(i)
        p = trained.predictor().probabilities(image)
        confidence.append(p.max(axis=0)[mask != 255])
        hits.append((p.argmax(axis=0) == mask)[mask != 255])
    confidence, hits = np.concatenate(confidence), np.concatenate(hits)
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = sum(
        abs((hits[bins == b].astype(float) - confidence[bins == b]).sum()) for b in range(15)
    ) / len(hits)
    assert found["ece"] == pytest.approx(error, abs=1e-4)
    with open(home / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["scope"] for row in rows] == ["all"] + ["class"] * 4 + ["image"] * 4
    assert float(rows[0]["iou"]) == found["miou"] and float(rows[0]["ece"]) == found["ece"]
    for row, wanted in zip(rows[1:], [*found["per_class"], *found["images"]]):
        assert row["name"] == wanted.get("name", wanted.get("id"))
        for key in set(row) & set(wanted) - {"name"}:
            assert row[key] == ("" if wanted[key] is None else str(wanted[key]))
    assert int(rows[0]["pixels"]) == sum(int(row["pixels"]) for row in rows[5:])


def test_an_unknown_metric_is_refused_with_the_nearest(home):
    code, text = run("eval", home / "a", "--metrics", "bondary")
    assert code == 2 and "did you mean boundary?" in text


def test_an_ensemble_averages_probabilities(home):
    both = open_ensemble([home / "a", home / "b"], "cpu")
    image = open_split(both.config.data, "val").read(0).image
    for policy in (Policy(), Policy(scales=(1.0, 1.5), flip=True)):
        alone = [open_trained(home / n, "cpu").predictor(policy).probabilities(image) for n in "ab"]
        found = both.predictor(policy).probabilities(image)
        assert found == pytest.approx(np.mean(alone, axis=0), abs=1e-5)
        assert (both.predictor(policy).mask(image) == found.argmax(axis=0)).mean() > 0.999
    one, _ = scores(home)
    with_itself, text = scores(home, "--with", home / "a")
    assert with_itself["confusion"] == one["confusion"] and "mean of 2 runs" in text
    assert with_itself["runs"] == [str(home / "a")] * 2
    assert scores(home, "--with", home / "b")[0]["confusion"] != one["confusion"]


def test_predict_takes_an_ensemble_too(home):
    images = home / "data/val/images"
    code, text = run("predict", home / "a", images, "--with", home / "b", "--out", home / "both")
    assert code == 0, text
    scores(home, "--with", home / "b", "--save-predictions", home / "scored")
    for path in sorted((home / "scored").iterdir()):
        assert (read(path) == read(home / "both" / path.name)).all()


def test_an_ensemble_of_other_classes_is_refused(home, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(home / "b", other)
    state = other / "checkpoints/best/state.json"
    state.write_text(state.read_text().replace("circle", "ball"))
    code, text = run("eval", home / "a", "--with", other)
    assert code == 2 and "ball" in text and "can't be averaged" in text


def test_runs_are_compared_and_their_scores_kept(home):
    code, text = run("compare", home / "a", home / "b", "--json", home / "verdict.json")
    assert code == 0 and "no difference that 4 images and 2 runs can show" in " ".join(text.split())
    found = json.loads((home / "verdict.json").read_text())
    assert found["miou"]["a"] == scores(home)[0]["miou"] and found["images"] == 4
    kept = list((home / "a/evaluations").iterdir())
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    run("compare", home / "a", home / "scores.json")
    assert kept[0].stat().st_mtime_ns == before and len(list(kept[0].parent.iterdir())) == 1
    run("compare", home / "a", home / "b", "--flip")
    assert len(list(kept[0].parent.iterdir())) == 2
    code, text = run("compare", home / "a", home / "scores.json", "--flip")
    assert code == 2 and "flip" in text and "--across-policies" in text


def test_scores_kept_before_the_masks_changed_are_not_used(home, tmp_path):
    mask = home / "data/val/masks/0.png"
    shutil.copy(mask, tmp_path / "0.png")
    run("compare", home / "a", home / "b")
    shutil.copy(home / "data/val/masks/2.png", mask)
    code, text = run("compare", home / "a", home / "scores.json")
    shutil.copy(tmp_path / "0.png", mask)
    assert code == 2 and "the truth of 0 differs" in text


def test_an_average_is_the_mean_of_the_checkpoints(home):
    code, text = run("average", home / "a", "--json", home / "average.json")
    assert code == 0, text
    assert "averaged " in text and "of the best checkpoint (A)" in text and "images can show" in text
    found = json.loads((home / "average.json").read_text())
    states = Run.open(home / "a").checkpoints()
    digests = {state["sha256"]["model.params"] for state in states.values()}
    assert len(found["averaged"]) == len(digests) > 1
    arrays = [
        mx.nd.load(str(home / "a/checkpoints" / one["name"] / "model.params"))
        for one in found["averaged"]
    ]
    made = mx.nd.load(str(home / "a-average/checkpoints/best/model.params"))
    for name, array in made.items():
        wanted = np.mean([a[name].asnumpy() for a in arrays], axis=0)
        if "running" in name:
            assert array.asnumpy() != pytest.approx(wanted, rel=1e-3)
        else:
            assert array.asnumpy() == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert found["miou"]["best"] == scores(home)[0]["miou"]
    code, text = run("eval", home / "a-average", "--json", home / "again.json")
    assert code == 0
    assert json.loads((home / "again.json").read_text())["miou"] == found["miou"]["average"]
    (row,) = runs(home / "a-average")
    assert (row["state"], row["miou"]) == ("average", found["miou"]["average"])


def test_statistics_of_an_average_are_those_of_the_training_batches(home):
    """With one batch, what is trained with its own statistics is what is predicted with the kept."""
    config = load(home / "tiny.yaml", ["train.batch=4", "data.augment=[]"])
    trained = open_trained(home / "a", "cpu")
    swa.renew_statistics(trained.net, config, mx.cpu())
    train = open_split(config.data, "train")
    with open_loader(train, config.data, 3, 4, config.seed, 0) as loader:
        x = mx.nd.array(next(loader.epoch(0)).images, dtype="uint8")
    trained.net.hybridize(active=False)
    predicted = trained.net.heads(x)[0].asnumpy()
    with mx.autograd.train_mode():
        in_training = trained.net.heads(x)[0].asnumpy()
    assert predicted == pytest.approx(in_training, abs=2e-3)


def test_averages_that_make_no_sense_are_refused(home, tmp_path):
    lone = tmp_path / "lone"
    shutil.copytree(home / "a", lone, ignore=shutil.ignore_patterns("last*", "*.previous"))
    code, text = run("average", lone)
    assert code == 2 and "needs two" in text and not (tmp_path / "lone-average").exists()
    code, text = run("average", home / "a", "--out", home / "b")
    assert code == 2 and "exists" in text
    made = tmp_path / "made"
    assert run("average", home / "a", "--out", made)[0] == 0
    code, text = run("train", made / "config.yaml", "--resume", "--out", made)
    assert code == 2 and "holds an average" in text
    broken = home / "a/checkpoints/best/state.json"
    kept = broken.read_text()
    broken.write_text("{")
    code, text = run("average", home / "a", "--out", tmp_path / "no")
    broken.write_text(kept)
    assert code == 2 and "best is damaged" in text


def test_reading_ahead_keeps_the_order_and_tells_of_errors():
    def square(i):
        if i == 50:
            raise ValueError("fifty")
        return i * i

    for threads in (1, 3):
        assert list(evaluate._ahead(square, range(40), threads)) == [i * i for i in range(40)]
        with pytest.raises(ValueError, match="fifty"):
            list(evaluate._ahead(square, range(60), threads))


def test_huge_samples_are_read_one_at_a_time(monkeypatch):
    monkeypatch.setattr(evaluate, "AHEAD", 1000)
    read, most = [], 0

    def make(i):
        read.append(i)
        return (np.zeros(2000, np.uint8),)

    for done, _ in enumerate(evaluate._ahead(make, range(8), 3)):
        most = max(most, len(read) - done)
    assert most == 1
