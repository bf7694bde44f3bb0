"""The report as a file: what it says is what the run's files and `eval` say, and it is safe to open."""

import base64
import csv
import hashlib
import json
import os
import re
import shutil

import pytest
from conftest import run
from report_pages import CLASSES, Page

from segtrain import config as configs
from segtrain.report import facts
from segtrain.report import page as page_of_report
from segtrain.report.page import further

pytest_plugins = ["report_runs"]


@pytest.fixture(scope="module")
def page(image_run):
    return Page(image_run / "report.html")


@pytest.fixture(scope="module")
def scores(image_run):
    code, text = run("eval", image_run, "--json", image_run / "scores.json")
    assert code == 0, text
    return json.loads((image_run / "scores.json").read_text())


def figure(value):
    return "–" if value is None else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def test_the_scores_are_those_of_eval(page, scores):
    low, high = scores["miou_ci95"]
    assert f"{scores['miou']:.3f}" in page.text and f"{low:.3f} to {high:.3f}" in page.text
    for row, shown in zip(scores["per_class"], page.table("class", "IoU")):
        assert shown == [row["name"], *[figure(v) for k, v in row.items() if k != "name"]]
    pixels = [sum(row) for row in scores["confusion"]]
    largest = max(
        (scores["confusion"][i][j], CLASSES[i], CLASSES[j], pixels[i])
        for i in range(4)
        for j in range(4)
        if i != j
    )
    share = f"{100 * largest[0] / largest[3]:.1f}%"
    assert page.table("truth", "predicted as")[0] == [largest[1], largest[2], f"{largest[0]:,}", share]


def test_every_image_is_listed_from_the_lowest(page, scores):
    rows = [row[:2] for row in page.table("name", "mIoU")]
    assert sorted(rows) == sorted([image["id"], figure(image["miou"])] for image in scores["images"])
    found = [float(value) for _, value in rows if value != "–"]
    assert found == sorted(found) and rows[-1][1] == "–"
    shown = [attributes["id"] for _, attributes in page.tags if attributes.get("class") == "case"]
    order = sorted((image["miou"], i) for i, image in enumerate(scores["images"][:6]))
    assert shown == [f"case-{i}" for _, i in [*order[:2], order[-1], order[-2]]]


def test_the_confusion_matrix_holds_the_counts(page, scores):
    held = next(a["data-counts"] for _, a in page.tags if "data-counts" in a)
    assert json.loads(held) == scores["confusion"]


def test_the_config_with_its_origins(page, image_run):
    code, text = run("report", image_run, "--out", image_run.parent / "again.html")
    assert code == 0, text
    again = Page(image_run.parent / "again.html")
    rows = again.table("key", "value", "origin")
    assert ["seed", "0", "default"] in rows
    flat = [" ".join(row).split() for table in again.tables for row in table]
    (epochs,) = (row for row in flat if row[:1] == ["epochs"])
    assert epochs == ["epochs", "3", str(image_run.parent / "c.yaml")]


def test_settings_are_read_back_from_a_dumped_config(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "model: {name: unet}\ndata: {root: 'a  # b: c', classes: [x, 'y  # z']}\ntrain: {lr: 0.5}\n"
    )
    config = configs.load(tmp_path / "a.yaml", ["train.epochs=2", "seed=3"])
    (tmp_path / "config.yaml").write_text(configs.dump(config))
    rows = [row for rows in facts.settings(tmp_path / "config.yaml", config).values() for row in rows]
    found = {row.key: (row.value, row.origin) for row in rows}
    assert found["seed"] == ("3", "override seed=3")
    assert found["train.epochs"] == ("2", "override train.epochs=2")
    assert found["train.lr"] == ("0.5", str(tmp_path / "a.yaml"))
    assert found["data.root"] == ("'a  # b: c'", str(tmp_path / "a.yaml"))
    assert found["data.crop"] == ("[256, 256]", "default")


def test_the_history_is_a_table(page, image_run):
    with open(image_run / "history.csv", newline="") as file:
        kept = list(csv.DictReader(file))
    rows = page.table("epoch", "step")
    assert len(rows) == len(kept) == 3
    for row, shown in zip(kept, rows):
        assert [float(cell.replace(",", "")) for cell in shown] == pytest.approx(
            [float(value) for value in row.values()], rel=1e-3
        )


def test_names_are_text_and_nothing_else(page):
    assert all(name in page.text for name in CLASSES)
    assert "00 <b>&" in page.text and "{{ 7 * 7 }}" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [(tag, a) for tag, a in page.tags if tag in ("img", "b") and "src" in a]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


def test_it_is_one_file_that_fetches_nothing(page, image_run):
    outside = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action", "data") and not value.startswith(("#", "data:"))
    ]
    assert outside == []
    assert "@import" not in page.source and not re.search(r"url\((?!#)", page.source)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    script = re.search(r"<script>(.*)</script>\n</body>", page.source, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy
    assert (image_run / "report.html").stat().st_size < 400_000


def test_links_within_lead_somewhere(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
    assert links <= set(ids)
    labels = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert labels <= set(ids)


@pytest.mark.parametrize("kind", ["image_run", "signal_run"])
def test_the_same_run_gives_the_same_bytes(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    for name in ("a.html", "b.html"):
        code, text = run("report", folder, "--out", tmp_path / name, "--images", 1)
        assert code == 0, text
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_report_of_signals(signal_run):
    page = Page(signal_run / "report.html")
    rows = page.table("class", "edge")
    assert [row[:2] for row in rows] == [[c, e] for c in ("up", "<i>down") for e in ("onset", "offset")]
    assert "sample accuracy" in page.text and "Worst records" in page.text
    drawn = [a for _, a in page.tags if a.get("class") == "trace"]
    assert len(drawn) == 3  # two worst, and the one that is left


def test_a_run_that_lost_its_history(image_run, tmp_path):
    shutil.copytree(image_run, tmp_path / "run")
    for name in ("history.csv", "environment.json", "report.html"):
        os.unlink(tmp_path / "run" / name)
    code, text = run("report", tmp_path / "run", "--images", 0)
    assert code == 0, text
    page = Page(tmp_path / "run" / "report.html")
    assert "Environment" not in page.text and "Training" not in page.text and "mIoU" in page.text
    test_links_within_lead_somewhere(page)


def test_what_is_no_run(image_run, tmp_path):
    (tmp_path / "model.json").write_text("{}")  # a bundle
    code, text = run("report", tmp_path)
    assert code == 2 and "isn't a run folder" in text
    code, text = run("report", image_run, "--split", "test", "--out", tmp_path / "r.html")
    assert code == 2 and "no split 'test'" in text and not (tmp_path / "r.html").exists()


def test_every_number_of_an_evaluation_is_shown():
    scores = {
        "miou": 0.5,
        "miou_ci95": [0.4, 0.6],
        "kappa": 0.25,
        "frequency_weighted_iou": None,
        "confusion": [[1, 2], [3, 4]],
        "dice_ci95": [0.1, 0.2],
        "ece": 0.04,
        "bins": [0.1, 0.2, 0.3],
        "runs": ["a", "b"],
        "images_per_second": 9.0,
    }
    shown = [(page_of_report.label(key), page_of_report.figure(v)) for key, v in further(scores)]
    assert shown == [
        ("Cohen's kappa", "0.250"),
        ("Dice, 95% CI", "0.100 to 0.200"),
        ("calibration error (ECE)", "0.040"),
    ]
    rows = [{"id": "a", "miou": 0.5, "sha": "x"}, {"id": "b", "miou": None, "sha": "y"}]
    assert page_of_report.figures(rows) == ["miou"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("pixel_accuracy", "pixel accuracy"),
        ("frequency_weighted_iou", "frequency-weighted IoU"),
        ("boundary_f1_per_image", "boundary F1 per image"),
        ("miou_ci95", "mIoU, 95% CI"),
    ],
)
def test_labels(key, text):
    assert page_of_report.label(key) == text
    assert page_of_report.label(key, signals=True) == text.replace("pixel", "sample")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 00 min")],
)
def test_durations(seconds, text):
    assert page_of_report.duration(seconds) == text
