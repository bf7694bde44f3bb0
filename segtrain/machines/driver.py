"""The cards of this machine, as NVIDIA's driver tells of them: without MXNet, without a kernel run."""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional

from segtrain.errors import SegtrainError
from segtrain.machines.elf import Capability

LIBRARY = "libcuda.so.1"
_NO_CARD = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


class Card(NamedTuple):
    """A card; `number` is what the driver and MXNet call it."""

    number: int
    name: str
    capability: Capability
    memory: int  # bytes
    bus: str  # PCI address


def present() -> bool:
    """Whether there is a driver."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def version() -> Optional[str]:
    """The newest CUDA that the driver supports, as '12.2'; None without a driver."""
    if not present():
        return None
    number = ctypes.c_int()
    _call("cuDriverGetVersion", ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def cards() -> List[Card]:
    """The cards that the driver lets this process see, in its order; none without a driver.

    SegtrainError where the driver itself fails.
    """
    if not present():
        return []
    if _call("cuInit", 0, allow=_NO_CARD) == _NO_CARD:
        return []
    count = ctypes.c_int()
    _call("cuDeviceGetCount", ctypes.byref(count))
    return [_card(index) for index in range(count.value)]


def _card(index: int) -> Card:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name, bus = ctypes.create_string_buffer(256), ctypes.create_string_buffer(64)
    _call("cuDeviceGet", ctypes.byref(device), index)
    _call("cuDeviceGetName", name, 256, device)
    _call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    _call("cuDeviceGetPCIBusId", bus, 64, device)
    capability = _attribute(_MAJOR, device), _attribute(_MINOR, device)
    return Card(index, name.value.decode(), capability, memory.value, bus.value.decode())


def _attribute(number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
    return value.value


def _call(function: str, *arguments: Any, allow: int = 0) -> int:
    code = int(getattr(ctypes.CDLL(LIBRARY), function)(*arguments))
    if code not in (0, allow):
        raise SegtrainError(
            f"NVIDIA's driver is broken: {function} answers with error {code}; does nvidia-smi "
            "work? If not, install the driver again, or restart the machine"
        )
    return code


def free_memory() -> Dict[str, int]:
    """Free bytes of each card by its PCI address, as nvidia-smi tells them; empty without it."""
    query = ["nvidia-smi", "--query-gpu=pci.bus_id,memory.free", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = (line.split(",") for line in text.splitlines() if line.count(",") == 1)
    return {bus.strip()[-12:].lower(): int(free) * 2**20 for bus, free in rows if free.strip().isdigit()}
