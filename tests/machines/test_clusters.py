"""The examples for Slurm and Kubernetes, run as they are, with stand-ins for what a cluster brings."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import yaml
from conftest import run

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = """
model: {name: unet, widths: [8, 16], units: 1, norm: none}
data: {name: shapes, size: [40, 40], train: 13, val: 3, crop: [32, 32], workers: 0}
train: {epochs: 3, batch: 4, lr: 0.01}
eval: {every: 3}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a config, its run by one process, and the commands `segtrain` and `python`."""
    home = tmp_path_factory.mktemp("cluster")
    (home / "mydata.yaml").write_text(SMALL)
    code, text = run("train", home / "mydata.yaml", "--out", home / "one", "--quiet")
    assert code == 0, text
    python = shlex.quote(sys.executable)
    command(home, "segtrain", f'exec {python} -m segtrain "$@"')
    command(home, "python", f'exec {python} "$@"')
    return home


def command(home, name, script):
    path = home / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def environment(home, **more):
    root = str(SCRIPTS.parent)
    return {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "PYTHONPATH": root, **more}


def same(one, other):
    first, second = (mx.nd.load(str(f / "checkpoints/last/model.params")) for f in (one, other))
    assert set(first) == set(second)
    assert max(np.abs((first[n] - second[n]).asnumpy()).max() for n in first) <= 1e-5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def slurm(home, *arguments):
    """sbatch's part: the script in the job's environment, on two nodes."""
    command(
        home,
        "scontrol",
        'test "$*" = "show hostnames 127.0.0.[2-3]" && printf "127.0.0.2\\n127.0.0.3\\n"',
    )
    command(
        *(home, "srun"),
        'echo "$*" >> "$(dirname "$0")/../srun.log"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    )
    return subprocess.Popen(
        ["bash", SCRIPTS / "slurm.sh", *arguments],
        cwd=home,
        env=environment(
            *(home,),
            **{"SLURM_JOB_NODELIST": "127.0.0.[2-3]", "SLURM_JOB_NUM_NODES": "2"},
            SLURM_CPUS_PER_TASK="1",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_slurm(home):
    process = slurm(home, "train", "mydata.yaml", "--out", "slurm", "--quiet")
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    same(home / "one", home / "slurm")
    steps = [line.split() for line in (home / "srun.log").read_text().splitlines()]
    assert {"--nodelist=127.0.0.2", "--nodelist=127.0.0.3"} == {
        word for step in steps for word in step if word.startswith("--nodelist")
    }
    assert all({"--nodes=1", "--ntasks=1", "--overlap", "--cpus-per-task=1"} <= set(s) for s in steps)


def test_slurm_says_how_to_go_on(home):
    process = slurm(home, "train", "mydata.yaml", "train.epochs=1000", "--out", "stopped", "--quiet")
    while not (home / "stopped/history.csv").exists():
        assert process.poll() is None, process.communicate()[0]
    launcher = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "segtrain launch"], stdout=subprocess.PIPE, check=True
    )
    os.kill(int(launcher.stdout), signal.SIGTERM)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 130, text
    assert "sbatch scripts/slurm.sh train stopped/config.yaml --out stopped --resume" in text


def pods(home, **changed):
    """The processes of the job's pods, each with its variables, as the kubelet would start them."""
    job = list(yaml.safe_load_all((SCRIPTS / "kubernetes.yaml").read_text()))[1]
    container = job["spec"]["template"]["spec"]["containers"][0]
    command(home, "getent", 'test "$*" = "hosts segtrain-0.segtrain" && echo "127.0.0.1  segtrain-0"')
    variables = {e["name"]: e.get("value", "127.0.0.1") for e in container["env"]} | changed
    for index in range(job["spec"]["completions"]):
        yield subprocess.Popen(
            [*container["command"], *container["args"]],
            cwd=home,
            env=environment(home, **variables, JOB_COMPLETION_INDEX=str(index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def end(running):
    """What the end of a container does to all that is left in it."""
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_kubernetes(home):
    running = list(pods(home, DMLC_PS_ROOT_PORT=free_port()))
    try:
        for process in running:
            text = process.communicate(timeout=240)[0]
            assert process.returncode == 0, text
    finally:
        end(running)
    same(home / "one", home / "runs/mydata")


def test_a_pod_of_kubernetes_fails_with_its_server(home, tmp_path):
    (tmp_path / "mydata.yaml").write_text(SMALL.replace("epochs: 3", "epochs: 1000"))
    for name in ("segtrain", "python"):
        command(tmp_path, name, f'exec {home}/bin/{name} "$@"')
    running = list(pods(tmp_path, DMLC_PS_ROOT_PORT=free_port()))
    try:
        while not (tmp_path / "runs/mydata/history.csv").exists():
            assert running[0].poll() is None, running[0].communicate()[0]
        helpers = subprocess.run(
            ["pgrep", "-g", str(running[1].pid), "-f", "python.* -c import segtrain, mxnet"],
            stdout=subprocess.PIPE,
            check=True,
        )
        assert len(helpers.stdout.split()) == 1  # the second pod has no scheduler
        os.kill(int(helpers.stdout), signal.SIGKILL)
        assert running[1].wait(30) == 128 + signal.SIGKILL
    finally:
        end(running)


def test_kubernetes_names_and_numbers_fit():
    service, job = yaml.safe_load_all((SCRIPTS / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    variables = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    assert service["spec"]["clusterIP"] == "None" and spec["completionMode"] == "Indexed"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    ranks = {str(spec["completions"]), str(spec["parallelism"])}
    assert ranks == {variables["DMLC_NUM_WORKER"], variables["DMLC_NUM_SERVER"]}
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
