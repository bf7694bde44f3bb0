"""What the benchmarks share: taking turns, options, and the JSON that each of them writes.

All results have one form:

    name, what        the benchmark, and what it measured in a sentence
    versions          of segtrain, Python and the libraries that took part
    cores             physical ones, which all had as their threads unless `settings` says otherwise
    settings, rounds  what was asked for
    unit, medians     of each that took turns, over the rounds
    ratios            medians of the ratios round by round: above 1 is better for segtrain
    bars              what is wanted: "at least" or "at most", of a ratio or a median
    details           whatever else it found
"""

import argparse
import importlib.metadata as metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from segtrain.prediction.threads import cores
from segtrain.version import __version__

ROOT = Path(__file__).parents[1]
LIBRARIES = ("mxnet", "numpy", "opencv-contrib-python-headless", "gluoncv")


def parser(doc, rounds=5):
    """The options that all benchmarks have; `doc` is the script's."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--json", type=Path)
    return made


def take(functions, rounds, warm=1):
    """Call each function once in each round, and before that `warm` times.

    Returns by name the speed in each round: what the function returned, a count of its work, per
    second; where it returned nothing, the seconds it took.
    """
    found = {name: [] for name in functions}
    for number in range(warm + rounds):
        for name, function in functions.items():
            begun = time.perf_counter()
            work = function()
            seconds = time.perf_counter() - begun
            if number >= warm:
                found[name].append(seconds if work is None else work / seconds)
    return found


class Peer:
    """A function that runs in a process of its own, maybe of another environment: a call is a turn.

    The script must call `work` where its first argument is --work.
    """

    def __init__(self, python, script, *arguments, environment={}):
        command = [str(python), str(script), "--work", *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        # this folder's turns.py needs segtrain, which another environment may lack
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        more = {"OMP_NUM_THREADS": str(cores()), **environment}
        more["PYTHONPATH"] = os.pathsep.join(filter(None, [more.get("PYTHONPATH"), path]))
        self._process = subprocess.Popen(command, env={**os.environ, **more}, **pipes)
        self.versions = self._answer()

    def __call__(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)} died")
        return json.loads(line)


def work(function, *libraries):
    """In a Peer's process: a call of the function for each line on stdin."""
    print(json.dumps({name: metadata.version(name) for name in libraries}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(function()), flush=True)


def medians(found):
    return {name: statistics.median(values) for name, values in found.items()}


def ratio(of, over):
    """The median of the ratios of two that took turns, round by round."""
    return statistics.median(a / b for a, b in zip(of, over))


def versions(*others):
    """Of segtrain, Python and those libraries that are installed."""
    found = {"segtrain": __version__, "python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def result(doc, name, rounds, unit, found, ratios, **more):
    """The result as all have it; found: the values of each round, by name; more: the other keys."""
    return {
        "name": name,
        "what": doc.splitlines()[0],
        "versions": {**versions(), **more.pop("versions", {})},
        "cores": cores(),
        "rounds": rounds,
        "unit": unit,
        "medians": medians(found),
        "ratios": ratios,
        **more,
    }


def finish(made, path=None, told=False):
    """Print a result's medians, unless they are `told` already, and ratios; write all of it."""
    print(f"{made['name']}: {made['what']}")
    for name, value in made["medians"].items() if not told else ():
        print(f"  {name:<44}{value:>12.4g} {made['unit']}")
    for name, value in made["ratios"].items():
        print(f"  {name:<44}{value:>12.3f} times")
    for line in judged(made):
        print(f"  {line}")
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(made, indent=1) + "\n")


def judged(made):
    """A line for each bar of a result: what was wanted, what was found, whether it was reached."""
    for rule, bars in made.get("bars", {}).items():
        for name, bar in bars.items():
            value = made["ratios"].get(name, made["medians"].get(name))
            if value is None:
                yield f"{name}: not measured ({rule} {bar:g} wanted)"
                continue
            reached = value >= bar if rule == "at least" else value <= bar
            yield f"{name}: {value:.3g}, {rule} {bar:g}: {'reached' if reached else 'MISSED'}"
