"""`segtrain doctor` on machines with something wrong: real mounts, libraries and drivers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.machines import doctor, memory
from segtrain.machines.doctor import Answer
from segtrain.prediction import threads

FILES = Path(__file__).parent / "files"
HERE = [sys.executable, "-m", "segtrain", "doctor", "--json", "-"]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def examined(command, **environment):
    """(exit code, result) of the command, and the findings by name."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["passed"] else 1)
    return result, {finding["name"]: finding for finding in result["findings"]}


def part(name, facts, prefix=(), **environment):
    """The findings of one part of the examination by name, in a process of its own."""
    code = f"import json; from segtrain.machines import doctor; facts = {facts!r}; "
    code += f"print(json.dumps([f._asdict() for f in doctor.{name}(facts)]))"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def in_namespace(mounts):
    """What to put before a command so that these mounts are private to it."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to mount something in")
    return [*NAMESPACE, "sh", "-c", f'{mounts} && exec "$@"', "sh"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The folder of a stand-in for NVIDIA's driver."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build a driver with")
    home = tmp_path_factory.mktemp("driver")
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(FILES / "libcuda.c")]
    subprocess.run([*command, "-o", str(home / "libcuda.so.1")], check=True)
    return home


def test_a_machine_without_a_card():
    result, found = examined(HERE)
    assert result["passed"], found
    facts = result["facts"]
    assert facts["mxnet"]["version"] == "1.9.1" and facts["mxnet"]["numpy"].startswith("1.")
    assert facts["training"]["cpu"] > 0 and facts["loader"]["crops_per_second"] > 0
    assert facts["parameter_server"] and facts["cores"] >= 1
    assert "images/s" in found["training on cpu"]["found"]


def test_the_table_says_the_cure(monkeypatch, capsys):
    from conftest import run

    wrong = doctor.Finding("threads", "wrong", "2 cores", "export OMP_NUM_THREADS=2")
    monkeypatch.setattr(doctor, "_cores", lambda facts: [wrong])
    monkeypatch.setattr(doctor, "ask", lambda *_, **__: Answer({}, "ended"))
    code, text = run("doctor", "--no-train")
    assert code == 1 and "wrong" in text and "-> export OMP_NUM_THREADS=2" in text


@pytest.mark.parametrize(("size", "works"), [("4k", False), ("64k", True)])
def test_a_small_dev_shm(size, works):
    """Four KiB can't hold the loader's locks; 64 are plenty, since batches don't go through it."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    found = part("_loader", {"opencv": "4"}, in_namespace(mount))
    assert found["loader"]["state"] == ("ok" if works else "wrong")
    if not works:
        assert "No space left" in found["loader"]["found"] and "/dev/shm" in found["loader"]["found"]
        assert "data.workers=0" in found["loader"]["cure"]


def test_opencv_without_libgl(tmp_path):
    """A cv2 that is linked with a libGL which isn't there any more, as the desktop build is."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build libraries with")
    shared = ["gcc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed"]
    library = tmp_path / "libGL.so.1"
    subprocess.run([*shared, "-Wl,-soname,libGL.so.1", "-o", library], check=True)
    subprocess.run([*shared, library, "-o", tmp_path / "cv2.so"], check=True)
    library.unlink()
    empty = tmp_path / "empty"
    empty.touch()
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    hidden = [line.split()[-1] for line in listed.splitlines() if "libGL.so.1" in line]
    prefix = in_namespace(" && ".join(f"mount --bind {empty} {h}" for h in hidden)) if hidden else []
    path = os.pathsep.join([str(tmp_path), str(Path(doctor.__file__).parents[2])])
    found = part("_opencv", {}, prefix, PYTHONPATH=path)["OpenCV"]
    assert found["state"] == "wrong" and "libGL.so.1" in found["found"]
    assert "opencv-contrib-python-headless" in found["cure"]


def test_cards_of_a_driver(driver):
    there = {"LD_LIBRARY_PATH": str(driver)}
    found = part("_cards", {"of_cuda": False}, **there, STUB_CARDS="8.6 NVIDIA RTX A6000")
    assert found["driver"]["found"] == "up to CUDA 12.2, 1 cards"
    assert found["GPU 0"]["state"] == "note" and "segtrain[cu117]" in found["GPU 0"]["cure"]
    assert "RTX A6000, compute capability 8.6, 24.0 GiB" in found["GPU 0"]["found"]
    found = part("_cards", {"of_cuda": True}, **there, STUB_CARDS="")
    assert found["driver"]["state"] == "wrong" and "docker run --gpus all" in found["driver"]["cure"]
    found = part("_cards", {"of_cuda": True}, **there, STUB_CARDS="", STUB_ERROR="803")
    assert found["driver"]["state"] == "wrong" and "error 803" in found["driver"]["found"]


def cuda_python():
    """A Python with segtrain[cu117], or a skip that says how to name one."""
    path = os.environ.get("SEGTRAIN_CUDA_PYTHON")
    if not path:
        pytest.skip("set SEGTRAIN_CUDA_PYTHON to a Python that has segtrain[cu117]")
    return [path, *HERE[1:], "--no-train"]


def test_the_cuda_wheel_without_a_driver():
    result, found = examined(cuda_python(), LD_LIBRARY_PATH="")
    if result["facts"]["driver_cuda"]:
        pytest.skip("there is a driver here")
    assert not result["passed"] and "no NVIDIA driver" in found["MXNet"]["found"]
    assert "pip install mxnet==1.9.1" in found["MXNet"]["cure"]


def test_the_cuda_wheel_with_cards_that_it_has_no_code_for(driver):
    cards = {"STUB_CARDS": "9.0 NVIDIA H100;8.6 RTX 3090"}
    result, found = examined(cuda_python(), LD_LIBRARY_PATH=str(driver), **cards)
    assert result["facts"]["gpu_code"] == {"cubin": ["5.0", "6.0", "7.0", "8.0", "8.6"], "ptx": []}
    assert found["GPU 0"]["state"] == "wrong" and "container" in found["GPU 0"]["cure"]
    assert found["GPU 1"]["state"] == "ok"
    libraries = result["facts"]["cuda_libraries"]
    assert all(libraries.values()) and "site-packages/nvidia" in libraries["libcudnn.so.8"]
    # The stand-in can't compute, so MXNet, which asks it, says so before anything is trained.
    assert "doesn't work with the driver" in found["MXNet"]["found"]


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_cpus_of_a_container(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == quota


def test_no_more_threads_than_a_container_may_use(monkeypatch):
    most = threads.cores()
    for quota, wanted in ((0.5, 1), (1.5, 1), (1000, most), (None, most)):
        monkeypatch.setattr(threads, "quota", lambda quota=quota: quota)
        assert threads.threads() == wanted
    assert threads.cpus() == len(os.sched_getaffinity(0))


V2 = {
    "memory.max": "8000000000\n",
    "memory.current": "3000000000\n",
    "memory.stat": "anon 900000000\ninactive_file 2000000000\n",
}
V1 = {
    "memory/memory.limit_in_bytes": "8000000000\n",
    "memory/memory.usage_in_bytes": "3000000000\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 2000000000\n",
}


@pytest.mark.parametrize(
    ("files", "bytes_"),
    [
        (V2, 7_000_000_000),
        (V1, 7_000_000_000),
        ({**V2, "memory.max": "max\n"}, 20_000_000 * 1024),
        ({**V2, "memory.max": "500\n"}, 0),
        ({}, 20_000_000 * 1024),
    ],
)
def test_the_memory_of_a_container(tmp_path, files, bytes_):
    """What is kept of files that were read can be taken."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree:  100000 kB\nMemAvailable:   20000000 kB\nCached: 19000000 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.available(meminfo, tmp_path) == bytes_


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    [found] = doctor._cores({})
    assert found.state == "wrong" and found.cure.startswith("export OMP_NUM_THREADS=")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [found.state for found in doctor._cores({})] == ["ok"]


@pytest.mark.gpu
def test_on_a_real_card(gpus):
    result, found = examined(HERE)
    usable = [card for card in result["facts"]["cards"] if not card["unusable"]]
    for card in usable:
        assert result["facts"]["training"][f"gpu:{card['number']}"] > 0, found


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "ended without a word"),
        ("kill -SEGV $$", "killed by signal 11"),
        ("echo MXNetError: no memory >&2; exit 1", "MXNetError: no memory"),
        ("exec sleep 60", "no answer within 1 s"),
    ],
)
def test_a_probe_that_dies_or_hangs(monkeypatch, tmp_path, script, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert doctor.ask("mxnet", timeout=1) == Answer({}, said)
