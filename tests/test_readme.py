"""What the README says exists: its configs are valid, its commands and options are there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from segtrain import config, plugins
from segtrain.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands():
    lines = "\n".join(blocks("sh")).splitlines()
    return sorted({line for line in lines if line.startswith("segtrain ")})


@pytest.mark.parametrize("text", [b for b in blocks("yaml") if re.match(r"(model|data|train):", b)])
def test_configs(text):
    given = yaml.safe_load(text)
    given.setdefault("data", {}).setdefault("crop", [256, 256][: given.get("model", {}).get("dim", 2)])
    made = config.parse(given)
    for section, kind in (("model", "models"), ("data", "data")):
        part = getattr(made, section)
        if "name" in given.get(section, {}):
            build = plugins.find(kind, part.name).build
            plugins.options(build, part.options, section)


@pytest.mark.parametrize("line", commands())
def test_commands(line):
    """Each command has the options that are given to it."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index("--")] if "--" in words else words
    command = typer.main.get_command(app)
    options = {"--plugins"}
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options |= {name for parameter in command.params for name in parameter.opts}
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= options, line


def test_the_file_of_ones_own_parts(tmp_path, monkeypatch):
    [text] = [block for block in blocks("python") if "@model" in block]
    (tmp_path / "from_the_readme.py").write_text(text)
    monkeypatch.setattr(plugins, "_own", {kind: {} for kind in plugins._own})
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.use(str(tmp_path / "from_the_readme.py"))
    assert "mynet" in plugins.names("models")
    assert plugins.options(plugins.find("models", "mynet").build, {}, "model") == {"width": 32}


def test_the_links_lead_to_the_sections():
    heads = re.findall(r"^## (.*)$", README, re.M)
    assert re.findall(r"\(#(.*?)\)", README) == [head.lower().replace(" ", "-") for head in heads]
