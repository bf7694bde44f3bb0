"""What takes long says how far it is, also where there is no terminal."""

import re
import subprocess
import sys

import pytest

from segtrain import bar


def test_lines_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(bar, "EVERY", 0.0)
    with bar.Bar(range(3), desc="eval", unit="image") as counted:
        assert list(counted) == [0, 1, 2]
    told = capsys.readouterr()
    assert not told.out
    lines = told.err.splitlines()
    assert [re.match(r"eval: (\d)/3 \[00:00<", line)[1] for line in lines] == ["1", "2", "3"]
    assert "image" in lines[0]


def test_a_count_that_goes_on_is_told_with_the_speed_of_its_rest(monkeypatch, capsys):
    monkeypatch.setattr(bar, "EVERY", 0.0)
    with bar.Bar(total=10, initial=8, desc="predict") as counted:
        counted._begun -= 2  # two seconds ago
        counted.update()
    assert "predict: 9/10 [00:02<00:0" in (told := capsys.readouterr().err)
    assert re.search(r"2\.0\ds/it", told), told


def test_what_is_quick_or_muted_says_nothing(monkeypatch, capsys):
    list(bar.Bar(range(3), desc="quick"))
    monkeypatch.setattr(bar, "EVERY", 0.0)
    with bar.muted(True), bar.muted(False):
        list(bar.Bar(range(3), desc="muted"))
    assert capsys.readouterr().err == ""
    list(bar.Bar(range(1), desc="again"))
    assert "again: 1/1" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_a_training_tells_how_far_it_has_read_and_judged(tmp_path, quiet):
    (tmp_path / "c.yaml").write_text(
        "model: {name: unet, widths: [4, 4]}\n"
        "data: {name: shapes, size: [32, 32], train: 4, val: 4, crop: [32, 32], workers: 0}\n"
        "train: {epochs: 1, batch: 4}\n"
    )
    code = (
        "from segtrain import bar; bar.EVERY = 0.0\n"
        f"import segtrain; segtrain.train('c.yaml', 'run', devices='cpu', report=False, quiet={quiet})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ("eval: 4/4" in done.stderr) != quiet
    assert not quiet or done.stderr == ""
