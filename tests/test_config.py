from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtrain import config
from segtrain.data import augment, augment1d
from segtrain.errors import UserError

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))


def test_overrides_and_base(tmp_path):
    (tmp_path / "base.yaml").write_text("train: {lr: 0.5, epochs: 7}\nmodel: {name: unet, widths: [8]}")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ntrain: {lr: 0.25}")
    loaded = config.load(tmp_path / "top.yaml", ["train.batch=3", "model.widths=[8, 16]"])
    assert (loaded.train.lr, loaded.train.epochs, loaded.train.batch) == (0.25, 7, 3)
    assert loaded.model.options == {"widths": [8, 16]}
    assert loaded.origin("train.lr").endswith("top.yaml")
    assert loaded.origin("train.epochs").endswith("base.yaml")
    assert loaded.origin("train.batch") == "override train.batch=3"
    assert loaded.origin("train.optimizer") == "default"


def test_a_section_without_keys_says_nothing(tmp_path):
    (tmp_path / "base.yaml").write_text("eval: {every: 3}")
    (tmp_path / "top.yaml").write_text("base: base.yaml\neval:\n  # every: 2\n")
    assert config.load(tmp_path / "top.yaml").eval.every == 3


def test_dump_reads_back_the_same(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: {name: shapes, augment: [scale(0.5, 2), flip], label_map: {255: 1}}")
    loaded = config.load(path, ["train.loss={ce: 1, dice: 0.5}", "train.class_weights=[1, 2.5]"])
    again = tmp_path / "b.yaml"
    again.write_text(config.dump(loaded))
    assert loaded.data.augment == ["scale(0.5, 2)", "flip"]
    assert config.load(again).model_dump(mode="json") == loaded.model_dump(mode="json")
    assert "# override train.class_weights=[1, 2.5]" in again.read_text()


def test_an_override_of_two_lines_reads_back(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("")
    loaded = config.load(path, ["train.loss={ce: 1,\n dice: 1}"])
    path.write_text(config.dump(loaded))
    assert config.load(path).train.loss == {"ce": 1, "dice": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trian: {lr: 1}", "did you mean train?"),
        ("train: {lr: 1}\nseed: 2\ntrain: {batch: 2}", "a.yaml:3: train is in line 1 already"),
        ("train: {lr: 1, lr: 2}", "a.yaml:1: lr is in line 1 already"),
        ("train: {lr: .inf}", "train.lr=inf: input should be a finite number"),
        ("train: {class_weights: [.nan, 1]}", "finite number"),
        ("train: {early_stop: true}", "train.early_stop=True: not yes or no, but a number"),
        ("data: {workers: yes}", "not yes or no"),
        ("train: 5", "train=5: a section is keys with values"),
        ("train: {epoch: 3}", "did you mean epochs?"),
        ("train: {lr: fast}", "train.lr='fast'"),
        ("train: {lr: -1}", "greater than 0"),
        ("train: {optimizer: sdg}", "should be 'sgd', 'nag', 'adam'"),
        ("data: {crop: [0, 5]}", "positive"),
        ("eval: {scales: []}", "scales"),
        ("model: {fold: 2, dim: 1}", "fold"),
        ("data: {crop: [5]}", "write data.crop=[5, 5], or model.dim=1"),
        ("{model: {dim: 1}, data: {crop: [7, 5]}}", "write data.crop=[5], or model.dim=2"),
        ("{model: {dim: 1}, eval: {flip: true}}", "for images"),
        ("train: {milestones: [0.9, 0.2]}", "rising"),
        ("train: {schedule: exponential}", "a.yaml: train.schedule=exponential never reaches 0"),
        ("train: {schedule: constant, final_lr: 0.1}", "constant has no train.final_lr"),
        ("train: {beta2: 0.9}", "sgd has no train.beta2"),
        ("[1, 2]", "mapping"),
        ("a: [", "not YAML"),
        ("base: missing.yaml", "missing.yaml"),
        ("base: a.yaml", "leads back"),
        ("train: !!python/object/apply:os.system ['false']", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, says):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        config.load(path)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["train.lr", "=3", "train.lr=[", "train.rl=3", "foo.bar=1"])
def test_wrong_overrides(tmp_path, override):
    path = tmp_path / "a.yaml"
    path.write_text("")
    with pytest.raises(UserError):
        config.load(path, [override])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_user_error(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        config.load(path)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_config_parses(path):
    from segtrain.graph.graph import describe

    loaded = config.load(path)
    (augment if loaded.model.dim == 2 else augment1d).parse(loaded.data.augment)
    assert describe(loaded)["parameters"] > 0
