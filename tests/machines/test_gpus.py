"""CUDA builds on machines of every kind: what is refused, why, and what to type."""

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from segtrain.machines import elf
from segtrain.machines.elf import Code

FILES = Path(__file__).parent / "files"
# A compiled file of mxnet-cu117 1.9.1 as it lies in libmxnet.so: machine code for five architectures.
REAL = FILES / "mxnet-cu117.fatbin"
SHIPPED = [(5, 0), (6, 0), (7, 0), (8, 0), (8, 6)]

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc to build libraries with")


def build(path, source="", *options):
    """A shared library from C."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{path.name}"]
    command += ["-Wl,--no-as-needed", "-x", "none", *map(str, options), "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def with_code(path, *containers):
    """A library with the containers of GPU code in its .nv_fatbin, as nvcc would leave them."""
    lines = [f'.incbin \\"{file}\\"\\n.balign 8' for file in containers]
    text = "\\n".join([r".section .nv_fatbin,\"a\"", ".balign 8", *lines, r".previous"])
    return build(path, f'__asm__("{text}");')


def container(path, *entries):
    """A file with entries (kind, architecture): 1 is PTX, 2 machine code."""
    body = b"".join(
        struct.pack("<HHIQ12xI32x", kind, 0x101, 64, 24, architecture) + bytes(24)
        for kind, architecture in entries
    )
    path.write_bytes(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body)
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The folder of a stand-in for NVIDIA's driver."""
    home = tmp_path_factory.mktemp("driver")
    build(home / "libcuda.so.1", (FILES / "libcuda.c").read_text())
    return home


def python(code, *paths, driver=None, **environment):
    """(exit code, output) of Python code in a process of its own, which sees this driver alone."""
    more = {"PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parents[2], *paths]))}
    if driver:
        more["LD_LIBRARY_PATH"] = str(driver)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **more, **environment},
        check=False,
    )
    return done.returncode, done.stdout


# ---- what a library holds


def test_the_architectures_of_a_real_build(tmp_path):
    library = with_code(tmp_path / "libmxnet.so", REAL)
    assert elf.gpu_code(library) == Code(SHIPPED, [])


def test_several_containers_and_ptx(tmp_path):
    files = [
        container(tmp_path / "a", (2, 70), (1, 75)),
        container(tmp_path / "b", (2, 90), (2, 70), (1, 120)),
    ]
    library = with_code(tmp_path / "libmany.so", *files, REAL)
    assert elf.gpu_code(library) == Code([*SHIPPED, (9, 0)], [(7, 5), (12, 0)])


def test_the_cpu_build_holds_none():
    from segtrain.machines import cuda

    assert elf.gpu_code(cuda.library()) == Code([], [])


@pytest.mark.parametrize(
    ("card", "fits"),
    [((5, 2), True), ((3, 5), False), ((7, 5), True), ((8, 9), True), ((9, 0), False), ((12, 0), False)],
)
def test_cards_that_the_published_wheels_run_on(card, fits):
    assert Code(SHIPPED, []).runs_on(card) == fits


def test_ptx_runs_on_every_newer_card():
    assert Code([], [(7, 5)]).runs_on((12, 0)) and not Code([], [(7, 5)]).runs_on((7, 0))


def test_needed_libraries_are_those_of_ldd(tmp_path):
    below = build(tmp_path / "libbelow.so.3")
    library = build(tmp_path / "libabove.so", "", below, "-lm")
    shown = subprocess.run(["readelf", "-d", library], capture_output=True, text=True).stdout
    wanted = [line.split("[")[1].rstrip("]") for line in shown.splitlines() if "(NEEDED)" in line]
    assert elf.needed(library) == wanted and "libbelow.so.3" in wanted


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20])
def test_what_is_no_library(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="ELF"):
        elf.needed(tmp_path / "x")


def test_a_damaged_library(tmp_path):
    library = with_code(tmp_path / "libmxnet.so", REAL)
    data = library.read_bytes()
    at = data.index(struct.pack("<I", 0xBA55ED50))
    library.write_bytes(data[: at + 8] + struct.pack("<Q", 1 << 40) + data[at + 16 :])
    with pytest.raises(ValueError, match="container"):
        elf.gpu_code(library)
    library.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="ends before"):
        elf.gpu_code(library)


# ---- before MXNet is imported


@pytest.fixture
def site(tmp_path, driver):
    """A site folder in which mxnet is a CUDA build, linked with libraries of nvidia-* packages."""
    from segtrain.machines import cuda

    blas = build(tmp_path / "nvidia/cublas/lib/libcublas.so.11", "int cublas(void) { return 1; }")
    source = "int cublas(void); int cudnn(void) { return cublas() + 1; }"
    cudnn = build(tmp_path / "nvidia/cudnn/lib/libcudnn.so.8", source, blas)
    package = tmp_path / "mxnet"
    source = "int cudnn(void); int mxnet(void) { return cudnn() + 1; }"
    build(package / "libmxnet.so", source, cudnn, driver / "libcuda.so.1")
    shutil.copy(cuda.library().parent / "libinfo.py", package)
    (package / "__init__.py").write_text(
        "import ctypes, os\n"
        "print(ctypes.CDLL(os.path.join(os.path.dirname(__file__), 'libmxnet.so')).mxnet())\n"
    )
    return tmp_path


ONE_WHEEL = "from segtrain.machines import cuda; cuda.wheels = lambda: ['mxnet-cu117']; "


def test_libraries_of_packages_are_loaded_before_mxnet(site, driver):
    code, text = python("import mxnet", site, driver=driver)
    assert code == 1 and "libcudnn.so.8: cannot open" in text
    code, text = python(ONE_WHEEL + "import mxnet", site, driver=driver)
    assert (code, text) == (0, "3\n")


def test_a_cuda_build_without_a_driver(site):
    code, text = python(ONE_WHEEL + "import mxnet", site)
    line = text.splitlines()[-1]
    assert code == 1 and "mxnet-cu117 is a CUDA build, and there is no NVIDIA driver here" in line
    assert "pip uninstall -y mxnet-cu117; pip install mxnet==1.9.1" in line


def test_a_library_that_is_nowhere(site, driver):
    (site / "nvidia/cudnn/lib/libcudnn.so.8").unlink()
    code, text = python(ONE_WHEEL + "import mxnet", site, driver=driver)
    assert code == 1
    assert "no libcudnn.so.8, which MXNet needs: pip install 'segtrain[cu117]' brings it" in text


@pytest.mark.parametrize("with_driver", [False, True])
def test_two_wheels_at_once(site, driver, with_driver):
    for name in ("mxnet", "mxnet-cu117"):
        about = site / f"{name.replace('-', '_')}-1.9.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.1\n")
    code, text = python("import segtrain, mxnet", site, driver=driver if with_driver else None)
    suitable = "mxnet-cu117" if with_driver else "mxnet"
    assert code == 1 and "mxnet and mxnet-cu117 are both installed" in text
    assert f"pip uninstall -y mxnet mxnet-cu117; pip install {suitable}==1.9.1" in text


def test_it_is_one_line_on_the_command_line(site):
    code, text = python(
        ONE_WHEEL + "import sys; sys.argv = ['segtrain', 'show', 'x.yaml']; "
        "from segtrain.cli import main; main()",
        site,
    )
    assert code == 2 and len(text.splitlines()) == 1 and text.startswith("segtrain: mxnet-cu117 is")


# ---- the cards


def test_cards_of_the_driver(driver):
    code, text = python(
        "from segtrain.machines import driver; print(driver.version(), *driver.cards(), sep='\\n')",
        driver=driver,
        STUB_CARDS="8.6 NVIDIA RTX A6000;9.0 NVIDIA H100",
    )
    assert code == 0, text
    rows = text.splitlines()
    assert rows[0] == "12.2" and len(rows) == 3
    assert "NVIDIA RTX A6000" in rows[1] and "capability=(8, 6)" in rows[1]
    assert "number=1" in rows[2] and f"memory={24 << 30}" in rows[2]


def test_a_driver_without_cards_and_no_driver(driver):
    code = "from segtrain.machines import driver; print(driver.version(), driver.cards())"
    assert python(code, driver=driver) == (0, "12.2 []\n")
    assert python(code)[1] in ("None []\n",) or os.path.exists("/dev/nvidia0")


def test_a_broken_driver(driver):
    code = "from segtrain.machines import driver; driver.cards()"
    code, text = python(code, driver=driver, STUB_ERROR="803", STUB_CARDS="")
    assert code == 1 and "cuInit answers with error 803" in text


CUDA_BUILD = """
import sys
from pathlib import Path
from segtrain.machines import cuda, devices
from segtrain.errors import UserError
cuda.library = lambda: Path({library!r})
devices.built_for_gpus = lambda: True
for text in {devices!r}:
    try:
        print(devices.contexts(text))
    except UserError as error:
        print(error)
"""


def contexts(library, driver, cards, *devices):
    """What a CUDA build with this library says of each `devices` on a machine with these cards."""
    code, text = python(
        CUDA_BUILD.format(library=str(library), devices=devices), driver=driver, STUB_CARDS=cards
    )
    assert code == 0, text
    return text.splitlines()


@pytest.mark.parametrize("card", ["9.0 NVIDIA H100", "12.0 NVIDIA RTX PRO 6000"])
def test_a_card_too_new_is_refused_with_the_cure(tmp_path, driver, card):
    library = with_code(tmp_path / "libmxnet.so", REAL)
    lines = contexts(library, driver, card, "gpu:0", "auto", "gpu")
    capability, name = card.split(" ", 1)
    reasons = [line for line in lines if "has compute capability" in line]
    assert len(reasons) == 3
    for reason in reasons:
        assert f"GPU 0 ({name}) has compute capability {capability}" in reason
        assert "has code for 5.0, 6.0, 7.0, 8.0, 8.6 alone" in reason and "container" in reason
    assert "[cpu(0)]" in lines
    assert "--devices gpu: there is no usable GPU; use --devices cpu" in lines


def test_a_card_that_is_not_there(tmp_path, driver):
    library = with_code(tmp_path / "libmxnet.so", REAL)
    second, third = contexts(library, driver, "8.0 A100;8.6 RTX 3090", "gpu:0,1", "gpu:2")
    assert second == "[gpu(0), gpu(1)]"
    assert "there is no GPU 2; the driver has 2" in third


def test_a_cpu_build():
    from segtrain.errors import UserError
    from segtrain.machines import devices

    if devices.built_for_gpus():
        pytest.skip("this MXNet is a CUDA build")
    with pytest.raises(UserError, match="CPU build.*segtrain\\[cu117\\]"):
        devices.contexts("gpu")
    assert [str(c) for c in devices.contexts("cpu:0,1")] == ["cpu(0)", "cpu(1)"]
    for wrong in ("", "cpu:", "gpus", "0,0", "cuda:0"):
        with pytest.raises(UserError):
            devices.contexts(wrong)


@pytest.mark.gpu
def test_on_real_cards(gpus):
    import mxnet as mx

    from segtrain.machines import devices

    assert devices.contexts("auto") == devices.contexts("gpu") == gpus
    for some in (gpus[:1], gpus[::2], gpus[::-1]):  # of three cards gpu:0,2
        named = ",".join(str(gpu.device_id) for gpu in some)
        assert devices.contexts(f"gpu:{named}") == devices.contexts(named) == some
        assert all((mx.nd.ones(3, ctx=gpu) * 2).asnumpy().tolist() == [2, 2, 2] for gpu in some)
