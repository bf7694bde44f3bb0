"""Bundles from elsewhere: whole ones pass, and damaged or doctored ones are refused, unrun."""

import hashlib
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
from conftest import run

CONFIG = """
model: {name: unet, widths: [4, 8], units: 1}
data: {name: shapes, size: [32, 32], train: 4, val: 2, crop: [32, 32], workers: 0}
train: {epochs: 1, batch: 4}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("bundles")
    (home / "c.yaml").write_text(CONFIG)
    for command in (("train", home / "c.yaml", "--out", home / "run"), ("export", home / "run")):
        code, text = run(*command, *(("--out", home / "bundle") if command[0] == "export" else ()))
        assert code == 0, text
    return home / "bundle"


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def seal(bundle, *names):
    """Bring the checksums in line with the files, as somebody would who doctors a bundle."""

    def change(about):
        for name in names:
            about["sha256"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()

    edit(bundle / "model.json", change)


def test_a_whole_one(bundle):
    code, text = run("export", "--check", bundle, "--json", "-")
    assert code == 0 and "whole" in text and '"mxnet"' in text


def of_symbol(change):
    def doctor(bundle):
        edit(bundle / "model-symbol.json", change)
        seal(bundle, "model-symbol.json")

    return doctor


def of_about(change):
    return lambda bundle: edit(bundle / "model.json", change)


def rename_file(about, name):
    old = about["formats"]["mxnet"]["files"][1]
    about["formats"]["mxnet"]["files"][1] = name
    about["sha256"][name] = about["sha256"].pop(old)


def append(name, content=b"x", sealed=False):
    def doctor(bundle):
        (bundle / name).write_bytes((bundle / name).read_bytes() + content)
        if sealed:
            seal(bundle, name)

    return doctor


def link(bundle):
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to("/etc/hostname")


def link_of_all(bundle):
    shutil.move(bundle, f"{bundle}-elsewhere")
    bundle.mkdir()
    for path in bundle.with_name("bundle-elsewhere").iterdir():
        (bundle / path.name).symlink_to(path)


def swap_arrays(bundle):
    import mxnet as mx

    arrays = mx.nd.load(str(bundle / "model-0000.params"))
    arrays["arg:other"] = arrays.pop(sorted(arrays)[0])
    mx.nd.save(str(bundle / "model-0000.params"), arrays)
    seal(bundle, "model-0000.params")


def fail_parity(bundle):
    edit(bundle / "parity.json", lambda p: p["formats"]["mxnet"].update(passed=False))
    seal(bundle, "parity.json")


def truncate(bundle):
    content = (bundle / "model-0000.params").read_bytes()
    (bundle / "model-0000.params").write_bytes(content[:-9])
    seal(bundle, "model-0000.params")


def custom(graph):
    node = next(n for n in graph["nodes"] if n["op"] == "Activation")
    node.update(op="Custom", attrs={"op_type": "mine"})


def native(graph):
    graph["nodes"][-1].update(op="_Native", attrs={"info": "1234"})


def hidden(graph):
    inner = {"nodes": [{"op": "_cvimread", "name": "x", "inputs": []}], "heads": [[0, 0, 0]]}
    graph["nodes"][-1]["subgraphs"] = [inner]


def backwards(graph):
    graph["nodes"][-1]["inputs"] = [[len(graph["nodes"]) + 7, 0, 0]]


def file_reader(graph):
    graph["nodes"][-1].update(op="_npi_cvimread", attrs={"filename": "/etc/passwd"})


def replace(name, content):
    def doctor(bundle):
        (bundle / name).write_bytes(content)
        seal(bundle, name)

    return doctor


def huge(name, size=2**27):
    """A sparse file: nothing on the disk, and far too much for the memory if it were read whole."""

    def doctor(bundle):
        (bundle / name).unlink()
        with open(bundle / name, "wb") as file:
            file.truncate(size)
        if name != "model.json":
            seal(bundle, name)

    return doctor


def parameters(*numbers, code="QQQ"):
    return replace("model-0000.params", struct.pack("<" + code, *numbers))


def pipe(bundle):
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")


ARRAY = (0x112, 0, 1, 0xF993FAC9, 0, 1)  # a list of one array, dense, with one axis
PICKLED = pickle.dumps({"arg:weight": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("doctor", "says"),
    [
        (append("model-0000.params"), "its checksum is another one"),
        (append("model-symbol.json", b" "), "its checksum is another one"),
        (append("README.md"), "its checksum is another one"),
        (append("infer.py", b"\nimport os\n", sealed=True), "infer.py isn't segtrain"),
        (lambda b: (b / "numpy.py").write_text("raise SystemExit"), "numpy.py is no part of a bundle"),
        (lambda b: (b / "more").mkdir(), "plain files alone"),
        (lambda b: (b / "parity.json").unlink(), "parity.json is missing"),
        (lambda b: (b / "model.json").unlink(), "no bundle, or not a whole one"),
        (lambda b: (b / "model.json").write_text("{"), "damaged: it is no JSON"),
        (lambda b: (b / "model.json").write_text("[" * 99999), "damaged: it is no JSON"),
        (lambda b: shutil.rmtree(b), "no such folder"),
        (link, "no links"),
        (link_of_all, "no links"),
        (of_about(lambda a: a.update(schema=99)), "schema 99"),
        (of_about(lambda a: a.update(stride="8; rm")), "stride"),
        (of_about(lambda a: a.update(more=1)), "more"),
        (of_about(lambda a: a.pop("classes")), "classes is missing"),
        (of_about(lambda a: rename_file(a, "../../model-0000.params")), "model-0000.params"),
        (of_about(lambda a: rename_file(a, "/etc/passwd")), "/etc/passwd"),
        (
            of_about(lambda a: a["formats"]["mxnet"].update(files=["infer.py", "README.md"])),
            "named twice",
        ),
        (of_about(lambda a: a["formats"].update(mxnet2=a["formats"]["mxnet"])), "named twice"),
        (of_symbol(custom), "the operator 'Custom'"),
        (of_symbol(native), "the operator '_Native'"),
        (of_symbol(hidden), "the operator '_cvimread'"),
        (of_symbol(backwards), "no symbol of MXNet's"),
        (of_symbol(lambda g: g.pop("heads")), "no symbol of MXNet's"),
        (of_symbol(lambda g: g["nodes"][0].update(name="pixels")), "no input 'data'"),
        (truncate, "no file of MXNet's parameters"),
        (swap_arrays, "doesn't hold the parameters of its symbol"),
        (fail_parity, "did not pass"),
        (pipe, "plain files alone"),
        (huge("model.json"), "too large"),
        (huge("model-symbol.json"), "too large"),
        (huge("model-0000.params"), "no file of MXNet's parameters"),
        (replace("model-0000.params", b""), "no file of MXNet's parameters"),
        (replace("model-0000.params", PICKLED), "no file of MXNet's parameters"),
        (parameters(0x112, 0, 2**63), "no file of MXNet's parameters"),
        (parameters(0x112, 0, 0, 1, 2**64 - 1, code="QQQQQ"), "no file of MXNet's parameters"),
        (parameters(*ARRAY, 2**62, 1, 0, 0, code="QQQIiIqiii"), "no file of MXNet's parameters"),
        (parameters(*ARRAY, -4, 1, 0, 0, code="QQQIiIqiii"), "no file of MXNet's parameters"),
        (parameters(*ARRAY, 1, 1, 0, 99, code="QQQIiIqiii"), "no file of MXNet's parameters"),
        (of_symbol(file_reader), "the operator '_npi_cvimread'"),
        (of_about(lambda a: a["formats"].update(evil={**a["formats"]["mxnet"]})), "named twice"),
        (of_about(lambda a: a["formats"]["mxnet"].update(runtimes=["onnxruntime"])), "runs in mxnet"),
        (of_about(lambda a: a["formats"]["mxnet"].update(runtimes=["python"])), "runtimes"),
        (of_about(lambda a: a["formats"].update({"../../x": a["formats"]["mxnet"]})), "../../x"),
        (of_about(lambda a: a.update(stride=10**12)), "stride"),
        (of_about(lambda a: a.update(palette=a["palette"][:3])), "palette"),
    ],
)
def test_a_doctored_one_is_refused_in_one_line(bundle, doctor, says):
    doctor(bundle)
    code, text = run("export", "--check", bundle)
    assert code == 1 and says in text and text.count("\n") == 1, text


def test_code_that_claims_to_be_another_versions_is_not_vouched_for(bundle):
    """Else a changed infer.py would pass by a changed version."""
    append("infer.py", b"\nimport os\n", sealed=True)(bundle)
    edit(bundle / "model.json", lambda about: about.update(segtrain="0.0.1"))
    code, text = run("export", "--check", bundle, "--json", "-")
    assert (
        code == 0
        and '"code_compared": false' in text
        and "read it before you run" in " ".join(text.split())
    )


@pytest.mark.parametrize("change", [custom, native, file_reader])
def test_operators_that_run_foreign_code_are_not_loaded_unchecked(bundle, tmp_path, change):
    """`predict` without `export --check` before it: MXNet never sees the symbol."""
    of_symbol(change)(bundle)
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), np.uint8))
    code, text = run("predict", bundle, tmp_path / "a.npy", "--out", tmp_path / "out")
    assert code == 2 and "runs foreign code" in text, text


def test_the_check_loads_no_framework_and_runs_nothing(bundle, tmp_path):
    import subprocess
    import sys

    program = (
        "import sys; from segtrain.export.bundle import check; from pathlib import Path\n"
        "check(Path(sys.argv[1])); assert not {'mxnet', 'infer', 'runtimes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(bundle)], check=True)


@pytest.mark.parametrize("name", ["model-0000.params", "model-symbol.json"])
def test_a_changed_network_is_not_loaded(bundle, tmp_path, name):
    append(name, b"\n")(bundle)
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), np.uint8))
    code, text = run("predict", bundle, tmp_path / "a.npy", "--out", tmp_path / "out")
    assert code == 2 and f"{name} is damaged or was changed" in text


@pytest.mark.parametrize("name", ["model.json", "model-symbol.json"])
def test_nesting_without_an_end_is_refused_at_loading_too(bundle, tmp_path, name):
    (bundle / name).write_text("[" * 99999)
    if name != "model.json":
        seal(bundle, name)
    code, text = run("predict", bundle, tmp_path, "--out", tmp_path / "out")
    assert code == 2 and f"{name} is damaged" in text and "internal" not in text, text


def test_a_bundle_of_another_schema_is_named(bundle, tmp_path):
    edit(bundle / "model.json", lambda about: about.update(schema=1))
    code, text = run("predict", bundle, tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "has the schema 1, and 2 is wanted" in text


def test_usage(tmp_path):
    code, text = run("export", tmp_path)
    assert code == 2 and "segtrain export RUN --out BUNDLE" in text
    code, text = run("export", tmp_path, "--check", tmp_path)
    assert code == 2 and "goes alone" in text
    code, text = run("export", tmp_path, "--out", tmp_path / "o", "--format", "onx")
    assert code == 2 and "formats: no 'onx'" in text


def test_loading_too_stays_within_the_folder(tmp_path):
    from segtrain.prediction import runtimes

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (tmp_path / "secret").write_text("x")
    (bundle / "link").symlink_to(tmp_path / "secret")
    for file in ("../secret", str(tmp_path / "secret"), "link"):
        about = {"sha256": {file: runtimes.checksum(bundle / file)}}
        with pytest.raises(runtimes.BundleError, match="not a file of the bundle's own"):
            runtimes.verify(bundle, about, [file])
