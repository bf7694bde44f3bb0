"""Imports point one way, and `--help` is instant."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "segtrain"
BOTTOM = {"errors", "version", "threads", "stopping", "heartbeat"}
MACHINE = {"elf", "driver", "cuda"}
LEAVES = BOTTOM | {"plugins", "config", "infer", "records"}
MIDDLE = {"run", "models", "data", "losses", "metrics", "schedule", "devices"}
ALLOWED = {
    **{name: set() for name in BOTTOM | {"infer", "records"}},
    "plugins": BOTTOM,
    "config": BOTTOM | {"plugins"},
    "layers": BOTTOM,
    "weights": BOTTOM,
    "models": LEAVES | {"layers", "weights"},
    "data": LEAVES,
    **dict.fromkeys(MACHINE, BOTTOM | MACHINE),
    **dict.fromkeys(MIDDLE - {"models", "data"}, LEAVES),
    "devices": LEAVES | MACHINE,
    **dict.fromkeys(("averaging", "scaling", "progress"), LEAVES),
    "ranks": LEAVES | {"run"},
    "learner": LEAVES | MIDDLE | {"layers", "averaging", "scaling", "ranks"},
    "trial": LEAVES | MIDDLE | {"learner", "progress"},
    "session": LEAVES | MIDDLE | {"learner", "evaluate", "progress"},
    "dryrun": LEAVES | MIDDLE | {"evaluate", "progress", "sheet", "training"},
    "trained": LEAVES | MIDDLE,
    "doctor": BOTTOM | MACHINE,
    "probe": LEAVES | MIDDLE | MACHINE | {"learner"},
    "graph": LEAVES | MIDDLE | {"layers"},
    "layout": set(),
    "check": LEAVES | MIDDLE | {"learner"},
    "recipe": LEAVES | MIDDLE | {"graph"},
    "init": LEAVES | MIDDLE | {"check", "recipe"},
    "sheet": LEAVES | MIDDLE,
    "drawing": {"layout"},
    "taps": LEAVES | MIDDLE | {"trained"},
    "events": BOTTOM | {"metrics"},
    "evaluate": LEAVES | MIDDLE | {"events", "ranks"},
    "training": LEAVES | MIDDLE | {"learner", "ranks", "session", "trial"},
    "member": BOTTOM,
    "launch": BOTTOM | {"threads"},
    "skips": LEAVES | MIDDLE | {"graph", "trained", "evaluate"},
    "predict": LEAVES | MIDDLE | {"trained"},
    "parity": LEAVES | MIDDLE | {"trained"},
    "export": LEAVES | MIDDLE | {"trained", "parity"},
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "segtrain":
                names = [f"segtrain.{alias.name}" for alias in node.names]
        yield from (n.split(".")[1] for n in names if n.startswith("segtrain."))


def test_imports_point_down():
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].replace(".py", "")
        if part in ("cli", "__main__", "__init__"):
            continue
        upward = set(imported(path)) - ALLOWED[part] - {part}
        assert not upward, f"{path} imports {upward}"


def test_nobody_imports_the_command_line():
    for path in ROOT.rglob("*.py"):
        if "cli" not in path.parts and path.name != "__main__.py":
            assert "cli" not in set(imported(path)), path


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_is_instant_and_loads_no_framework(arguments):
    code = (
        "import sys; from segtrain.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'mxnet', 'numpy', 'cv2', 'gluoncv', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5  # of a processor's time, so that a busy machine doesn't count
