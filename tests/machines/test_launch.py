"""Ranks that train together: equal to one process, ended as one, resumed by any number."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from conftest import run, start

from segtrain.errors import UserError
from segtrain.machines import places
from segtrain.machines.places import Host, Settings, plan, read_hosts
from segtrain.machines.ranks import Ranks

HOROVOD = pytest.param(
    "horovod",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod isn't installed (README)"
    ),
)
ENGINES = pytest.mark.parametrize("engine", ["ps", HOROVOD])

SMALL = """
model: {name: unet, widths: [8, 16], units: 1, norm: none}
data: {name: shapes, size: [40, 40], train: 13, val: 3, crop: [32, 32], workers: 0}
train: {epochs: 5, batch: 4, lr: 0.01, loss: {ce: 1, dice: 1}}
eval: {every: 5}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A config of 20 steps, whose last batches have one image, and its run by one process."""
    home = tmp_path_factory.mktemp("launch")
    (home / "small.yaml").write_text(SMALL)
    code, text = run("train", home / "small.yaml", "--out", home / "one")
    assert code == 0, text
    return home


def parameters(folder):
    arrays = mx.nd.load(str(folder / "checkpoints/last/model.params"))
    return {name: array.asnumpy() for name, array in arrays.items()}


def same(one, other):
    first, second = parameters(one), parameters(other)
    assert set(first) == set(second)
    assert max(np.abs(first[name] - second[name]).max() for name in first) <= 1e-5
    rows = [(folder / "history.csv").read_text().splitlines()[-1].split(",") for folder in (one, other)]
    assert float(rows[0][3]) == pytest.approx(float(rows[1][3]), rel=1e-4)


def launched(*arguments, ranks=2, options=(), **more):
    return start("launch", "-n", ranks, *options, "--", "train", *arguments, **more)


def descendants(pid):
    """The processes that belong to a launcher: those with its mark in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != pid:
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    marked = f"SEGTRAIN_TEST={pid_mark}".encode() in file.read()
                with open(f"/proc/{entry}/stat") as file:
                    alive = file.read().rsplit(")", 1)[1].split()[0] != "Z"
            except (OSError, IndexError):
                continue
            if marked and alive:
                found.append(int(entry))
    return found


pid_mark = f"{os.getpid()}-{time.time()}"


def marked():
    return {**os.environ, "SEGTRAIN_TEST": pid_mark}


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def command_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().decode().split("\0")


def member(role, pid):
    """The process of a role among the launcher's own; workers are told apart by their rank."""
    for child in descendants(pid):
        try:
            with open(f"/proc/{child}/environ", "rb") as file:
                variables = dict(v.split("=", 1) for v in file.read().decode().split("\0") if "=" in v)
            if "segtrain.machines.member" in command_of(child) and role in (
                variables.get("DMLC_ROLE"),
                f"rank {variables.get('SEGTRAIN_RANK')}",
            ):
                return child
        except OSError:
            continue
    raise AssertionError(f"no {role}")


@ENGINES
def test_two_ranks_are_one_process(home, engine):
    folder = home / engine
    process = launched(
        *(home / "small.yaml", "--out", folder, "--json", home / "told.json", "--quiet"),
        options=("--engine", engine),
    )
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0 and not text, text
    same(home / "one", folder)
    for made in ("config.yaml", "history.csv", "checkpoints/best/model.params", "report.html"):
        assert (folder / made).is_file()
    assert json.loads((home / "told.json").read_text())["best"]["epoch"] == 5


@ENGINES
def test_all_ranks_save_where_the_first_one_finds_it_late(home, engine):
    """In one epoch of 50 steps, whose end is the last save; the one before was in its midst."""
    longer = ("train.epochs=1", "data.train=200", "eval.every=1", "--quiet")
    code, text = run("train", home / "small.yaml", *longer, "--out", home / f"{engine}-once")
    assert code == 0, text
    folder = home / f"{engine}-late"
    process = launched(
        *(home / "small.yaml", *longer, "checkpoint.every_minutes=1e-9", "--out", folder),
        options=("--engine", engine),
    )
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    before = json.loads((folder / "checkpoints/last.previous/state.json").read_text())
    assert before["epoch"] == 0 and 40 < before["batch"] < 50
    same(home / f"{engine}-once", folder)


@pytest.mark.parametrize(
    ("engine", "role", "number", "said"),
    [
        ("ps", "rank 1", signal.SIGKILL, "rank 1 on localhost was killed by signal 9"),
        ("ps", "server", signal.SIGKILL, "the server on localhost was killed by signal 9"),
        ("ps", "scheduler", signal.SIGKILL, "the scheduler on localhost was killed by signal 9"),
        ("ps", "rank 0", signal.SIGSTOP, "rank 0 on localhost has said nothing for 5 s"),
        pytest.param(
            *("horovod", "rank 1", signal.SIGKILL, "rank 1 on localhost was killed by signal 9"),
            marks=HOROVOD.marks,
        ),
        pytest.param(
            *("horovod", "rank 1", signal.SIGSTOP, "rank 1 on localhost has said nothing for 5 s"),
            marks=HOROVOD.marks,
        ),
    ],
)
def test_one_that_fails_ends_all_and_the_run_resumes(home, engine, role, number, said):
    folder = home / f"{engine}-{role.replace(' ', '')}-{number.name}"
    process = launched(
        *(home / "small.yaml", "train.epochs=1000", "--out", folder),
        options=("--timeout", 5, "--engine", engine),
        env=marked(),
    )
    wait_until(lambda: (folder / "history.csv").exists(), process)
    os.kill(member(role, process.pid), number)
    begun = time.monotonic()
    text = process.communicate(timeout=60)[0]
    assert time.monotonic() - begun < 30
    assert process.returncode == 1 and said in text and "its last line: " in text, text
    assert not descendants(process.pid)
    command = shlex.split(text.split("To go on: ")[1].splitlines()[0])
    by = [] if engine == "ps" else ["--engine", engine]
    assert command[:-5] == ["segtrain", "launch", "-n", "2", *by, "--"], command
    assert command[-5:] == ["train", f"{folder}/config.yaml", "--out", str(folder), "--resume"]
    assert (folder / "checkpoints/last/state.json").is_file()


@ENGINES
def test_stopped_and_resumed_by_another_number_of_ranks(home, engine):
    folder = home / f"{engine}-stopped"
    process = launched(
        *(home / "small.yaml", "--out", folder, "data.workers=1"),
        options=("--engine", engine),
        env=marked(),
    )
    wait_until(lambda: (folder / "history.csv").exists(), process)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert not descendants(process.pid)
    if process.returncode == 0:
        pytest.skip("the run was over before it could be stopped")
    assert process.returncode == 130 and "segtrain launch -n 2 " in text, text
    code, text = run("train", folder / "config.yaml", "--out", folder, "--resume")
    assert code == 0, text
    same(home / "one", folder)


def test_ranks_go_when_the_launcher_is_killed(home):
    folder = home / "orphans"
    process = launched(home / "small.yaml", "train.epochs=1000", "--out", folder, env=marked())
    wait_until(lambda: (folder / "history.csv").exists(), process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while descendants(process.pid):
        assert time.monotonic() < deadline, [command_of(p) for p in descendants(process.pid)]
        time.sleep(0.1)


@ENGINES
def test_over_ssh(home, tmp_path, engine):
    """With a stand-in for ssh that runs the command here, as sshd would: in a shell, in $HOME."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nhost=$1; shift; cd /; echo "$host" >> "$0.log"; exec sh -c "$*"\n')
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("127.0.0.2 slots=1\n127.0.0.3  # the second one\n")
    options = ("--hosts", tmp_path / "hosts", "--ssh", ssh, "--address", "127.0.0.1")
    folder = home / f"{engine}-ssh"
    process = launched(home / "small.yaml", "--out", folder, options=(*options, "--engine", engine))
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    same(home / "one", folder)
    hosts = (tmp_path / "ssh.log").read_text().split()  # a rank on each; by ps servers, and their ends
    assert set(hosts) == {"127.0.0.2", "127.0.0.3"} and len(hosts) >= (4 if engine == "ps" else 2)


def test_a_users_mistake_is_said_once(home):
    process = launched(home / "small.yaml", "train.lr=0", "--out", home / "mistake")
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "train.lr" in text, text


@ENGINES
def test_they_listen_on_their_interface_only(home, engine):
    folder = home / f"{engine}-ports"
    process = launched(
        *(home / "small.yaml", "train.epochs=1000", "--out", folder),
        options=("--engine", engine),
        env=marked(),
    )
    wait_until((folder / "history.csv").exists, process)
    ours = set()
    for pid in (process.pid, *descendants(process.pid)):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            ours.update([link[8:-1]] if link.startswith("socket:[") else [])
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            rows += [line.split() for line in file.readlines()[1:]]
    process.kill()
    process.communicate()
    # Gloo listens no longer once all are connected, but on the interface of their connections.
    addresses = [row[1] for row in rows if row[9] in ours]
    assert len(addresses) >= 4
    assert all(address.startswith("0100007F:") for address in addresses), addresses


# ---- without processes


def test_the_plan():
    hosts = [Host("127.0.0.2", 2), Host("127.0.0.3", 4)]
    with plan(Settings(3, hosts, address="127.0.0.1")) as (found, meeting):
        assert [str(place) for place in found] == [
            "the scheduler on localhost",
            "the server on 127.0.0.2",
            "the server on 127.0.0.3",
            "rank 0 on 127.0.0.2",
            "rank 1 on 127.0.0.2",
            "rank 2 on 127.0.0.3",
        ]
    assert [place.environment.get("SEGTRAIN_LOCAL_RANK") for place in found[3:]] == ["0", "1", "0"]
    assert found[0].environment["DMLC_PS_ROOT_PORT"] in meeting
    with pytest.raises(UserError, match="2 slots"), plan(Settings(3, [Host("127.0.0.2", 2)])):
        pass
    with pytest.raises(UserError, match="none of this machine's"), plan(
        Settings(1, address="192.0.2.1")
    ):
        pass


def test_a_machine_that_calls_itself_127_0_1_1_is_known_by_its_real_address(monkeypatch):
    known = {"here": "127.0.1.1", "there": "192.0.2.7"}
    monkeypatch.setattr(places, "_address", known.get)
    try:
        own = places._own_address(["192.0.2.7"])
    except UserError as error:
        pytest.skip(str(error))
    with plan(Settings(2, [Host("here", 1), Host("there", 1)])) as (found, _):
        assert {place.environment["DMLC_PS_ROOT_URI"] for place in found} == {own}
        addresses = [place.environment["DMLC_NODE_HOST"] for place in found]
    assert addresses == [own, own, "192.0.2.7", own, "192.0.2.7"]


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="Horovod isn't installed")
def test_the_plan_by_horovod():
    hosts = [Host("127.0.0.2", 2), Host("127.0.0.3", 4)]
    with plan(Settings(3, hosts, "horovod", address="127.0.0.1")) as (found, _):
        assert [str(p) for p in found] == [
            "rank 0 on 127.0.0.2",
            "rank 1 on 127.0.0.2",
            "rank 2 on 127.0.0.3",
        ]
    named = ("RANK", "LOCAL_RANK", "CROSS_RANK", "CROSS_SIZE")
    told = [[int(place.environment[f"HOROVOD_{name}"]) for name in named] for place in found]
    assert told == [[0, 0, 0, 2], [1, 1, 0, 1], [2, 0, 1, 2]]


@pytest.mark.parametrize("extension", [None, "there, but for another framework"])
def test_horovod_that_is_missing_is_told_with_the_command(monkeypatch, tmp_path, extension):
    spec = None
    if extension:
        (tmp_path / "horovod").mkdir()
        spec = importlib.util.spec_from_file_location("horovod", tmp_path / "horovod/__init__.py")
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="HOROVOD_WITH_MXNET=1 .*segtrain\\[horovod\\]"), plan(
        Settings(2, engine="horovod")
    ):
        pass


@pytest.mark.parametrize("text", ["", "# none", "node1 2", "node1 slots=0", "a b c", "a\nb\na"])
def test_hosts_files_that_are_wrong(tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match="hosts"):
        read_hosts(tmp_path / "hosts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "mpi", "--", "train", "x.yaml"], "there are horovod, ps"),
        (["--", "eval", "x"], "launch runs train"),
        (["--", "train", "x.yaml", "--dry-run"], "--dry-run"),
        (["--hosts", "nowhere", "--", "train", "x.yaml"], "no such file"),
    ],
)
def test_what_is_refused(arguments, said):
    code, text = run("launch", "-n", 2, *arguments)
    assert code == 2 and said in text


@pytest.mark.parametrize("store", ["dist_sync", "dist_device_sync", "dist_async", "horovod", "nowhere"])
def test_stores_that_would_be_wrong_are_refused(home, store):
    code, text = run("train", home / "small.yaml", f"train.kvstore={store}")
    assert code == 2 and "train.kvstore" in text
    assert ("segtrain launch" in text) == (store != "nowhere")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_of_a_batch_are_all_of_it_once(size):
    for count in range(10):
        shares = []
        for rank in range(size):
            ranks = Ranks()
            ranks.size, ranks.rank = size, rank
            shares.append(ranks.share(np.arange(count)))
        assert np.concatenate(shares).tolist() == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_cards_are_shared_out_among_the_ranks_of_a_host():
    code = "from segtrain.machines import member; import os; member._choose_cards(); "
    code += "print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    for visible, rank, ranks, mine in (
        ("0,1,2,3", 1, 2, "1,3"),
        ("4,6", 0, 2, "4"),
        ("0", 1, 2, "0"),
        ("0,1", 0, 1, "0,1"),
    ):
        local = {"SEGTRAIN_LOCAL_RANK": str(rank), "SEGTRAIN_LOCAL_RANKS": str(ranks)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible, **local},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == mine
