"""`segtrain config`: explain, diff and schema say what the config says and what it may say."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import run
from jsonschema import Draft7Validator

from segtrain import config, plugins, settings
from segtrain.schema import PLUGINS, schema

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("**/*.yaml"))


@pytest.fixture(scope="module")
def validator():
    made = json.loads(json.dumps(schema()))
    Draft7Validator.check_schema(made)
    return Draft7Validator(made)


def faults(validator, text):
    """What an editor would underline in a YAML text, whose keys are strings to it."""
    return [e.message for e in validator.iter_errors(json.loads(json.dumps(yaml.safe_load(text))))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_fit_the_schema_and_so_do_their_runs(path, validator):
    assert faults(validator, path.read_text()) == []
    assert faults(validator, config.dump(config.load(path))) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trian: {}", "trian"),
        ("train: {lrr: 1}", "lrr"),
        ("train: {lr: 0}", "0"),
        ("train: {optimizer: sdg}", "sdg"),
        ("train: {loss: {ce: 1, dise: 1}}", "dise"),
        ("train: {loss: {ce: {smooth: 0.1}}}", "smooth"),
        ("model: {name: unett}", "unett"),
        ("model: {name: unet, merge: add}", "add"),
        ("model: {name: unet, down_columns: 2}", "down_columns"),
        ("model: {name: zoo, crop_size: large}", "large"),
        ("data: {name: folder, label_map: {255: one}}", "one"),
        ("data: {name: shapes, size: [1, 2, 3]}", "[1, 2, 3]"),
        ("data: {augment: flip}", "flip"),
        ("eval: {overlap: 1}", "1"),
    ],
)
def test_an_editor_underlines_mistakes(text, says, validator):
    (message,) = faults(validator, text)
    assert says in message


def test_a_file_that_leaves_the_name_to_its_base_may_have_any_option(validator):
    assert faults(validator, "base: other.yaml\nmodel: {down_columns: 3}") == []


def keys(node, prefix=""):
    for name, inner in node.get("properties", {}).items():
        yield f"{prefix}{name}", inner
        if inner is not True:
            yield from keys(inner, f"{prefix}{name}.")


def test_every_setting_has_help():
    whole = schema()
    assert len(list(keys(whole))) > 40
    assert "train.loss.focal" in dict(keys(whole))
    bare = [key for key, node in keys(whole) if len(node.get("description", "")) < 5]
    for section, kind in PLUGINS.items():
        rules = whole["properties"][section]["allOf"]
        for name, rule in zip(plugins.names(kind), rules):
            found = [(k, n) for k, n in keys(rule["then"]) if n is not True]
            bare += [f"{name}: {k}" for k, node in found if len(node.get("description", "")) < 5]
    for name, node in whole["properties"]["train"]["properties"]["loss"]["properties"].items():
        bare += [f"{name}: {k}" for k, n in keys(node["anyOf"][1]) if len(n.get("description", "")) < 5]
    assert bare == []


def test_the_named_sections_are_those_with_plugins():
    sections = {n: f.annotation for n, f in config.Config.model_fields.items()}
    named = {n for n, s in sections.items() if isinstance(s, type) and issubclass(s, config.Named)}
    assert named == set(PLUGINS)


def test_help_ends_where_the_next_option_begins():
    def build(split, *, root: str, size: int = 3, wide: bool = False, other: int = 1) -> None:
        """The split.

        root: where e.g. the files are (see size: below); size, wide: both of
        them. Then a sentence of its own.
        """

    fields = plugins.settings(build).model_fields
    assert fields["root"].description == "where e.g. the files are (see size: below)"
    assert fields["size"].description == fields["wide"].description == "both of them"
    assert fields["other"].description is None and fields["root"].is_required()


def explained(*arguments):
    code, text = run("config", "explain", *arguments, "--json", "-")
    assert code == 0, text
    return json.loads(text)


def test_explain_tells_value_origin_default_type_and_range(config_file):
    (lr,) = explained(config_file, "train.lr", "train.lr=0.5")
    assert (lr["value"], lr["origin"], lr["default"]) == (0.5, "override train.lr=0.5", 0.01)
    assert (lr["type"], lr["range"]) == ("number", "> 0") and "learning rate" in lr["help"]
    (units,) = explained(config_file, "model.units")
    assert (units["value"], units["default"], units["origin"]) == (1, 2, str(config_file))
    (merge,) = explained(config_file, "model.merge")
    assert (merge["value"], merge["origin"], merge["type"]) == (
        "concat",
        "default",
        "one of concat, sum",
    )
    (workers,) = explained(config_file, "data.workers")
    assert (workers["type"], workers["range"]) == ("auto or integer", ">= 0")
    (dice,) = explained(config_file, "train.loss.dice", "train.loss={ce: 1, dice: 0.5}")
    assert (dice["value"], dice["default"], dice["type"]) == (0.5, None, "number or mapping")
    (gamma,) = explained(config_file, "train.loss.focal.gamma", "train.loss={focal: {gamma: 3}}")
    assert gamma["value"] == 3
    assert {s["key"] for s in explained(config_file, "eval")} > {"eval.every", "eval.window"}
    (seed,) = explained(config_file, "seed")
    assert (seed["value"], seed["origin"]) == (0, "default")


def test_explain_of_what_isnt_set_yet(tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text("data: {name: folder}")
    (root,) = explained(path, "data.root")
    assert (root["value"], root["origin"], root["required"]) == (None, "not set", True)
    code, text = run("config", "explain", path, "data.root")
    assert code == 0 and "it must be set" in text


def test_explain_of_signals_has_their_defaults(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("{model: {dim: 1, in_channels: 1}, data: {name: signals}}")
    (crop,) = explained(path, "data.crop")
    assert crop["value"] == crop["default"] == [1024] and crop["origin"] == "default"


@pytest.mark.parametrize(
    ("key", "says"),
    [("train.lrr", "train.lr"), ("trian", "train"), ("train.loss.dise", "train.loss has no dise")],
)
def test_an_unknown_key_names_the_nearest(config_file, key, says):
    code, text = run("config", "explain", config_file, key)
    assert code == 2 and says in text and len(text.strip().splitlines()) == 1


def test_a_run_remembers_where_its_values_came_from(config_file, tmp_path):
    loaded = config.load(config_file, ["train.epochs=7"])
    home = tmp_path / "run"
    home.mkdir()
    (home / "config.yaml").write_text(config.dump(loaded))
    told = {key: explained(home, key)[0]["origin"] for key in ("train.epochs", "train.lr", "seed")}
    assert told["train.epochs"] == f"{home / 'config.yaml'} (override train.epochs=7)"
    assert told["train.lr"] == f"{home / 'config.yaml'} ({config_file})" and told["seed"] == "default"
    (lr,) = explained(home, "train.lr", "train.lr=1")
    assert lr["origin"] == "override train.lr=1"


def test_a_section_as_an_override_replaces_what_the_file_said(config_file):
    loaded = config.load(config_file, ["train={lr: 0.5}"])
    assert loaded.origin("train.lr") == "override train={lr: 0.5}"
    assert loaded.origin("train.epochs") == "default" and loaded.train.epochs == 40


def test_diff(config_file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        f"base: {config_file.name}\nmodel: {{name: resunet, shortcuts: false}}\n"
        "train: {optimizer: sgd}"
    )
    code, text = run("config", "diff", config_file, other, "--json", "-")
    rows = {row["key"]: row for row in json.loads(text)}
    assert code == 0 and rows["model.name"]["a"] == "unet" and rows["model.name"]["b"] == "resunet"
    assert "a" not in rows["model.shortcuts"] and rows["model.shortcuts"]["b"] is False
    assert "train.optimizer" not in rows  # written out as it is by default
    code, text = run("config", "diff", config_file, other)
    assert code == 0 and "model.shortcuts" in text
    code, text = run("config", "diff", config_file, config_file)
    assert (code, text) == (0, "no difference\n")


def test_diff_knows_an_option_that_is_written_out_as_by_default(config_file):
    loaded = config.load(config_file)
    same = config.load(config_file, ["model.skip_depth=1", "data.tolerance=0"])
    assert settings.difference(loaded, same) == []


def test_schema_to_a_file(tmp_path):
    out = tmp_path / "segtrain.schema.json"
    code, text = run("config", "schema", "--out", out)
    assert code == 0 and "yaml-language-server" in text
    assert json.loads(out.read_text())["properties"]["train"]["properties"]["lr"]["default"] == 0.01
