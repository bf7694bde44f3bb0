"""Who of a launched job runs where, and the variables by which its processes find each other.

By MXNet's parameter server: a scheduler, servers and workers, told by DMLC_*. By Horovod: workers alone,
told by HOROVOD_*, which meet through a small server of Horovod's own in the launcher.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

from segtrain.errors import UserError

HERE = "localhost"
INSTALL = (
    "pip install wheel; HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_CPU_OPERATIONS=GLOO "
    "HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 "
    "pip install --no-build-isolation --no-cache-dir 'segtrain[horovod]'"
)


class Host(NamedTuple):
    """A machine, and how many ranks it gets."""

    name: str
    slots: int


class Settings(NamedTuple):
    """How a job is started and watched."""

    ranks: int
    hosts: Sequence[Host] = ()
    engine: str = "ps"
    servers: int = 0  # one per host
    address: str = ""  # of this machine; found where it is empty
    ssh: str = "ssh"
    silence: float = 20.0  # seconds without a heartbeat, or a step, that end the job


class Place(NamedTuple):
    """What a process of the job is, and where."""

    role: str  # scheduler, server or worker
    host: str
    environment: Dict[str, str]
    rank: int = -1

    def __str__(self) -> str:
        who = f"rank {self.rank}" if self.rank >= 0 else f"the {self.role}"
        return f"{who} on {self.host}"


class Plan(NamedTuple):
    """The processes of a job, and what they all look for first."""

    places: List[Place]
    meeting: str


def read_hosts(path: Path) -> List[Host]:
    """The hosts of a file with lines like `node1` or `node1 slots=2`.

    UserError for a line that is something else, a host named twice, or a file without hosts.
    """
    hosts: List[Host] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = words[1].partition("slots=")[2] if len(words) == 2 else "1" * (len(words) == 1)
        if not slots.isdigit() or not int(slots):
            raise UserError(f"{path}:{number}: write a host and its ranks, like `node1 slots=2`")
        if words[0] in [host.name for host in hosts]:
            raise UserError(f"{path}:{number}: {words[0]} is there already: write its slots in one line")
        hosts.append(Host(words[0], int(slots)))
    if not hosts:
        raise UserError(f"{path} names no host")
    return hosts


@contextlib.contextmanager
def plan(settings: Settings) -> Iterator[Plan]:
    """The processes of a job, which can meet as long as the context lasts."""
    ground = _Ground(settings)
    if settings.engine == "ps":
        yield _parameter_server(settings, ground)
        return
    _check_horovod()
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    hosts = [HostInfo(name, ground.slots.count(name)) for name in ground.addresses]
    assigned = get_host_assignments(hosts, settings.ranks)
    # Horovod's RendezvousServer would listen on all interfaces.
    server = RendezvousHTTPServer((ground.address, 0), RendezvousHandler, 0)
    server.init(assigned)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield _horovod(ground, assigned, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class _Ground:
    """What both engines start from.

    slots: the host of each rank; addresses: those of the hosts used; address: this machine's.
    """

    def __init__(self, settings: Settings):
        hosts = list(settings.hosts) or [Host(HERE, settings.ranks)]
        slots = [host.name for host in hosts for _ in range(host.slots)]
        if len(slots) < settings.ranks:
            raise UserError(
                f"-n {settings.ranks}, but the hosts have {len(slots)} slots: "
                "add `slots=` to their lines"
            )
        self.slots = slots[: settings.ranks]
        self.addresses = {name: _address(name) for name in dict.fromkeys(self.slots)}
        self.address = settings.address or _own_address(list(self.addresses.values()))
        self.port = _free_port(self.address)
        if not self.address.startswith("127."):
            for name, address in self.addresses.items():
                if address.startswith("127."):  # this machine, as it calls itself
                    self.addresses[name] = self.address

    def worker(self, rank: int, variables: Dict[str, str]) -> Place:
        """A rank's place."""
        name = self.slots[rank]
        own = {
            "SEGTRAIN_RANK": str(rank),
            "SEGTRAIN_LOCAL_RANK": str(self.slots[:rank].count(name)),
            "SEGTRAIN_LOCAL_RANKS": str(self.slots.count(name)),
        }
        return Place("worker", name, {**variables, **own}, rank)


def _parameter_server(settings: Settings, ground: _Ground) -> Plan:
    """Servers and workers on the hosts in turn, the scheduler here."""
    used = list(ground.addresses)
    servers = settings.servers or len(used)
    shared = {
        "DMLC_PS_ROOT_URI": ground.address,
        "DMLC_PS_ROOT_PORT": str(ground.port),
        "DMLC_NUM_WORKER": str(settings.ranks),
        "DMLC_NUM_SERVER": str(servers),
    }

    def variables(role: str, address: str) -> Dict[str, str]:
        return {**shared, "DMLC_ROLE": role, "DMLC_NODE_HOST": address}

    places = [Place("scheduler", HERE, variables("scheduler", ground.address))]
    for number in range(servers):
        name = used[number % len(used)]
        places.append(Place("server", name, variables("server", ground.addresses[name])))
    for rank, name in enumerate(ground.slots):
        places.append(ground.worker(rank, variables("worker", ground.addresses[name])))
    return Plan(places, f"the scheduler at {ground.address}:{ground.port} or the servers")


def _horovod(ground: _Ground, assigned: Sequence[Any], port: int) -> Plan:
    """The workers alone."""
    from horovod.runner.gloo_run import create_slot_env_vars

    shared = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": ground.address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        # What it would say where a rank is gone, `launch` says better.
        "HOROVOD_LOG_LEVEL": os.environ.get("HOROVOD_LOG_LEVEL", "fatal"),
    }
    places = [
        ground.worker(
            slot.rank,
            {
                **shared,
                **create_slot_env_vars(slot),
                "SEGTRAIN_ADDRESS": ground.addresses[slot.hostname],
            },
        )
        for slot in assigned
    ]
    return Plan(places, f"the launcher at {ground.address}:{port} or the other ranks")


def _check_horovod() -> None:
    """UserError with the command, where Horovod isn't installed, or not built for MXNet."""
    found = importlib.util.find_spec("horovod")
    if found is None or found.origin is None:
        raise UserError(f"--engine horovod: Horovod isn't installed; to build it: {INSTALL}")
    if not list(Path(found.origin).parent.glob("mxnet/mpi_lib*")):
        raise UserError(
            "--engine horovod: the Horovod here wasn't built for MXNet: "
            f"pip uninstall horovod, then {INSTALL}"
        )


def _address(host: str) -> str:
    if host in (HERE, "127.0.0.1"):
        return "127.0.0.1"
    try:
        return socket.gethostbyname(host)
    except OSError:
        raise UserError(f"the host {host} isn't known: is its name right?") from None


def _own_address(others: Sequence[str]) -> str:
    """The address of this machine on the way to the others; nothing is sent.

    Its own name may stand for 127.0.1.1, by which nobody else reaches it.
    """
    other = next((address for address in others if not address.startswith("127.")), others[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other, 9))
        except OSError as error:
            raise UserError(f"no way from here to {other} ({error.strerror})") from None
        return str(probe.getsockname()[0])


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise UserError(f"--address {address} is none of this machine's") from None
        return int(probe.getsockname()[1])


__all__ = ["Host", "Place", "Plan", "Settings", "plan", "read_hosts"]
