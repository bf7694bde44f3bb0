"""The verdict on two results: its error rates, its parts against others' code, what it refuses."""

import copy
import json

import numpy as np
import pytest
from conftest import run
from scipy.stats import binomtest

from segtrain.errors import UserError
from segtrain.evaluation import compare, metrics
from segtrain.evaluation.metrics import Counts

CLASSES = ["ground", "cat", "dog"]


def result(rng, skill, images=40):
    """What `evaluate` gives of a made-up network; `skill`: mean share of right pixels."""
    truth = np.random.default_rng(0).integers(50, 500, (images, len(CLASSES)))
    right = np.clip(rng.normal(skill, 0.08, truth.shape), 0, 1)
    hits = (truth * right).astype(int)
    missed = truth - hits
    predicted = hits + np.roll(missed, 1, axis=1)
    rows = [
        {"id": f"{i:03d}", "truth_sha256": f"{i:x}", "counts": dict(zip(Counts._fields, counts))}
        for i, counts in enumerate(zip(hits.tolist(), truth.tolist(), predicted.tolist()))
    ]
    policy = {"absent_classes": "skip", "ignore": 255, "scales": [1.0], "flip": False}
    return {"images": rows, "per_class": [{"name": name} for name in CLASSES], "policy": policy}


def test_equal_networks_are_seldom_called_different():
    """Of 60 pairs that differ by chance alone, each test would call about 3 different."""
    rng = np.random.default_rng(1)
    called = [compare.compare(result(rng, 0.7), result(rng, 0.7)) for _ in range(60)]
    assert sum(found["miou"]["different"] for found in called) <= 6
    assert sum(any(row["different"] for row in found["per_class"]) for found in called) <= 6


def test_a_better_network_is_called_so_and_by_how_much():
    rng = np.random.default_rng(2)
    whole = [result(np.random.default_rng(seed), skill, 4000) for seed, skill in ((3, 0.7), (4, 0.73))]
    true = compare.compare(*whole)["miou"]["difference"]
    inside = 0
    for _ in range(30):
        found = compare.compare(result(rng, 0.7), result(rng, 0.73))
        low, high = found["miou"]["ci95"]
        inside += low <= true <= high
    assert inside >= 25
    found = compare.compare(result(rng, 0.7), result(rng, 0.8))
    assert found["verdict"].startswith("B is better by ")
    turned = compare.compare(result(rng, 0.8), result(rng, 0.7))
    assert turned["verdict"].startswith("A is better by ")
    assert all(row["different"] for row in found["per_class"])


def test_a_network_doesnt_differ_from_itself():
    one = result(np.random.default_rng(0), 0.7)
    found = compare.compare(one, one)
    assert found["verdict"].startswith("no difference that 40 images can show")
    assert found["miou"]["difference"] == 0 and found["miou"]["p"] == 1
    assert found["miou"]["wins"] == {"a": 0, "b": 0, "ties": 40}


def test_the_interval_is_that_of_a_bootstrap_done_one_by_one():
    a, b = (result(np.random.default_rng(seed), 0.7) for seed in (5, 6))
    rng, differences = np.random.default_rng(7), []
    for _ in range(2000):
        drawn = rng.integers(0, 40, 40)
        scores = []
        for one in (a, b):
            hits, truth, predicted = (
                np.sum([one["images"][i]["counts"][key] for i in drawn], axis=0)
                for key in Counts._fields
            )
            scores.append(np.mean(hits / (truth + predicted - hits)))
        differences.append(scores[1] - scores[0])
    found = compare.compare(a, b)["miou"]
    width = np.ptp(found["ci95"])
    assert found["ci95"] == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.06 * width)


def test_few_images_never_suffice():
    a, b = result(np.random.default_rng(0), 0.5, 5), result(np.random.default_rng(0), 0.9, 5)
    found = compare.compare(a, b)
    assert found["miou"]["ci95"][0] > 0.2 and not found["miou"]["different"]
    assert "no difference that 5 images can show" in found["verdict"]


def test_parts_against_other_code():
    for wins, losses in ((0, 0), (3, 3), (9, 1), (1, 9), (30, 12)):
        if wins + losses:
            wanted = binomtest(wins, wins + losses).pvalue
            assert compare.sign_test(wins, losses) == pytest.approx(wanted)
    assert compare.sign_test(0, 0) == 1
    # Holm's own example of the order: 0.01, 0.02, 0.03, 0.04 of four
    assert compare.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert compare.holm([0.5, 0.9]) == [1, 1]


def test_a_class_that_the_truth_lacks_is_won_by_who_doesnt_see_it():
    a, b = (result(np.random.default_rng(0), 0.7, 1) for _ in range(2))
    for one, seen in ((a, 9), (b, 0)):
        one["images"][0]["counts"].update(
            hits=[9, 9, 0], truth=[18, 9, 0], predicted=[18 - seen, 9, seen]
        )
    found = compare.compare(a, b)["per_class"][2]
    assert (found["a"], found["b"]) == (0, None) and found["wins"] == {"a": 0, "b": 1, "ties": 0}
    assert not found["different"]


def changed(one, **changes):
    other = copy.deepcopy(one)
    other["policy"].update(changes)
    return other


def test_results_that_cant_be_paired_are_refused():
    one = result(np.random.default_rng(0), 0.7)
    short, other, named = (copy.deepcopy(one) for _ in range(3))
    short["images"].pop()
    other["images"][3]["truth_sha256"] = "0"
    named["per_class"][0]["name"] = "sea"
    for wrong, part in (
        (short, "039 is in A alone"),
        (other, "the truth of 003 differs"),
        (named, "B sea, cat, dog"),
        (changed(one, flip=True), "flip=False, and B with flip=True.*--across-policies"),
        (changed(one, ignore=0), "ignore=255, and B with ignore=0"),
        ({**one, "images": [{"id": "a"}]}, "B is no result of `segtrain eval --json`"),
    ):
        with pytest.raises(UserError, match=part):
            compare.compare(one, wrong)
    assert not compare.compare(one, changed(one, flip=True), across_policies=True)["miou"]["different"]
    with pytest.raises(UserError, match="ignore"):
        compare.compare(one, changed(one, ignore=0), across_policies=True)


def test_the_order_of_the_images_doesnt_matter():
    a, b = (result(np.random.default_rng(seed), 0.7) for seed in (0, 1))
    found = compare.compare(a, b)
    b["images"].reverse()
    assert compare.compare(a, b) == found


def test_neither_of_two_seeds_is_called_better():
    rng = np.random.default_rng(0)
    a, b = result(rng, 0.7), result(rng, 0.8)
    assert compare.compare(a, b)["better"] == "b"
    a["recipe"], b["recipe"] = ({"config": "same", "seed": seed} for seed in (0, 1))
    found = compare.compare(a, b)
    assert found["better"] is None and found["miou"]["different"]
    assert found["verdict"].startswith("one config, two seeds: they differ by chance of training")
    for other in ({"config": "other", "seed": 1}, {"config": "same", "seed": 0}, None):
        assert compare.compare(a, {**b, "recipe": other})["better"] == "b"
    flipped = {**b, "policy": {**b["policy"], "flip": True}}
    assert compare.compare(a, flipped, across_policies=True)["better"] == "b"


def test_files_are_compared_as_well(tmp_path):
    for name, skill in (("a", 0.6), ("b", 0.8)):
        one = result(np.random.default_rng(0), skill)
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    code, text = run("compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json")
    assert code == 0 and "B is better by" in text and "Holm" in text
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["miou"]["different"] and found["images"] == 40
    for content, part in (("[]", "no result of"), ("{", "Expecting"), ("{}", "no result of")):
        (tmp_path / "b.json").write_text(content)
        code, text = run("compare", tmp_path / "a.json", tmp_path / "b.json")
        assert code == 2 and part in text and "Traceback" not in text
    code, text = run("compare", tmp_path / "a.json", tmp_path / "none")
    assert code == 2 and "doesn't exist" in text


def test_bootstrap_of_one_result_agrees_with_the_paired_one_against_nothing():
    """Against a network that is never right, the difference is the score, so are the intervals."""
    a = result(np.random.default_rng(0), 0.7)
    nothing = copy.deepcopy(a)
    for row in nothing["images"]:
        row["counts"]["hits"] = [0] * len(CLASSES)
    found = compare.compare(nothing, a)["miou"]
    counts = compare.image_counts(a["images"])
    assert found["ci95"] == pytest.approx(metrics.bootstrap(counts, rounds=4000), abs=2e-3)
