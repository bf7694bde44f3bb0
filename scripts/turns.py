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
import platform
import statistics
import time
from pathlib import Path

from segtrain.machines.threads import cores
from segtrain.version import __version__

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


def finish(made, path=None):
    """Print a result's medians and ratios, and write all of it where the options say."""
    print(f"{made['name']}: {made['what']}")
    for name, value in made["medians"].items():
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
