"""Augmented training crops per second from PNG, JPEG and the cache, beside GluonCV and PyTorch.

All read CamVid's training pictures, as they are and saved anew as JPEG (quality 95), and make the same
kind of crop: scaled by 0.5 to 2, a random place, mirrored, blurred in half of the samples. Each with as
many worker processes, in turns; with one (the default) the figures are per core.

    segtrain    as `segtrain train` reads: PNG, JPEG, and decoded once (cache: ram)
    gluoncv     its SegmentationDataset (Pillow, `_sync_transform`, normalised) in Gluon's DataLoader
    torch       OpenCV, Albumentations 2 and PyTorch's DataLoader (make bench-peers installs them)

"decoded" is the limit: picture and mask are decoded in one thread, and nothing else is done, once by
segtrain's decoders and once by OpenCV's.

    python scripts/bench_data.py ../shared/data/camvid [--rounds 5] [--workers 1] [--json FILE]
"""

import sys
import tempfile
from pathlib import Path

import turns

CROP, BATCH, LOW, HIGH, VOID = 256, 8, 0.5, 2.0, 11
TORCH = Path(".venv-peers/bin/python")


def pairs(folder):
    """The picture and mask files of a folder `train`, which has PNG or JPEG pictures."""
    images = sorted((folder / "images").iterdir())
    return [(image, folder / "masks" / f"{image.stem}.png") for image in images]


def as_jpeg(root, home):
    """CamVid's training pictures as JPEG files, with the same masks; the new root."""
    import cv2

    folder = Path(home) / "train"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").symlink_to((root / "train/masks").absolute())
    for image, _ in pairs(root / "train"):
        to = folder / "images" / f"{image.stem}.jpg"
        cv2.imwrite(str(to), cv2.imread(str(image)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return Path(home)


# ---- each is a function that goes through an epoch and returns how many crops it made


def decoding(root, image, mask):
    import cv2

    files = pairs(root / "train")

    def epoch():
        cv2.setNumThreads(0)
        for picture, truth in files:
            image(picture)
            mask(truth)
        return len(files)

    return epoch


def decoders():
    import cv2

    from segtrain.data.files import read_image, read_mask

    return {
        "decoded": (read_image, read_mask),
        "decoded by OpenCV": (
            lambda path: cv2.imread(str(path)),
            lambda path: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE),
        ),
    }


def ours(root, workers, cache="none"):
    import mxnet as mx

    from segtrain.config import Data
    from segtrain.data.cache import cached
    from segtrain.data.dataset import open_split
    from segtrain.data.loader import open_loader
    from segtrain.data.scan import scan

    steps = [f"scale({LOW}, {HIGH})", "flip", "blur(1)"]
    data = Data(name="camvid", root=root, crop=[CROP, CROP], augment=steps, cache=cache)
    dataset = open_split(data, "train")
    kept = cached(dataset, data, scan(dataset, "train", data).sizes, 3)
    for index in range(len(kept.ids) if cache != "none" else 0):
        kept.read(index)  # a training's first epoch does this on the way
    loader, number = open_loader(kept, data, 3, BATCH, 0, workers), iter(range(10**6))

    def epoch():
        count = 0
        for batch in loader.epoch(next(number)):
            mx.nd.array(batch.images, dtype="uint8").wait_to_read()
            count += len(batch.indices)
        return count

    return epoch


def gluoncvs(root, workers):
    from gluoncv.data.segbase import SegmentationDataset
    from mxnet import gluon
    from mxnet.gluon.data.vision import transforms
    from PIL import Image

    class CamVid(SegmentationDataset):
        NUM_CLASS = VOID

        def __init__(self):
            normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            steps = transforms.Compose([transforms.ToTensor(), normal])
            super().__init__(str(root), "train", "train", steps, base_size=480, crop_size=CROP)
            self._files = pairs(root / "train")

        def __len__(self):
            return len(self._files)

        @property
        def pred_offset(self):
            return 0

        def __getitem__(self, index):
            image, mask = self._files[index]
            image, mask = self._sync_transform(Image.open(image).convert("RGB"), Image.open(mask))
            return self.transform(image), mask

    loader = gluon.data.DataLoader(
        CamVid(), BATCH, shuffle=True, last_batch="rollover", num_workers=workers
    )

    def epoch():
        count = 0
        for images, _ in loader:
            images.wait_to_read()
            count += len(images)
        return count

    return epoch


# ---- PyTorch's, which runs in an environment of its own


def torchs(root, workers):
    import albumentations as A  # noqa: N812
    import cv2
    import torch
    from torch.utils.data import DataLoader, Dataset

    steps = A.Compose(
        [
            A.RandomScale((LOW - 1, HIGH - 1), p=1),
            A.PadIfNeeded(CROP, CROP, border_mode=cv2.BORDER_REFLECT_101, fill_mask=VOID),
            A.RandomCrop(CROP, CROP),
            A.HorizontalFlip(p=0.5),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1), p=0.5),
        ]
    )

    class CamVid(Dataset):
        files = pairs(root / "train")

        def __len__(self):
            return len(self.files)

        def __getitem__(self, index):
            image, mask = self.files[index]
            image = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
            made = steps(image=image, mask=cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE))
            image = torch.from_numpy(made["image"].transpose(2, 0, 1).copy())
            return image, torch.from_numpy(made["mask"])

    loader = DataLoader(
        CamVid(),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )

    def epoch():
        return sum(len(images) for images, _ in loader)

    return epoch


def main():
    if sys.argv[1:2] == ["--work"]:
        turns.work(torchs(Path(sys.argv[2]), int(sys.argv[3])), "torch", "albumentations")
        return
    parser = turns.parser(__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--torch", type=Path, default=TORCH, help="a Python that has PyTorch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        measure(options, {"PNG": options.root, "JPEG": as_jpeg(options.root, home)})


def measure(options, roots):
    import segtrain  # noqa: F401  (sets the threads before MXNet is loaded)

    cases, libraries = {}, {}
    for form, root in roots.items():
        for name, how in decoders().items():
            cases[f"{name}, {form}"] = decoding(root, *how)
        cases[f"segtrain, {form}"] = ours(root, options.workers)
        cases[f"gluoncv, {form}"] = gluoncvs(root, options.workers)
        if options.torch.exists():
            peer = turns.Peer(options.torch, __file__, root, options.workers)
            cases[f"torch, {form}"] = peer
            libraries.update(peer.versions)
    cases["segtrain, cache"] = ours(options.root, options.workers, "ram")
    found = turns.take(cases, options.rounds)
    peers = ["gluoncv", "torch"] if libraries else ["gluoncv"]
    ratios = {
        f"{form} over {peer}": turns.ratio(found[f"segtrain, {form}"], found[f"{peer}, {form}"])
        for form in roots
        for peer in peers
    }
    for peer in peers:
        name = f"cache over {peer}, PNG"
        ratios[name] = turns.ratio(found["segtrain, cache"], found[f"{peer}, PNG"])
    shares = {  # of what one core could decode
        f"decoding, share of the time from {form}": turns.ratio(
            found[f"segtrain, {form}"], [s * max(options.workers, 1) for s in found[f"decoded, {form}"]]
        )
        for form in roots
    }
    bars = {f"{form} over gluoncv": 3 for form in roots}
    bars.update({f"{form} over torch": 1.2 for form in roots}, **{"cache over gluoncv, PNG": 8})
    made = turns.result(
        __doc__,
        "data",
        options.rounds,
        "images/s",
        found,
        {**ratios, **shares},
        bars={"at least": bars},
        versions=libraries,
        settings={"workers": options.workers, "crop": CROP, "batch": BATCH},
    )
    turns.finish(made, options.json)


if __name__ == "__main__":
    main()
