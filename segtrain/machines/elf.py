"""What a shared library (ELF, 64 bits) says of itself: the libraries it needs, and its GPU code.

GPU code lies in the section ``.nv_fatbin``: containers of a header and entries, each entry of a
header and a payload, which is machine code (a cubin) or PTX for one architecture.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

Capability = Tuple[int, int]

_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the entries
_ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, size of this header, payload, architecture
_MAGIC = 0xBA55ED50
_PTX, _CUBIN = 1, 2
_NEEDED = 1


class Code(NamedTuple):
    """The architectures that a library has machine code and PTX for, as compute capabilities."""

    cubin: List[Capability]
    ptx: List[Capability]

    def runs_on(self, card: Capability) -> bool:
        """Whether a card can run it.

        Machine code runs on cards of its major version that aren't older (CUDA C++ Programming
        Guide, "Binary Compatibility"); PTX is compiled by the driver for any card that isn't.
        """
        binary = any(major == card[0] and minor <= card[1] for major, minor in self.cubin)
        return binary or any(capability <= card for capability in self.ptx)


def dotted(capability: Capability) -> str:
    """A compute capability as people write it: '8.6'."""
    return f"{capability[0]}.{capability[1]}"


def needed(path: Path) -> List[str]:
    """The names of the libraries that `path` is linked with, in its order.

    ValueError where it is no 64-bit ELF file.
    """
    with _mapped(path) as data:
        sections = _sections(data)
        if ".dynamic" not in sections or ".dynstr" not in sections:
            return []
        (start, size), (names, _) = sections[".dynamic"], sections[".dynstr"]
        entries = _DYNAMIC.iter_unpack(data[start : start + size])
        return [_text(data, names + value) for tag, value in entries if tag == _NEEDED]


def gpu_code(path: Path) -> Code:
    """The architectures of the GPU code in `path`; none in a library without any.

    ValueError where the file is no 64-bit ELF file, or its containers can't be followed.
    """
    found: Dict[int, set] = {_PTX: set(), _CUBIN: set()}
    with _mapped(path) as data:
        start, size = _sections(data).get(".nv_fatbin", (0, 0))
        for kind, architecture in _entries(data, start, start + size):
            if kind in found:
                found[kind].add(divmod(architecture, 10))
    return Code(sorted(found[_CUBIN]), sorted(found[_PTX]))


def _entries(data: Any, at: int, end: int) -> Iterator[Tuple[int, int]]:
    """(kind, architecture) of each entry; only headers are read, so a gigabyte takes no time."""
    while at + _CONTAINER.size <= end:
        magic, _, header, size = _CONTAINER.unpack_from(data, at)
        if magic == 0:  # containers begin at multiples of 8
            at += 8
            continue
        if magic != _MAGIC or at + header + size > end:
            raise ValueError(f"no container of GPU code at byte {at}")
        inside, at = at + header, at + header + size
        while inside < at:
            kind, _, header, payload, architecture = _ENTRY.unpack_from(data, inside)
            if not header:
                raise ValueError(f"an empty entry of GPU code at byte {inside}")
            yield kind, architecture
            inside += header + payload


def _sections(data: Any) -> Dict[str, Tuple[int, int]]:
    """Offset and size of each section by name."""
    if len(data) < 64 or data[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF file")
    table, each, count, names = (
        *struct.unpack_from("<Q", data, 40),
        *struct.unpack_from("<HHH", data, 58),
    )
    if table + each * count > len(data):
        raise ValueError("the file ends before its sections do")
    rows = [_SECTION.unpack_from(data, table + i * each) for i in range(count)]
    text = rows[names][4] if rows else 0
    return {_text(data, text + row[0]): (row[4], row[5]) for row in rows}


def _text(data: Any, at: int) -> str:
    return data[at : data.find(b"\0", at)].decode()


def _mapped(path: Path) -> Any:
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            raise ValueError("no 64-bit ELF file") from None
