"""The verdict on two results: its error rates, its parts against others' code, what it refuses."""

import copy
import json

import numpy as np
import pytest
from conftest import run
from scipy.stats import binomtest, ttest_ind

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


def of_seed(one, seed, config="same"):
    return {**one, "recipe": {"config": config, "seed": seed}}


def test_two_seeds_of_one_config_are_no_better_than_each_other():
    """Their own difference is then all that is known of what a seed does."""
    rng = np.random.default_rng(0)
    a, b = result(rng, 0.7), result(rng, 0.8)
    found = compare.compare(a, b)
    assert found["better"] == "b" and found["seeds"] == {"a": 1, "b": 1, "spread": None}
    assert found["verdict"].startswith("B is better by ") and found["verdict"].endswith(compare.OF_TWO)
    found = compare.compare(of_seed(a, 0), of_seed(b, 1))
    row = found["miou"]
    assert found["better"] is None and row["p_bootstrap"] < 0.01 and row["p_sign"] < 0.01
    assert row["p_seeds"] > 0.3
    assert found["seeds"]["spread"] == pytest.approx(row["difference"] / np.sqrt(2))
    assert found["verdict"].startswith("no difference that 40 images and 2 runs can show")
    for other in (of_seed(b, 1, "other"), of_seed(b, 0), b):
        assert compare.compare(of_seed(a, 0), other)["better"] == "b"
    flipped = {**of_seed(b, 1), "policy": {**b["policy"], "flip": True}}
    assert compare.compare(of_seed(a, 0), flipped, across_policies=True)["better"] == "b"


def seeds(rng, skill, runs, spread=0.02):
    return [result(rng, skill + spread * rng.normal()) for _ in range(runs)]


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_configs_of_one_skill_are_seldom_called_different_whatever_their_seeds_do(runs):
    """One run of each, taken for the config, would be wrong half of the time here."""
    rng, alone, together = np.random.default_rng(runs), 0, 0
    for _ in range(60):
        (a, *more_a), (b, *more_b) = seeds(rng, 0.7, runs), seeds(rng, 0.7, runs)
        alone += compare.compare(a, b)["better"] is not None
        together += compare.compare(a, b, False, more_a, more_b)["better"] is not None
    assert together <= 6 and alone >= 15


def test_a_better_config_is_found_through_its_seeds():
    rng = np.random.default_rng(0)
    (a, *more_a), (b, *more_b) = seeds(rng, 0.7, 4), seeds(rng, 0.8, 4)
    found = compare.compare(a, b, False, more_a, more_b)
    assert found["better"] == "b" and all(row["different"] for row in found["per_class"])
    row, images_alone = found["miou"], compare.compare(a, b)["miou"]
    assert row["a"] == pytest.approx(np.mean([miou_of(one) for one in (a, *more_a)]))
    assert np.ptp(row["ci95"]) > 1.2 * np.ptp(images_alone["ci95"])
    assert row["ci95"][0] < row["difference"] < row["ci95"][1]
    assert "seeds move the score by" in found["verdict"] and compare.OF_TWO not in found["verdict"]
    turned = compare.compare(b, a, False, more_b, more_a)
    assert turned["better"] == "a" and turned["miou"]["p_seeds"] == pytest.approx(
        row["p_seeds"], rel=0.1
    )


def miou_of(one):
    return metrics.miou(compare.image_counts(one["images"]).sum())


def test_the_test_over_seeds_against_other_code():
    """Where the images' chance is nothing it is Student's; where the seeds' is, the normal one."""
    a, b = np.random.default_rng(0).normal(size=(2, 4))
    of_seeds = (a.var(ddof=1) + b.var(ddof=1)) / 2 * (1 / 4 + 1 / 4)
    p, interval = compare.t_test(b.mean() - a.mean(), 0.0, of_seeds, 6)
    wanted = ttest_ind(b, a)
    assert p == pytest.approx(wanted.pvalue)
    assert interval == pytest.approx(list(wanted.confidence_interval()))
    p, interval = compare.t_test(1.96, 1.0, 0.0, 6)
    assert p == pytest.approx(0.05, abs=1e-4) and interval == pytest.approx([0, 3.92], abs=1e-3)
    assert compare.t_test(0.0, 0.0, 0.0, 1) == (1, [0, 0])


def test_further_runs_are_of_the_same_config_with_other_seeds():
    rng = np.random.default_rng(0)
    a, b, c = (result(rng, 0.7) for _ in range(3))
    for more, part in (
        (of_seed(c, 0), "another run of A has the same seed"),
        (of_seed(c, 1, "other"), "another run of A is of another config"),
        (changed(c, flip=True), "A was scored with flip=False, and another run of A with flip=True"),
    ):
        with pytest.raises(UserError, match=part):
            compare.compare(of_seed(a, 0), of_seed(b, 0, "other"), False, [more])
    assert (
        compare.compare(of_seed(a, 0), of_seed(b, 0, "other"), False, [of_seed(c, 1)])["seeds"]["a"] == 2
    )


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
