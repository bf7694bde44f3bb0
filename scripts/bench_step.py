"""A training step of segtrain against its peers', each in a process of its own, taking turns.

U-Net 32-64-128-256-512, 21 classes, batch 4, 256x256, SGD with momentum, on the CPU, with as many
threads for each as segtrain takes.

    gluon      the same network, hybridized, under gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    gluoncv    the same network in the loop of GluonCV's train.py for segmentation: DataParallelModel,
               MixSoftmaxCrossEntropyLoss, waitall, the loss read at each step
    gluoncv-own-threads  the same with the threads that MXNet takes by itself: half of the cores
    torch      the same architecture in PyTorch, eager, float32 (make bench-peers installs it)
    torch-nhwc as torch, in the channels_last memory format

With --profile also what is left to gain: the time of segtrain's step by operator, and what its
convolutions reach of this machine's peak in matrix products of float32, timed in the same rounds.

    python scripts/bench_step.py [--rounds 7] [--steps 2] [--profile] [--json FILE]
                                 [--torch .venv-peers/bin/python]
"""

import atexit
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import turns

from segtrain.prediction.threads import cores

WIDTHS, CLASSES, BATCH, SIDE = (32, 64, 128, 256, 512), 21, 4, 256
PEERS = ("gluon", "gluoncv", "gluoncv-own-threads", "torch", "torch-nhwc")
PROFILE = ("gemm", "profiled")
GEMM_SIDE = 3072
BARS = {
    "time of gluon": 1.12,
    "time of gluoncv": 1.3,
    "time of torch": 1.0,
    "time of torch-nhwc": 0.8,
    "memory of gluoncv": 1.11,
}


def batch():
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 3, SIDE, SIDE)).astype(np.uint8)
    return images, rng.integers(0, CLASSES, (BATCH, SIDE, SIDE)).astype(np.uint8)


# ---- the step of each


def _config():
    from segtrain.config import parse

    model = {"name": "unet", "widths": WIDTHS, "classes": CLASSES}
    return parse({"model": model, "train": {"lr": 0.01}})


def segtrain():
    import mxnet as mx
    import numpy as np

    from segtrain.data.loader import Batch
    from segtrain.training.learner import Learner

    class Truth:
        classes, ignore, ids = [str(i) for i in range(CLASSES)], 255, [""] * BATCH

    learner = Learner(_config(), Truth, np.ones(CLASSES), [mx.cpu()], 1000)
    images, masks = batch()
    made = Batch(images, masks, list(range(BATCH)))

    def step(number):
        learner.step(made, number)
        mx.nd.waitall()

    return step


def _network():
    import mxnet as mx

    from segtrain import models

    model = _config().model
    net = models.network(model, CLASSES)
    models.initialize(net, model, [mx.cpu()], 0)
    return net


def gluon():
    import mxnet as mx
    from mxnet import autograd
    from mxnet import gluon as g

    net = _network()
    net.hybridize(static_alloc=True, static_shape=True)
    loss = g.loss.SoftmaxCrossEntropyLoss(axis=1)
    loss.hybridize()
    options = {"learning_rate": 0.01, "momentum": 0.9, "wd": 1e-4}
    trainer = g.Trainer(net.collect_params(), "sgd", options)
    images, masks = batch()

    def step(number):
        x, y = mx.nd.array(images, dtype="uint8"), mx.nd.array(masks)
        with autograd.record():
            value = loss(net.heads(x)[0], y)
        value.backward()
        trainer.step(BATCH)
        mx.nd.waitall()

    return step


def gluoncv():
    import mxnet as mx
    import numpy as np
    from gluoncv.loss import MixSoftmaxCrossEntropyLoss
    from gluoncv.utils.parallel import DataParallelCriterion, DataParallelModel
    from mxnet import autograd
    from mxnet import gluon as g

    net = _network()
    net.hybridize()
    contexts = [mx.cpu(0)]
    parallel = DataParallelModel(net.heads, contexts, False)
    criterion = DataParallelCriterion(MixSoftmaxCrossEntropyLoss(aux=False), contexts, False)
    options = {"learning_rate": 0.01, "momentum": 0.9, "wd": 1e-4}
    trainer = g.Trainer(net.collect_params(), "sgd", options)
    images, masks = batch()

    def step(number):
        data = mx.nd.array(images, dtype="float32")
        targets = mx.nd.array(masks, dtype="int32")
        with autograd.record(True):
            losses = criterion(parallel(data), targets)
            mx.nd.waitall()
            autograd.backward(losses)
        trainer.step(BATCH)
        sum(np.mean(loss.asnumpy()) / len(losses) for loss in losses)
        mx.nd.waitall()

    return step


def gluoncv_own_threads():
    return gluoncv()


def torch(channels_last=False):
    import torch as t
    from torch import nn

    t.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def unit(a, b):
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip((3, *WIDTHS), WIDTHS))
            self.down = nn.ModuleList(nn.Sequential(*unit(a, b), *unit(b, b)) for a, b in pairs)
            ups = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in ups)
            self.merge = nn.ModuleList(nn.Sequential(*unit(2 * b, b), *unit(b, b)) for _, b in ups)
            self.head = nn.Conv2d(WIDTHS[0], CLASSES, 1)

        def forward(self, x):
            skips = []
            for level, block in enumerate(self.down):
                x = block(nn.functional.max_pool2d(x, 2) if level else x)
                skips.append(x)
            for up, merge, skip in zip(self.up, self.merge, skips[-2::-1]):
                x = merge(t.cat([skip, up(x)], dim=1))
            return self.head(x)

    form = t.channels_last if channels_last else t.contiguous_format
    net = UNet().to(memory_format=form)
    optimizer = t.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    rng = t.Generator().manual_seed(0)
    images = t.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=rng, dtype=t.uint8)
    masks = t.randint(0, CLASSES, (BATCH, SIDE, SIDE), generator=rng)
    mean = t.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    std = t.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)

    def step(number):
        x = ((images.float() - mean) / std).to(memory_format=form)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), masks).backward()
        optimizer.step()

    return step


def torch_nhwc():
    return torch(channels_last=True)


# ---- what is left to gain


def gemm():
    """A matrix product, by oneDNN like the convolutions."""
    import mxnet as mx

    x, w = (mx.nd.random.uniform(shape=(GEMM_SIDE, GEMM_SIDE)) for _ in "xw")

    def step(number):
        mx.nd.FullyConnected(x, w, no_bias=True, num_hidden=GEMM_SIDE).wait_to_read()

    return step


def profiled():
    """segtrain's step, which gives the seconds of each operator."""
    import mxnet as mx

    take = segtrain()
    scratch = Path(tempfile.mkdtemp()) / "profile.json"  # MXNet deletes it first: not os.devnull
    atexit.register(shutil.rmtree, scratch.parent, ignore_errors=True)
    mx.profiler.set_config(profile_all=True, aggregate_stats=True, filename=str(scratch))

    def step(number):
        mx.profiler.set_state("run")
        take(number)
        mx.profiler.set_state("stop")
        table = json.loads(mx.profiler.dumps(reset=True, format="json"))
        return {name: row["Total"] / 1000 for name, row in table["Time"]["operator"].items()}

    return step


def limit(answers):
    """Of the answers of PROFILE: operators, and the convolutions' share of a step and of the peak."""
    from segtrain.graph.graph import describe

    steps, tables = zip(*[(seconds, table) for seconds, _, table in answers["profiled"]])
    every = {name: statistics.median(t.get(name, 0) for t in tables) for name in tables[0]}
    # Forward and backward, transposed ones too.
    convolutions = sum(seconds for name, seconds in every.items() if name.endswith("onvolution"))
    # Of a step: forward, and backward to the data and to the weights.
    work = 3 * BATCH * describe(_config(), (SIDE, SIDE))["flops"]
    peak = 2 * GEMM_SIDE**3 / statistics.median(seconds for seconds, *_ in answers["gemm"])
    return {
        "seconds_of_operators": dict(sorted(every.items(), key=lambda item: -item[1])[:16]),
        "convolutions_of_step": convolutions / statistics.median(steps),
        "gemm_flops_per_second": peak,
        "convolutions_of_gemm": work / convolutions / peak,
        "least_seconds_per_step": work / peak,
    }


# ---- turns


def peer(step, library):
    """In a process of its own: a step for each turn; its seconds, the peak in bytes, what it found."""
    numbers = itertools.count()

    def turn():
        begun = time.perf_counter()
        found = step(next(numbers))
        seconds = time.perf_counter() - begun
        status = Path("/proc/self/status").read_text()
        return seconds, int(status.partition("VmHWM:")[2].split()[0]) * 1024, found

    turns.work(turn, library)


def started(name, torch):
    """The process that takes the steps of `name`."""
    more = {"MXNET_EXEC_BULK_EXEC_TRAIN": "0"} if name == "profiled" else {}  # in bulk it sees none
    if name in PEERS:
        more["MXNET_CPU_TEMP_COPY"] = "4"  # MXNet's default; segtrain sets another
    if "own" in name:
        more["OMP_NUM_THREADS"] = str(max(1, cores() // 2))
    return turns.Peer(torch if "torch" in name else sys.executable, __file__, name, environment=more)


def main():
    parser = turns.parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=2, help="in a row, in each round")
    parser.add_argument("--torch", default=".venv-peers/bin/python", help="a Python that has PyTorch")
    parser.add_argument("--profile", action="store_true", help="also what is left to gain")
    options = parser.parse_args()
    peers = [p for p in PEERS if "torch" not in p or Path(options.torch).exists()]
    names = ["segtrain", *peers, *(PROFILE if options.profile else ())]
    workers = {n: started(n, options.torch) for n in names}
    for worker in workers.values():  # the first steps plan memory and choose kernels
        worker(), worker()
    answers = {n: [] for n in names}
    for _ in range(options.rounds):
        for name, worker in workers.items():
            answers[name].append([worker() for _ in range(options.steps)])
    for worker in workers.values():
        worker.close()
    seconds = {n: [statistics.mean(s for s, *_ in turn) for turn in answers[n]] for n in names}
    peaks = {n: answers[n][-1][-1][1] for n in ["segtrain", *peers]}
    details = {"peak_bytes": peaks}
    if options.profile:
        details["limit"] = limit({n: sum(answers[n], []) for n in PROFILE})
    made = turns.result(
        __doc__,
        "step",
        options.rounds,
        "s per step",
        seconds,
        {
            **{f"time of {n}": turns.ratio(seconds[n], seconds["segtrain"]) for n in peers},
            **{f"memory of {n}": peaks[n] / peaks["segtrain"] for n in peers},
        },
        versions={k: v for worker in workers.values() for k, v in worker.versions.items()},
        settings={"steps in a row": options.steps},
        bars={"at least": BARS},
        details=details,
    )
    turns.finish(made, options.json)
    if options.profile:
        print(json.dumps(details["limit"], indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        peer(globals()[sys.argv[2].replace("-", "_")](), "torch" if "torch" in sys.argv[2] else "mxnet")
    else:
        main()
