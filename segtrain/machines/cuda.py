"""MXNet's CUDA builds: the libraries that they need, and the cards that they have code for."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from segtrain.errors import UserError
from segtrain.machines import driver, elf

_WHEEL = re.compile(r"mxnet(-(cu\d+\w*|mkl|native))?")


def before_mxnet() -> None:
    """Have `prepare` run just before the first `import mxnet`, wherever that stands."""
    if "mxnet" not in sys.modules:
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Finds no module, and runs `prepare` when mxnet is looked for."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "mxnet":
            sys.meta_path.remove(self)
            prepare()


def prepare() -> None:
    """Load the CUDA libraries that MXNet's library needs from the package index's wheels.

    Does nothing for a CPU build. UserError with what to type for two MXNet wheels at once, a CUDA
    build without a driver, or a library that is nowhere.
    """
    installed = wheels()
    if len(installed) > 1:
        raise UserError(
            f"{' and '.join(installed)} are both installed, and overwrite each other's files: "
            f"pip uninstall -y {' '.join(installed)}; pip install {_suitable(installed)}==1.9.1"
        )
    file = library()
    if file is None or driver.LIBRARY not in elf.needed(file):
        return
    if not driver.present():
        name = installed[0] if installed else "mxnet"
        raise UserError(
            f"{name} is a CUDA build, and there is no NVIDIA driver here ({driver.LIBRARY}). On a "
            f"machine without a card: pip uninstall -y {name}; pip install mxnet==1.9.1. "
            "In a container: docker run --gpus all"
        )
    load(file)
    missing = [name for name, where in located(file).items() if where is None]
    if missing:
        raise UserError(f"no {missing[0]}, which MXNet needs: {_cure(installed)}")


def _suitable(installed: List[str]) -> str:
    """The one of the wheels that suits this machine."""
    of_cuda = [name for name in installed if "-cu" in name]
    return of_cuda[-1] if of_cuda and driver.present() else "mxnet"


def _cure(installed: List[str]) -> str:
    extra = installed[0].replace("mxnet-", "") if installed else "cu117"
    return f"pip install 'segtrain[{extra}]' brings it"


def wheels() -> List[str]:
    """The installed distributions that bring MXNet's files."""
    from importlib import metadata  # slow to load, and no command's --help needs it

    names = {(found.metadata["Name"] or "").lower() for found in metadata.distributions()}
    return sorted(filter(_WHEEL.fullmatch, names))


def library() -> Optional[Path]:
    """MXNet's library file, found as MXNet finds it but without importing it; None without MXNet."""
    others = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]
    spec = next(filter(None, (finder.find_spec("mxnet", None) for finder in others)), None)
    if spec is None or not spec.submodule_search_locations:
        return None
    finder = Path(next(iter(spec.submodule_search_locations))) / "libinfo.py"
    if not finder.is_file():
        return None
    import runpy

    try:
        return Path(runpy.run_path(str(finder))["find_lib_path"]()[0])
    except RuntimeError:
        return None


def unusable(card: driver.Card) -> Optional[str]:
    """Why this MXNet build can't run on a card, or None where it can.

    What the build has code for is read from its library. One that holds none, though it is a CUDA
    build, keeps it elsewhere, and is believed to suit its machine.
    """
    file = library()
    code = elf.gpu_code(file) if file else elf.Code([], [])
    if not any(code) or code.runs_on(card.capability):
        return None
    return (
        f"GPU {card.number} ({card.name}) has compute capability {elf.dotted(card.capability)}, and "
        f"this MXNet build has code for {', '.join(map(elf.dotted, code.cubin))} alone: "
        "use another card, --devices cpu, or a build made for this one, such as NVIDIA's container "
        "nvcr.io/nvidia/mxnet, into which pip install segtrain (without an extra) installs beside "
        "its MXNet"
    )


def packaged() -> Dict[str, Path]:
    """The libraries of the index's nvidia-* packages, by file name."""
    spec = importlib.util.find_spec("nvidia")
    homes = list(spec.submodule_search_locations or []) if spec else []
    return {file.name: file for home in homes for file in sorted(Path(home).glob("*/lib/*.so*"))}


def load(file: Path) -> None:
    """Load what `file` needs and the packages have, each library after those that it needs."""
    known = packaged()
    done: Set[str] = set()

    def visit(names: List[str]) -> None:
        for name in names:
            if name in known and name not in done:
                done.add(name)
                visit(elf.needed(known[name]))
                ctypes.CDLL(str(known[name]), ctypes.RTLD_GLOBAL)

    visit(elf.needed(file))


def located(file: Path) -> Dict[str, Optional[str]]:
    """Where each NVIDIA library that `file` needs lies; None where it is nowhere.

    A library counts as NVIDIA's unless it lies beside `file` or belongs to the C compiler.
    """
    packages = packaged()
    found: Dict[str, Optional[str]] = {}
    for name in elf.needed(file):
        if (file.parent / name).exists() or _SYSTEM.match(name):
            continue
        if name in packages:
            found[name] = str(packages[name])
        else:
            found[name] = _mapped(name) if _loads(name) else None
    return found


_SYSTEM = re.compile(r"(lib(dl|rt|pthread|m|c|gomp|stdc\+\+|gcc_s)|ld-linux.*)\.so")


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _mapped(name: str) -> str:
    """The file that this process has loaded for a library's name."""
    stem = name.split(".so")[0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if Path(path).name.startswith(stem + ".so"):
            return f"/{path}"
    return name
