"""What the benchmarks share: turns are taken in order, and all results have one form."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
FORM = {"name", "what", "versions", "cores", "rounds", "unit", "medians", "ratios"}


@pytest.fixture
def turns():
    spec = importlib.util.spec_from_file_location("turns", SCRIPTS / "turns.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_take_turns_and_the_first_round_doesnt_count(turns):
    order = []
    found = turns.take({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == ["a", "b"] * 4
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


def test_what_a_function_returns_is_its_work(turns, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    assert turns.take({"a": lambda: 12, "b": lambda: None}, rounds=2) == {"a": [12, 12], "b": [1, 1]}


def test_a_ratio_is_of_the_rounds_not_of_the_medians(turns):
    assert turns.ratio([10, 20, 90], [1, 10, 100]) == 2


@pytest.mark.parametrize("rule, reached", [("at least", "MISSED"), ("at most", "reached")])
def test_bars(turns, rule, reached):
    found = turns.result("What.", "x", 1, "s", {"a": [0.5]}, {}, bars={rule: {"a": 0.6, "b": 1}})
    assert list(turns.judged(found)) == [
        f"a: 0.5, {rule} 0.6: {reached}",
        f"b: not measured ({rule} 1 wanted)",
    ]


def test_results_are_written_in_one_form_and_told_together(turns, tmp_path, capsys):
    path = tmp_path / "new" / "x.json"
    made = turns.result("What it is.\n\nMore.", "x", 3, "images/s", {"a": [3, 1, 2]}, {"a over b": 1.25})
    turns.finish(made, path)
    written = json.loads(path.read_text())
    assert set(written) == FORM and written["medians"] == {"a": 2} and written["what"] == "What it is."
    assert "1.250 times" in capsys.readouterr().out
    told = subprocess.run(
        [sys.executable, SCRIPTS / "ratios.py", path], capture_output=True, text=True, check=True
    )
    assert "x: a over b" in told.stdout and "1.250" in told.stdout


def test_a_peer_answers_from_a_process_of_its_own(turns, tmp_path):
    script = tmp_path / "peer.py"
    script.write_text("import os, turns\nturns.work(os.getpid, 'numpy')\n")
    peer = turns.Peer(sys.executable, script, environment={"PYTHONPATH": str(SCRIPTS)})
    assert peer() == peer() != turns.os.getpid() and "numpy" in peer.versions
    peer.close()
    with pytest.raises(SystemExit, match="peer.py"):
        script.write_text("raise SystemExit(1)\n")
        turns.Peer(sys.executable, script)
