"""Masks as polygons along the pixels' edges, as GeoJSON or in COCO's format.

A polygon is a 4-connected region of one class. Its vertices are corners of pixels: x to the right, y
down, (0, 0) the image's upper left corner. So it holds exactly the region's pixels (their centres lie
in it), its area is their number, and it is a valid one by OGC's rules: no ring touches itself.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

import cv2
import numpy as np

BACKGROUND = "background"  # a class of this name has no polygons


class Region(NamedTuple):
    """A region of one class: its outline (n, 2) and its holes' outlines, int x and y."""

    class_id: int
    area: int  # pixels
    box: tuple[int, int, int, int]  # x, y, width, height
    outline: np.ndarray
    holes: List[np.ndarray]


def regions(mask: np.ndarray, classes: Sequence[str]) -> Iterator[Region]:
    """The regions of a mask (H, W) uint8, class by class, but for a class called background."""
    for class_id in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist():
        if classes[class_id].lower() == BACKGROUND:
            continue
        held = (mask == class_id).view(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(held, connectivity=4)
        for label in range(1, count):
            x, y, width, height, area = stats[label].tolist()
            inside = labels[y : y + height, x : x + width] == label
            outline, *holes = (ring + (x, y) for ring in _rings(inside))
            yield Region(class_id, area, (x, y, width, height), outline, holes)


def _rings(inside: np.ndarray) -> List[np.ndarray]:
    """The outline of a 4-connected region (h, w) bool, counterclockwise, and its holes', clockwise.

    OpenCV's contours go through pixels' centres. At twice the size each side of a pixel has a pixel
    of its own, which tells the edge that the contour goes along: 2x is the left one, 2x + 1 the right.
    """
    twice = inside.repeat(2, axis=0).repeat(2, axis=1).view(np.uint8)
    found, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    order = sorted(range(len(found)), key=lambda i: tree[0][i][3] >= 0)  # the outline has no parent
    rings = [_corners((found[i][:, 0] + 1) // 2) for i in order]
    return [ring if (_area(ring) > 0) == (i == 0) else ring[::-1] for i, ring in enumerate(rings)]


def _corners(ring: np.ndarray) -> np.ndarray:
    """A ring (n, 2) without points that repeat, or lie on the line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _area(ring: np.ndarray) -> float:
    """Twice the signed area of a ring (n, 2): positive where it turns from x to y."""
    (x, y), (u, v) = ring.T.astype(np.int64), np.roll(ring, -1, axis=0).T.astype(np.int64)
    return float((x * v - u * y).sum())


def geojson(mask: np.ndarray, classes: Sequence[str], source: str) -> Dict[str, Any]:
    """A FeatureCollection (RFC 7946, but in pixels): a Polygon for each region of a mask (H, W).

    Properties: class, id (the mask's value) and area in pixels.
    """
    features = [
        {
            "type": "Feature",
            "properties": {"class": classes[r.class_id], "id": r.class_id, "area": r.area},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[*ring.tolist(), ring[0].tolist()] for ring in (r.outline, *r.holes)],
            },
        }
        for r in regions(mask, classes)
    ]
    image = {"file": source, "height": mask.shape[0], "width": mask.shape[1]}
    return {"type": "FeatureCollection", "image": image, "features": features}


class Coco:
    """A COCO file of detection (cocodataset.org, "Data format"): an annotation for each region.

    A category's id is the mask's value. COCO's polygons have no holes: a hole's outline is joined to
    the region's by a line there and back, which encloses nothing.
    """

    def __init__(self, classes: Sequence[str]):
        self._classes = classes
        self._images: List[Dict[str, Any]] = []
        self._annotations: List[Dict[str, Any]] = []

    def add(self, mask: np.ndarray, source: str) -> None:
        """Add the regions of the mask (H, W) of an image file."""
        height, width = mask.shape
        image = {"id": len(self._images) + 1, "file_name": source, "height": height, "width": width}
        self._images.append(image)
        for region in regions(mask, self._classes):
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image["id"],
                    "category_id": region.class_id,
                    "segmentation": [_joined(region).ravel().tolist()],
                    "area": region.area,
                    "bbox": list(region.box),
                    "iscrowd": 0,
                }
            )

    def content(self) -> Dict[str, Any]:
        """The file's content."""
        named = [(i, c) for i, c in enumerate(self._classes) if c.lower() != BACKGROUND]
        categories = [{"id": class_id, "name": name} for class_id, name in named]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


def _joined(region: Region) -> np.ndarray:
    """The rings of a region as one."""
    ring = region.outline
    for hole in region.holes:
        near = int(np.abs(ring - hole[0]).sum(axis=1).argmin())
        ring = np.concatenate([ring[: near + 1], hole, hole[:1], ring[near:]])
    return ring
