"""The README.md of a bundle: what it is, how it did, and how to load it."""

from __future__ import annotations

from string import Template
from typing import Any, Dict


def text(about: Dict[str, Any]) -> str:
    """The README of the bundle that this model.json describes."""
    signals = about.get("form") is not None
    parts = [_HEAD, _SIGNALS if signals else _IMAGES]
    parts += [_ONNX, _TRITON] if "onnx" in about["formats"] else [_TRITON, _TRITON_PYTHON]
    if about["input"].get("order") == "RGB" and about["input"].get("depth") == 8:
        parts.append(_MULTI_MODEL_SERVER)
    values = {**_of_input(about), **_of_network(about)}
    return "\n".join(Template(part).substitute(values) for part in parts)


def _of_network(about: Dict[str, Any]) -> Dict[str, Any]:
    score, field = about["score"] or {}, about["receptive_field"]
    extent = field["extent"]
    size = extent if isinstance(extent, str) else " x ".join(map(str, extent))
    window = f"windows of {about['window']}, overlapping by {about['overlap']:g}"
    dtype = about["formats"]["mxnet"]["dtype"]
    return {
        "classes": ", ".join(f"{i} {name}" for i, name in enumerate(about["classes"])),
        "count": len(about["classes"]),
        "score": f"Validation mIoU {score['miou']:.4f}. " if score.get("miou") is not None else "",
        "field": size + ("" if field["exact"] else " at most"),
        "advice": f" For images too large for the memory: {window}." if about["window"] else "",
        "opset": about["formats"].get("onnx", {}).get("opset"),
        "backend": "onnxruntime" if "onnx" in about["formats"] else "python",
        "with": _OF_ONNX if "onnx" in about["formats"] else _OF_PYTHON,
        "dtype": dtype,
        "tensor": "UINT8" if dtype == "uint8" else "FP32",
        "formats": "\n".join(
            f"| {name} | {', '.join(entry['files'])} | {', '.join(entry['runtimes'])} "
            f"| {entry['bytes']:,} |"
            for name, entry in about["formats"].items()
        )
        + _STORED * ("int8" in about["formats"]),
    }


def _of_input(about: Dict[str, Any]) -> Dict[str, Any]:
    given, side = about["input"], about["side"]
    signals = about.get("form") is not None
    channels = len(given["channels"]) if signals else given["channels"]
    raw = "uint8" if given.get("depth") == 8 else "float32"
    return {
        "channels": channels,
        "dims": "L" if signals else "H, W",
        "order": ", ".join(given["channels"]) if signals else given["order"],
        "sides": "of any size" if side is None else f"{side} by {side} alone",
        "raw": raw,
        "read": _reading(channels, raw),
        "resize": f"\nimage = cv2.resize(image, ({side}, {side})).reshape({side}, {side}, -1)"
        * bool(side),
        "example": (1, channels, 1000) if signals else (1, channels, side or 333, side or 517),
        "free": "-1" if signals else f"{side or -1}, {side or -1}",
    }


def _reading(channels: int, raw: str) -> str:
    """How to read an image (H, W, C) of the network's kind."""
    if raw == "uint8" and channels in (1, 3):
        flag = "GRAYSCALE" if channels == 1 else "COLOR"
        turn = "[..., None]" if channels == 1 else "[..., ::-1]  # RGB"
        return f'image = cv2.imread("photo.png", cv2.IMREAD_{flag}){turn}'
    return f'image = np.load("photo.npy").astype("{raw}")  # (height, width, {channels})'


_STORED = """

MXNet stores int8's parameters in float32 and quantises them when they are loaded: it is faster, and its
file no smaller."""

_HEAD = """# A segmentation network

$count classes: $classes. ${score}Exported by segtrain.

It takes raw values (N, $channels, $dims), $order, $sides, normalises them itself, and gives class scores
(N, $count, $dims); a pixel's class is the one with the largest. Receptive field: $field.$advice
`model.json` says all this to programs, with the SHA-256 of each file; `parity.json` compares each format
with the network that was trained. If you had this bundle from elsewhere, run
`segtrain export --check BUNDLE` before you use it.

| format | files | runs in | bytes |
|---|---|---|---|
$formats
"""

_IMAGES = """## 1. As a program

```sh
python infer.py photo.png folder/ --out masks    # needs mxnet, numpy and opencv-python-headless
```

A mask is a palette PNG of the image's size; its pixels are class ids. `--gpu 0` runs on a GPU.

## 2. In Gluon: SymbolBlock

```python
import cv2
import mxnet as mx
import numpy as np

$read$resize
net = mx.gluon.SymbolBlock.imports("model-symbol.json", ["data"], "model-0000.params", ctx=mx.cpu())
scores = net(mx.nd.array(image.transpose(2, 0, 1)[None], dtype="$raw"))
mask = scores.argmax(axis=1)[0].astype("uint8").asnumpy()
```

## 3. In the symbolic API: Module

```python
import cv2
import mxnet as mx
import numpy as np

$read$resize
pixels = mx.nd.array(image.transpose(2, 0, 1)[None], dtype="$raw")
symbol, arguments, auxiliary = mx.model.load_checkpoint("model", 0)
module = mx.mod.Module(symbol, data_names=["data"], label_names=None, context=mx.cpu())
module.bind(for_training=False, data_shapes=[mx.io.DataDesc("data", pixels.shape, "$raw")])
module.set_params(arguments, auxiliary)
module.forward(mx.io.DataBatch([pixels]), is_train=False)
mask = module.get_outputs()[0].argmax(axis=1)[0].astype("uint8").asnumpy()
```
"""

_SIGNALS = """## 1. As a program

```sh
python infer.py record.csv folder/ --out labels    # needs mxnet, numpy and opencv-python-headless
```

It writes a CSV for each record: sample, time, class and its name. `--gpu 0` runs on a GPU.

## 2. In Gluon: SymbolBlock

```python
import mxnet as mx
import numpy as np

net = mx.gluon.SymbolBlock.imports("model-symbol.json", ["data"], "model-0000.params", ctx=mx.cpu())
signal = np.random.default_rng(0).normal(size=$example).astype("float32")
mask = net(mx.nd.array(signal)).argmax(axis=1)[0].astype("uint8").asnumpy()
```

## 3. In the symbolic API: Module

```python
import mxnet as mx
import numpy as np

signal = mx.nd.array(np.random.default_rng(0).normal(size=$example))
symbol, arguments, auxiliary = mx.model.load_checkpoint("model", 0)
module = mx.mod.Module(symbol, data_names=["data"], label_names=None, context=mx.cpu())
module.bind(for_training=False, data_shapes=[("data", signal.shape)])
module.set_params(arguments, auxiliary)
module.forward(mx.io.DataBatch([signal]), is_train=False)
mask = module.get_outputs()[0].argmax(axis=1)[0].astype("uint8").asnumpy()
```
"""

_ONNX = """## In ONNX Runtime, or OpenVINO

`model.onnx` is of opset $opset; its batch and sizes are free, and it takes $dtype alone.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
pixels = np.zeros($example, "$dtype")
mask = session.run(None, {"data": pixels})[0].argmax(axis=1)[0]
```
"""

_OF_ONNX = "`model.onnx`"
_OF_PYTHON = """`model-symbol.json`, `model-0000.params` and the `model.py` below,
for a Triton whose Python has MXNet (for its ONNX Runtime backend: `segtrain export --format onnx`)"""

_TRITON = """## In Triton Inference Server

`models/segmenter/config.pbtxt`, and beside it the folder `1` with $with:

```
backend: "$backend"
max_batch_size: 8
input [{ name: "data" data_type: TYPE_$tensor dims: [$channels, $free] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [$count, $free] }]
```
"""

_TRITON_PYTHON = """
```python
import mxnet as mx
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        home = f"{args['model_repository']}/{args['model_version']}/model"
        files = f"{home}-symbol.json", ["data"], f"{home}-0000.params"
        self.net = mx.gluon.SymbolBlock.imports(*files)
    def scores(self, request):
        data = triton.get_input_tensor_by_name(request, "data").as_numpy()
        found = self.net(mx.nd.array(data, dtype=data.dtype)).asnumpy()
        return triton.InferenceResponse([triton.Tensor("scores", found)])
    def execute(self, requests):
        return [self.scores(request) for request in requests]
```
"""

_MULTI_MODEL_SERVER = """## In Multi Model Server

This as `service.py` in a copy of the bundle; then `model-archiver --model-name segmenter --model-path
COPY --handler service:handle`, and `multi-model-server --start --model-store . --models segmenter.mar`:

```python
import cv2, mxnet as mx, numpy as np

def handle(requests, context, loaded=[]):
    home = f"{context.system_properties['model_dir']}/model"
    files = f"{home}-symbol.json", ["data"], f"{home}-0000.params"
    loaded[:] = loaded or [mx.gluon.SymbolBlock.imports(*files)]
    def mask(request):
        image = cv2.imdecode(np.frombuffer(request["body"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        scores = loaded[0](mx.nd.array(image.transpose(2, 0, 1)[None], dtype="uint8"))
        return cv2.imencode(".png", scores.argmax(axis=1)[0].astype("uint8").asnumpy())[1].tobytes()
    return [mask(request) for request in requests or []]
```
"""
