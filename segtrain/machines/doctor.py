"""This machine, examined: what is installed, what works, what is wrong, and what to type."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

from segtrain.errors import SegtrainError
from segtrain.machines import cuda, driver, elf, memory
from segtrain.prediction.threads import cores, quota
from segtrain.version import __version__

HEADLESS = "pip install --force-reinstall --no-deps 'opencv-contrib-python-headless<4.9'"
_OURS = "segtrain.errors.UserError: "
_GIB = 2**30
_SHM = Path("/dev/shm")
_ROOM = 64 * 1024  # bytes in /dev/shm: the loader's locks take a page each, five with Python 3.11


class Finding(NamedTuple):
    """One thing that was looked at; `state` is ok, wrong or note, and `cure` what to type."""

    name: str
    state: str
    found: str
    cure: Optional[str] = None


class Answer(NamedTuple):
    """What `segtrain.machines.probe` answered, or the last line of its error."""

    facts: Dict[str, Any]
    error: Optional[str] = None


def examine(train: bool = True, tell: Callable[[str], None] = lambda _: None) -> Dict[str, Any]:
    """The result of `segtrain doctor` as a dict for JSON.

    Keys: passed, findings (name, state, found, cure), and facts: what the findings rest on.
    train: time a small training on each usable device. `tell` hears what is looked at next.
    """
    facts: Dict[str, Any] = {}
    findings = []
    for part in (_python, _mxnet, _cards, _opencv, _loader, _cores, _memory, _engines):
        tell(part.__name__.strip("_"))
        findings += list(part(facts))
    if train:
        tell("training")
        findings += list(_training(facts))
    wrong = any(finding.state == "wrong" for finding in findings)
    return {"passed": not wrong, "findings": [f._asdict() for f in findings], "facts": facts}


def ask(question: str, *arguments: str, timeout: float = 180) -> Answer:
    """What `segtrain.machines.probe` answers to a question, in a process of its own."""
    command = [sys.executable, "-m", "segtrain.machines.probe", question, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer({}, f"no answer within {timeout:.0f} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return Answer(json.loads(lines[-1]))
    errors = [line for line in done.stderr.strip().splitlines() if line.strip()]
    died = f"killed by signal {-done.returncode}" if done.returncode < 0 else "ended without a word"
    return Answer({}, errors[-1].strip() if errors and done.returncode > 0 else died)


def _python(facts: Dict[str, Any]) -> Iterator[Finding]:
    facts["segtrain"], facts["python"] = __version__, platform.python_version()
    facts["platform"] = platform.platform()
    fits = (3, 8) <= sys.version_info[:2] <= (3, 11)
    cure = None if fits else "make a virtual environment of Python 3.8 to 3.11"
    found = f"{facts['python']} in {sys.prefix}"
    yield Finding("Python", "ok" if fits else "wrong", found, cure)


def _mxnet(facts: Dict[str, Any]) -> Iterator[Finding]:
    """The build, and where the libraries lie that a CUDA build needs."""
    facts["wheels"], file, facts["of_cuda"] = cuda.wheels(), cuda.library(), False
    if file is None:
        yield Finding("MXNet", "wrong", "not installed", "pip install 'segtrain[cpu]', or [cu117]")
        return
    of_cuda = facts["of_cuda"] = driver.LIBRARY in elf.needed(file)
    code = elf.gpu_code(file)
    facts["library"] = str(file)
    facts["gpu_code"] = {"cubin": [*map(elf.dotted, code.cubin)], "ptx": [*map(elf.dotted, code.ptx)]}
    try:
        cuda.prepare()
        answer, cure = ask("mxnet"), "pip install --force-reinstall 'segtrain[cpu]', or [cu117]"
    except SegtrainError as error:
        answer, cure = Answer({}, f"{_OURS}{error}"), ""
    facts["mxnet"] = answer.facts or None
    if answer.error:
        yield _worded("MXNet", answer.error, cure)
    else:
        yield Finding("MXNet", "ok", _build(facts, of_cuda))
    if of_cuda:
        facts["cuda_libraries"] = cuda.located(file)
        for name, where in facts["cuda_libraries"].items():
            if name != driver.LIBRARY:
                yield Finding(name, "ok" if where else "wrong", where or "nowhere", _extra(facts, where))


def _worded(name: str, error: str, cure: str) -> Finding:
    """A finding of an error; one of segtrain's own says the cure itself."""
    if error.startswith(_OURS):
        error, _, cure = error[len(_OURS) :].partition(": ")
    return Finding(name, "wrong", error, cure)


def _build(facts: Dict[str, Any], of_cuda: bool) -> str:
    about = facts["mxnet"]
    code = [*facts["gpu_code"]["cubin"], *(f"{c} and newer (PTX)" for c in facts["gpu_code"]["ptx"])]
    kind = f"for CUDA, cards of {', '.join(code)}" if of_cuda else "for the CPU"
    return (
        f"{about['version']} {kind} ({' '.join(facts['wheels']) or 'no wheel of the index'}); "
        f"features {' '.join(about['features'])}; GluonCV {about['gluoncv']}, numpy {about['numpy']}"
    )


def _extra(facts: Dict[str, Any], where: Optional[str]) -> Optional[str]:
    extra = next((w.replace("mxnet-", "") for w in facts["wheels"] if "-cu" in w), "cu117")
    return None if where else f"pip install 'segtrain[{extra}]'"


def _cards(facts: Dict[str, Any]) -> Iterator[Finding]:
    """The driver, and each card: whether this build has code for it."""
    facts["cards"], facts["driver_cuda"] = [], None
    if not driver.present():
        yield Finding("driver", "ok", "no NVIDIA driver")
        return
    try:
        facts["driver_cuda"], cards = driver.version(), driver.cards()
    except SegtrainError as error:
        problem, _, what = str(error).partition("; ")
        yield Finding("driver", "wrong", problem, what)
        return
    lost = facts["of_cuda"] and not cards
    cure = "unset CUDA_VISIBLE_DEVICES; in a container: docker run --gpus all" if lost else None
    found = f"up to CUDA {facts['driver_cuda']}, {len(cards)} cards"
    yield Finding("driver", "wrong" if lost else "ok", found, cure)
    free = driver.free_memory()
    for card in cards:
        about = {**card._asdict(), "capability": elf.dotted(card.capability)}
        about["free"] = free.get(card.bus[-12:].lower())
        about["unusable"] = cuda.unusable(card) if facts["of_cuda"] else "MXNet is a CPU build"
        facts["cards"].append(about)
        yield _card(about, facts["of_cuda"])


def _card(card: Dict[str, Any], of_cuda: bool) -> Finding:
    free = "" if card["free"] is None else f", {_size(card['free'])} free"
    found = f"{card['name']}, compute capability {card['capability']}, {_size(card['memory'])}{free}"
    name, why = f"GPU {card['number']}", card["unusable"]
    if why and not of_cuda:
        cure = "for a card up to 8.9: pip uninstall -y mxnet; pip install 'segtrain[cu117]'"
        return Finding(name, "note", f"{found}; MXNet is a CPU build", cure)
    if why:
        problem, _, cure = why.partition(": ")
        return Finding(name, "wrong", f"{found}; {problem.partition(', and ')[2]}", cure)
    return Finding(name, "ok", f"{found}; this build has code for it")


def _opencv(facts: Dict[str, Any]) -> Iterator[Finding]:
    answer = ask("opencv")
    facts["opencv"] = answer.facts.get("version")
    if answer.error:
        cure = HEADLESS if "libGL" in answer.error or "libgthread" in answer.error else None
        yield Finding("OpenCV", "wrong", answer.error, cure or f"{HEADLESS}, or install segtrain again")
    else:
        yield Finding("OpenCV", "ok", facts["opencv"])


def _loader(facts: Dict[str, Any]) -> Iterator[Finding]:
    """One loader process, run; batches go through anonymous memory, only locks through /dev/shm."""
    facts["shm_bytes"] = _free(_SHM)
    if not facts["opencv"]:
        return
    answer = ask("loader")
    facts["loader"] = answer.facts or None
    shm = "no /dev/shm" if facts["shm_bytes"] is None else f"/dev/shm has {_size(facts['shm_bytes'])}"
    if not answer.error:
        speed = f"{answer.facts['crops_per_second']:.0f} crops/s of 128x128 from one process"
        how = "batches go through anonymous memory, of /dev/shm a few KiB are used"
        yield Finding("loader", "ok", f"{speed}; {how} ({shm})")
    elif not facts["shm_bytes"] or facts["shm_bytes"] < _ROOM or not os.access(_SHM, os.W_OK):
        cure = "docker run --shm-size=64m, or mount a tmpfs there; or train with data.workers=0"
        found = f"{answer.error}; {shm}, and loader processes keep their locks there"
        yield Finding("loader", "wrong", found, cure)
    else:
        yield Finding("loader", "wrong", answer.error, "train with data.workers=0")


def _free(folder: Path) -> Optional[int]:
    try:
        about = os.statvfs(folder)
    except OSError:
        return None
    return about.f_bavail * about.f_frsize


def _size(size: int) -> str:
    for unit, factor in (("GiB", _GIB), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size // 1024} KiB"


def _cores(facts: Dict[str, Any]) -> Iterator[Finding]:
    """The threads that MXNet will use, against the cores and a container's share of them."""
    facts["cores"], facts["cpu_quota"] = cores(), quota()
    threads = os.environ["OMP_NUM_THREADS"]
    facts["threads"] = int(threads) if threads.isdigit() else None
    share = facts["cores"] if facts["cpu_quota"] is None else min(facts["cores"], facts["cpu_quota"])
    found = f"{facts['cores']} cores, OMP_NUM_THREADS={threads}"
    if facts["cpu_quota"] is not None:
        found += f", and this container may use {facts['cpu_quota']:g} of them"
    best = max(1, int(share))
    if facts["threads"] is None or facts["threads"] > facts["cores"] or facts["threads"] > share + 0.5:
        yield Finding("threads", "wrong", found, f"export OMP_NUM_THREADS={best}")
    else:
        yield Finding("threads", "ok", found)


def _memory(facts: Dict[str, Any]) -> Iterator[Finding]:
    facts["memory_bytes"], facts["memory_limit"] = memory.available(), memory.limit()
    limit = f"; this container may use {_size(facts['memory_limit'])}" if facts["memory_limit"] else ""
    yield Finding("memory", "ok", f"{_size(facts['memory_bytes'])} free{limit}")


def _engines(facts: Dict[str, Any]) -> Iterator[Finding]:
    """What can carry a training over several machines."""
    if not facts.get("mxnet"):
        return
    facts["parameter_server"] = "DIST_KVSTORE" in facts["mxnet"]["features"]
    facts["horovod"] = ask("horovod").facts
    has = "yes" if facts["parameter_server"] else "no, this MXNet is built without it"
    version = facts["horovod"].get("version")
    of_mxnet = "" if facts["horovod"].get("for_mxnet") else ", but not built for MXNet"
    found = f"parameter server: {has}; Horovod: {version + of_mxnet if version else 'not installed'}"
    yield Finding("engines", "ok", found)


def _training(facts: Dict[str, Any]) -> Iterator[Finding]:
    """A small training on each device that can be used."""
    facts["training"] = {}
    if not facts.get("mxnet") or not facts["opencv"]:
        return
    usable = [f"gpu:{card['number']}" for card in facts["cards"] if not card["unusable"]]
    for device in ["cpu", *usable]:
        answer = ask("training", device)
        if answer.error:
            cure = f"show the traceback: python -m segtrain.machines.probe training {device}"
            yield _worded(f"training on {device}", answer.error, cure)
            continue
        speed = facts["training"][device] = answer.facts["images_per_second"]
        found = f"{speed:.1f} images/s of 128x128, U-Net 16-32-64, batch 8"
        yield Finding(f"training on {device}", "ok", found)
