"""Imports point one way, and `--help` is instant."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "segtrain"
BOTTOM = {"bar", "errors", "version", "threads", "memory", "stopping", "heartbeat"}
MACHINE = {"elf", "driver", "cuda"}
BUNDLE = {"infer", "pictures", "runtimes", "threads", "tiling", "video"}
LEAVES = BOTTOM | BUNDLE | {"plugins", "config", "records"}
MIDDLE = {"run", "models", "data", "losses", "metrics", "schedule", "devices"}
FORMATS = {"bundle", "network", "symbols", "portable", "fold", "parity"}
ALLOWED = {
    **{
        name: set() for name in BOTTOM | {"pictures", "records", "tiling", "runtimes", "card", "symbols"}
    },
    "video": {"pictures"},
    "infer": BUNDLE | {"records"},
    "plugins": BOTTOM,
    "config": BOTTOM | {"plugins", "config_file"},
    "config_file": BOTTOM,
    "layers": BOTTOM,
    "weights": BOTTOM,
    "models": LEAVES | {"layers", "weights"},
    "data": LEAVES,
    **dict.fromkeys(MACHINE, BOTTOM | MACHINE),
    **dict.fromkeys(MIDDLE - {"models", "data"}, LEAVES),
    "devices": LEAVES | MACHINE,
    **dict.fromkeys(("averaging", "scaling", "progress"), LEAVES),
    "optimizers": LEAVES | {"schedule"},
    **dict.fromkeys(("allreduce", "parameter_server"), BOTTOM),
    "ranks": LEAVES | {"run", "allreduce", "parameter_server"},
    "recompute": {"symbols"},
    "feed": set(),
    "learner": LEAVES
    | MIDDLE
    | {"layers", "averaging", "feed", "optimizers", "ranks", "recompute", "scaling"},
    "trial": LEAVES | MIDDLE | {"learner", "progress"},
    "session": LEAVES | MIDDLE | {"board", "learner", "evaluate", "progress"},
    "selftest": BOTTOM,
    "timing": LEAVES | MIDDLE | {"board", "evaluate", "session", "train"},
    "bench": LEAVES | MIDDLE | {"dryrun", "progress", "timing", "train"},
    "dryrun": LEAVES | MIDDLE | {"progress", "sheet", "timing", "train"},
    "trained": LEAVES | MIDDLE,
    "doctor": BOTTOM | MACHINE,
    "probe": LEAVES | MIDDLE | MACHINE | {"learner"},
    "graph": LEAVES | MIDDLE | {"layers"},
    "layout": set(),
    "check": LEAVES | MIDDLE | {"learner"},
    "lr_range": LEAVES | MIDDLE | {"learner", "train"},
    "runs": LEAVES,
    "schema": {"plugins", "config", "losses"},
    "settings": LEAVES | {"schema"},
    "recipe": LEAVES | MIDDLE | {"graph"},
    "init": LEAVES | MIDDLE | {"check", "recipe"},
    "sheet": LEAVES | MIDDLE,
    "board": LEAVES | MIDDLE | {"sheet"},
    "pack": LEAVES | MIDDLE,
    "drawing": {"layout"},
    "taps": LEAVES | MIDDLE | {"trained"},
    "events": BOTTOM | {"metrics"},
    "measures": {"metrics"},
    "evaluate": LEAVES | MIDDLE | {"events", "ranks"},
    "train": LEAVES | MIDDLE | {"learner", "ranks", "session", "trial", "report"},
    "member": BOTTOM,
    "places": BOTTOM,
    "faults": BOTTOM | {"run"},
    "launch": BOTTOM | {"threads", "places"},
    "compare": BOTTOM | {"metrics", "evaluate"},
    "swa": LEAVES | MIDDLE | {"compare", "evaluate", "scored", "train"},
    "scored": LEAVES | MIDDLE | {"evaluate", "runs", "trained"},
    "skips": LEAVES | MIDDLE | {"graph", "trained", "evaluate"},
    "polygons": set(),
    "pipeline": set(),
    "journal": LEAVES,
    "products": LEAVES | MIDDLE | {"trained", "polygons"},
    "predict": LEAVES | MIDDLE | {"trained", "products", "polygons", "journal", "pipeline"},
    "parity": LEAVES | MIDDLE | {"trained"},
    "report": LEAVES | MIDDLE | {"trained", "evaluate", "graph", "drawing", "sheet"},
    "bundle": LEAVES,
    "portable": {"network", "symbols"},
    "speed": LEAVES | MIDDLE | {"trained"},
    "receptive": {"symbols"},
    "fold": {"symbols"},
    "network": LEAVES | MIDDLE | {"trained"},
    "formats": LEAVES | MIDDLE | FORMATS | {"trained"},
    "export": LEAVES | MIDDLE | FORMATS | {"trained", "formats", "card", "receptive", "speed"},
}


# Packages that group modules; the others are a part as a whole.
GROUPS = {"evaluation", "export", "graph", "machines", "prediction", "training"}


def part_of(names):
    """The part that a path or a dotted name within segtrain belongs to."""
    return names[1] if names[0] in GROUPS and len(names) > 1 else names[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT.parent).parts[: -node.level] if node.level else ()
            module = ".".join(filter(None, [*here, node.module]))
            names = [module]
            if module in {"segtrain", *(f"segtrain.{group}" for group in GROUPS)}:
                names = [f"{module}.{alias.name}" for alias in node.names]
        yield from (part_of(n.split(".")[1:]) for n in names if n.startswith("segtrain."))


def test_imports_point_down():
    for path in ROOT.rglob("*.py"):
        part = part_of(path.relative_to(ROOT).with_suffix("").parts)
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
