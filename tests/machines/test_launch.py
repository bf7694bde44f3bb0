"""Ranks that train together: equal to one process, ended as one, resumed by any number."""

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
from segtrain.machines.launch import Host, Settings, plan, read_hosts
from segtrain.machines.ranks import Ranks

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


def test_two_ranks_are_one_process(home):
    process = launched(home / "small.yaml", "--out", home / "two")
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    same(home / "one", home / "two")
    for made in ("config.yaml", "history.csv", "checkpoints/best/model.params"):
        assert (home / "two" / made).is_file()


@pytest.mark.parametrize(
    ("role", "number", "said"),
    [
        ("rank 1", signal.SIGKILL, "rank 1 on localhost was killed by signal 9"),
        ("server", signal.SIGKILL, "the server on localhost was killed by signal 9"),
        ("scheduler", signal.SIGKILL, "the scheduler on localhost was killed by signal 9"),
        ("rank 0", signal.SIGSTOP, "rank 0 on localhost has said nothing for 5 s"),
    ],
)
def test_one_that_fails_ends_all_and_the_run_resumes(home, role, number, said):
    folder = home / f"{role.replace(' ', '')}-{number.name}"
    process = launched(
        home / "small.yaml", "train.epochs=1000", "--out", folder, options=("--timeout", 5), env=marked()
    )
    wait_until(lambda: (folder / "history.csv").exists(), process)
    os.kill(member(role, process.pid), number)
    begun = time.monotonic()
    text = process.communicate(timeout=60)[0]
    assert time.monotonic() - begun < 30
    assert process.returncode == 1 and said in text and "its last line: " in text, text
    assert not descendants(process.pid)
    command = shlex.split(text.split("To go on: ")[1].splitlines()[0])
    assert command[:5] == ["segtrain", "launch", "-n", "2", "--"] and command[-1] == "--resume"
    assert (folder / "checkpoints/last/state.json").is_file()


def test_stopped_and_resumed_by_another_number_of_ranks(home):
    folder = home / "stopped"
    out = ("--out", folder, "train.epochs=5", "eval.every=5")
    process = launched(home / "small.yaml", *out, "data.workers=1", env=marked())
    wait_until(lambda: (folder / "history.csv").exists(), process)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert not descendants(process.pid)
    if process.returncode == 0:
        pytest.skip("the run was over before it could be stopped")
    assert process.returncode == 130 and "segtrain launch -n 2 -- train" in text, text
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


def test_over_ssh(home, tmp_path):
    """With a stand-in for ssh that runs the command here, as sshd would: in a shell, in $HOME."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nhost=$1; shift; cd /; echo "$host" >> "$0.log"; exec sh -c "$*"\n')
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("127.0.0.2 slots=1\n127.0.0.3  # the second one\n")
    options = ("--hosts", tmp_path / "hosts", "--ssh", ssh, "--address", "127.0.0.1")
    process = launched(home / "small.yaml", "--out", home / "ssh", options=options)
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    same(home / "one", home / "ssh")
    hosts = (tmp_path / "ssh.log").read_text().split()  # a server and a rank on each, and their ends
    assert set(hosts) == {"127.0.0.2", "127.0.0.3"} and len(hosts) >= 4


def test_a_users_mistake_is_said_once(home):
    process = launched(home / "small.yaml", "train.lr=0", "--out", home / "mistake")
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "train.lr" in text, text


def test_servers_listen_on_their_interface_only(home):
    places = plan(Settings(2))
    assert {p.environment["DMLC_NODE_HOST"] for p in places} == {"127.0.0.1"}
    assert {p.environment["DMLC_PS_ROOT_URI"] for p in places} == {"127.0.0.1"}
    process = launched(home / "small.yaml", "train.epochs=1000", "--out", home / "ports", env=marked())
    wait_until(lambda: (home / "ports/history.csv").exists(), process)
    ours = set()
    for pid in descendants(process.pid):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            ours.update([link[8:-1]] if link.startswith("socket:[") else [])
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[9] in ours]
    process.kill()
    process.communicate()
    assert len(listening) >= 4
    assert all(address.startswith("0100007F:") for address in listening), listening


# ---- without processes


def test_the_plan():
    places = plan(Settings(3, [Host("127.0.0.2", 2), Host("127.0.0.3", 4)], address="127.0.0.1"))
    assert [str(p) for p in places] == [
        "the scheduler on localhost",
        "the server on 127.0.0.2",
        "the server on 127.0.0.3",
        "rank 0 on 127.0.0.2",
        "rank 1 on 127.0.0.2",
        "rank 2 on 127.0.0.3",
    ]
    assert [p.environment.get("SEGTRAIN_LOCAL_RANK") for p in places[3:]] == ["0", "1", "0"]
    with pytest.raises(UserError, match="2 slots"):
        plan(Settings(3, [Host("127.0.0.2", 2)]))
    with pytest.raises(UserError, match="none of this machine's"):
        plan(Settings(1, address="192.0.2.1"))


@pytest.mark.parametrize("text", ["", "# none", "node1 2", "node1 slots=0", "a b c"])
def test_hosts_files_that_are_wrong(tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match="hosts"):
        read_hosts(tmp_path / "hosts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "horovod", "--", "train", "x.yaml"], "Horovod"),
        (["--engine", "mpi", "--", "train", "x.yaml"], "there are ps"),
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
